"""Versions appear all at once, under numbers of their own, or not at all."""

import ctypes
import os
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from servable.cli.commands import servable
from servable.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServingError,
)
from servable.export import publishing
from servable.export.publishing import publish, staged
from servable.export.steps import Step, heard_by


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "variables").mkdir(parents=True)
    (made / "saved_model.pb").write_bytes(b"graph")
    (made / "variables" / "variables.index").write_bytes(b"index")
    (made / "variables" / "variables.data-00000-of-00001").write_bytes(b"data")
    return made


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "models" / "m"


def names(base: Path) -> list[str]:
    return sorted(child.name for child in base.iterdir())


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        pytest.param([], "1", id="the first is 1"),
        pytest.param(["1", "9", "10"], "11", id="numbers are no texts"),
        pytest.param(["1700000000"], "1700000001", id="after a time"),
        pytest.param(["notes", "temp-5"], "1", id="other names are none"),
        pytest.param(["007"], "8", id="leading zeros"),
    ],
)
def test_the_next_number(
    model: Path, base: Path, there: list[str], expected: str
) -> None:
    for name in there:
        (base / name).mkdir(parents=True)

    published = publish(model, base)

    assert published == base / expected
    assert names(base) == sorted([*there, expected])
    assert (published / "variables" / "variables.index").read_bytes() == b"index"


@pytest.mark.parametrize(
    ("there", "keep", "expected"),
    [
        pytest.param(["1", "2", "3"], 2, ["3", "4"], id="the newest are kept"),
        pytest.param(["1"], 5, ["1", "2"], id="fewer than may be"),
        pytest.param(["1", "x", "2"], 1, ["3", "x"], id="what is no version is kept"),
    ],
)
def test_old_versions_go(
    model: Path, base: Path, there: list[str], keep: int, expected: list[str]
) -> None:
    for name in there:
        (base / name).mkdir(parents=True)

    publish(model, base, keep=keep)

    assert names(base) == expected


def test_a_version_that_was_asked_for_is_kept_though_it_is_old(
    model: Path, base: Path
) -> None:
    for name in ("5", "6"):
        (base / name).mkdir(parents=True)

    publish(model, base, version=2, keep=1)

    assert names(base) == ["2", "6"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param({"keep": 0}, InvalidArgument, "keep must be", id="keep none"),
        pytest.param({"version": -1}, InvalidArgument, "version must", id="negative"),
        pytest.param(
            {"version": 3}, AlreadyExists, "has a version 3 already", id="taken"
        ),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    model: Path,
    base: Path,
    arguments: dict[str, int],
    error: type[ServingError],
    message: str,
) -> None:
    (base / "3" / "files").mkdir(parents=True)

    with pytest.raises(error, match=message):
        publish(model, base, **arguments)

    assert names(base) == ["3"]


def test_an_empty_directory_of_somebody_else_is_not_replaced(
    model: Path, base: Path
) -> None:
    (base / "3").mkdir(parents=True)

    with pytest.raises(AlreadyExists):
        publish(model, base, version=3)


@pytest.mark.parametrize(
    ("missing", "error", "message"),
    [
        pytest.param("saved_model.pb", NotFound, "is no SavedModel", id="the graph"),
        pytest.param(
            "variables/variables.index",
            FailedPrecondition,
            "variables.index is missing",
            id="the index of the variables",
        ),
    ],
)
def test_half_a_model_is_not_published(
    model: Path, base: Path, missing: str, error: type[ServingError], message: str
) -> None:
    (model / missing).unlink()

    with pytest.raises(error, match=message):
        publish(model, base)

    assert not base.exists()


def test_publishers_at_one_time_get_different_numbers(model: Path, base: Path) -> None:
    published: list[Path] = []
    barrier = threading.Barrier(8)

    def run() -> None:
        barrier.wait()
        for _ in range(4):
            published.append(publish(model, base))  # noqa: PERF401

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(int(path.name) for path in published) == list(range(1, 33))
    assert names(base) == sorted(path.name for path in published)


def test_where_the_system_cannot_rename_exclusively(
    model: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: None)
    (base / "3" / "files").mkdir(parents=True)

    assert publish(model, base).name == "4"
    with pytest.raises(AlreadyExists):
        publish(model, base, version=3)


def test_what_fails_while_it_is_written_is_deleted(base: Path) -> None:
    def write() -> None:
        with staged(base) as staging:
            (staging.path / "half").write_text("…")
            raise KeyboardInterrupt

    base.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        write()

    assert names(base) == []


def test_nothing_is_seen_before_it_is_published(model: Path, base: Path) -> None:
    with staged(base) as staging:
        (staging.path / "saved_model.pb").write_bytes(b"graph")
        before = publishing.versions_in(base)
        published = staging.publish()

    assert before == {}
    assert names(base) == [published.name]
    assert model.exists()


def test_how_far_it_is_can_be_told(model: Path, base: Path) -> None:
    steps: list[Step] = []
    with heard_by(steps.append), staged(base) as staging:
        staging.copy(model)
        copying = steps[0]
        assert copying.done is not None
        assert (copying.done(), copying.total) == (14, 14)
        staging.publish()

    assert [step.what for step in steps] == ["copying", "writing to disk"]


def test_what_killed_publishers_left_is_deleted_after_a_day(
    model: Path, base: Path
) -> None:
    for name, age_s in (("old", 25 * 3600), ("new", 3600)):
        left = base / f".servable-{name}"
        left.mkdir(parents=True)
        os.utime(left, (time.time() - age_s,) * 2)

    publish(model, base)

    assert names(base) == [".servable-new", "1"]


def test_a_base_path_that_is_a_file_is_an_error(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(FailedPrecondition, match="file is a file, and no directory"):
        publish(model, tmp_path / "file")


def test_a_base_path_that_was_made_in_vain_goes(tmp_path: Path) -> None:
    base = tmp_path / "somewhere" / "models"
    with pytest.raises(RuntimeError), staged(base):
        raise RuntimeError

    assert not base.exists()


def test_a_place_elsewhere_is_no_directory(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgument, match="s3://bucket/m is no directory"):
        publish(model, "s3://bucket/m")

    assert names(tmp_path) == ["model"]


def test_the_command(model: Path, base: Path) -> None:
    result = CliRunner().invoke(servable, ["publish", str(model), str(base)])
    again = CliRunner().invoke(
        servable, ["publish", str(model), str(base), "--as-version=1"]
    )

    assert (result.exit_code, result.output) == (0, f"{base / '1'}\n")
    assert again.exit_code == 1
    assert again.output == f"ALREADY_EXISTS: {base} has a version 1 already\n"
