"""Versions in object stores and databases."""

import importlib.util
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from servable.apis import saved_model_pb2
from servable.cli.commands import servable
from servable.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from servable.export import uploading
from servable.export.steps import Step, heard_by
from servable.export.uploading import upload
from servable.sources import filesystems
from servable.sources.database import ModelDatabase
from servable.sources.object_store import ObjectStore

fsspec = pytest.importorskip("fsspec", reason="needs fsspec")

URL = "memory://bucket/models/m"


@pytest.fixture
def store() -> Iterator[Any]:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "variables").mkdir(parents=True)
    (made / "saved_model.pb").write_bytes(b"graph")
    (made / "variables" / "variables.index").write_bytes(b"index")
    (made / "variables" / "variables.data-00000-of-00001").write_bytes(b"data")
    return made


def test_all_files_of_a_version_arrive_the_graph_last(
    store: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    put_file = type(store).put_file

    def record(self: Any, local: str, remote: str, **options: Any) -> None:
        order.append(Path(local).name)
        put_file(self, local, remote, **options)

    monkeypatch.setattr(type(store), "put_file", record)

    assert upload(model, URL) == f"{URL}/1"
    assert order[-1] == "saved_model.pb"
    assert store.cat("/bucket/models/m/1/variables/variables.index") == b"index"


def test_numbers_go_up_and_old_versions_go(store: Any, model: Path) -> None:
    for _ in range(3):
        upload(model, URL, keep=2)

    names = sorted(Path(path).name for path in store.ls("/bucket/models/m", False))
    assert names == ["2", "3"]


def test_what_cannot_be_published(store: Any, model: Path, tmp_path: Path) -> None:
    upload(model, URL, version=7)

    with pytest.raises(AlreadyExists, match="has a version 7 already"):
        upload(model, URL, version=7)
    with pytest.raises(NotFound, match="is no SavedModel"):
        upload(tmp_path, URL)
    with pytest.raises(InvalidArgument, match="keep must be"):
        upload(model, URL, keep=0)
    with pytest.raises(InvalidArgument, match="nothing-like-this"):
        upload(model, "nothing-like-this://bucket/m")
    assert [Path(p).name for p in store.ls("/bucket/models/m", False)] == ["7"]


def test_an_upload_that_fails_leaves_nothing(
    store: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_file = type(store).put_file

    def fail(self: Any, local: str, remote: str, **options: Any) -> None:
        if local.endswith("saved_model.pb"):
            raise OSError("the store is full\nRequestId: 7")
        put_file(self, local, remote, **options)

    monkeypatch.setattr(type(store), "put_file", fail)

    with pytest.raises(Unavailable, match=r"the store is full$"):
        upload(model, URL)

    assert store.find("/bucket/models/m") == []


def test_a_version_is_claimed_until_it_is_whole(
    store: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what a killed publisher has left servers make nothing."""
    seen = []
    put_file = type(store).put_file

    def record(self: Any, local: str, remote: str, **options: Any) -> None:
        put_file(self, local, remote, **options)
        seen.append(ObjectStore(URL).content("1").is_claimed)

    monkeypatch.setattr(type(store), "put_file", record)
    upload(model, URL)

    assert (seen, ObjectStore(URL).content("1").is_claimed) == ([True] * 3, False)


def test_what_killed_publishers_left_is_deleted_after_a_day(
    store: Any, model: Path
) -> None:
    for number, age in (("1", timedelta(hours=25)), ("2", timedelta(hours=1))):
        claim = f"/bucket/models/m/{number}/.servable-theirs"
        store.pipe_file(claim, b"")
        store.pipe_file(f"/bucket/models/m/{number}/half", b"")
        store.store[claim].modified = datetime.now(UTC) - age

    assert upload(model, URL) == f"{URL}/3"

    names = sorted(Path(path).name for path in store.ls("/bucket/models/m", False))
    assert names == ["2", "3"]


@pytest.mark.parametrize("deletions", [0, 1, 2, 3])
def test_a_version_half_deleted_is_none_and_goes_after_a_day(
    store: Any, model: Path, monkeypatch: pytest.MonkeyPatch, deletions: int
) -> None:
    """Whatever a publisher that was killed has deleted of an old version."""
    upload(model, URL)
    left = iter(range(deletions))

    def until_killed(delete: Callable[..., None]) -> Callable[..., None]:
        def remove(self: Any, path: str, **options: Any) -> None:
            if "/m/1" in path and next(left, None) is None:
                raise KeyboardInterrupt
            delete(self, path, **options)

        return remove

    with monkeypatch.context() as killed:
        for name in ("rm_file", "rm"):
            killed.setattr(type(store), name, until_killed(getattr(type(store), name)))
        with pytest.raises(KeyboardInterrupt):
            upload(model, URL, keep=1)

    assert ObjectStore(URL).content("1").is_claimed

    for path in store.glob("/bucket/models/m/1/.servable-*"):
        store.store[path].modified -= timedelta(hours=25)
    upload(model, URL, keep=2)

    names = sorted(Path(path).name for path in store.ls("/bucket/models/m", False))
    assert names == ["2", "3"]


def test_how_far_it_is_can_be_told(store: Any, model: Path) -> None:
    steps: list[Step] = []
    with heard_by(steps.append):
        upload(model, URL)

    assert store.exists("/bucket/models/m/1")
    (step,) = steps
    assert step.done is not None
    assert (step.what, step.done(), step.total) == ("uploading", 14, 14)


def test_who_publishes_is_told_what_to_install(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "gcsfs" else find_spec(name),
    )

    result = CliRunner().invoke(servable, ["publish", str(model), "gs://bucket/m"])

    assert result.exit_code == 1
    assert result.output == (
        "FAILED_PRECONDITION: Base paths with gs:// need the package gcsfs; "
        "install it with: pip install 'servable[gcs]'\n"
    )


def test_a_package_that_is_missing_is_named_by_its_extra(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_import_error(*_: Any, **__: Any) -> None:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec.core, "url_to_fs", raise_import_error)

    with pytest.raises(FailedPrecondition, match=r"pip install 'servable\[gcs\]'"):
        upload(model, "gs://bucket/m")


def test_publishers_at_one_time_get_different_numbers(
    store: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All have looked for the next number before the first claims one."""
    listed, looks = threading.Barrier(4, timeout=30), iter(range(4))
    versions = uploading._versions

    def look(*arguments: Any) -> dict[int, str]:
        found = versions(*arguments)
        if next(looks, None) is not None:
            listed.wait()
        return found

    monkeypatch.setattr(uploading, "_versions", look)
    with ThreadPoolExecutor(4) as threads:
        published = list(threads.map(lambda _: upload(model, URL), range(4)))

    assert sorted(published) == [f"{URL}/{number}" for number in (1, 2, 3, 4)]
    assert len(store.find("/bucket/models/m")) == 4 * 3


def test_who_finds_somebody_else_at_a_number_leaves_it(
    store: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions, is_stale = uploading._versions, iter([True])
    store.pipe_file("/bucket/models/m/1/.servable-theirs", b"")
    monkeypatch.setattr(
        uploading,
        "_versions",
        lambda *where: {} if next(is_stale, False) else versions(*where),
    )

    assert upload(model, URL, keep=1) == f"{URL}/2"
    assert store.find("/bucket/models/m/1") == ["/bucket/models/m/1/.servable-theirs"]


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        pytest.param(("s3", "s3a"), [], id="a bucket would be made"),
        pytest.param("abfs", [], id="a container would be made"),
        pytest.param("sftp", ["there/m"], id="directories are some"),
    ],
)
def test_directories_are_made_where_there_are_any(
    protocol: str | tuple[str, ...], expected: list[str]
) -> None:
    made: list[str] = []
    filesystem = SimpleNamespace(
        protocol=protocol, makedirs=lambda path, **_: made.append(path)
    )

    uploading._make_directory(filesystem, "there/m")

    assert made == expected


def test_a_model_of_one_file_is_published(store: Any, tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"graph")

    upload(tmp_path, URL)

    assert store.find("/bucket/models/m") == ["/bucket/models/m/1/saved_model.pb"]


def test_the_command_publishes_to_stores(store: Any, model: Path) -> None:
    result = CliRunner().invoke(servable, ["publish", str(model), URL])

    assert (result.exit_code, result.output) == (0, f"{URL}/1\n")
    assert store.exists("/bucket/models/m/1/saved_model.pb")


def test_the_command_opens_stores_as_servers_do(
    store: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, filesystems.Patience]] = []

    def open_store(scheme: str, patience: filesystems.Patience) -> Any:
        opened.append((scheme, patience))
        return store

    kind = filesystems.Kind("fsspec", "http", open_store)
    monkeypatch.setattr(filesystems, "KINDS", {**filesystems.KINDS, "memory": kind})
    filesystems.forget()
    result = CliRunner().invoke(servable, ["publish", str(model), URL])
    filesystems.forget()

    assert (result.exit_code, result.output) == (0, f"{URL}/1\n")
    assert opened == [("memory", filesystems.WRITING)]


def test_exports_go_to_stores(store: Any, model: Path) -> None:
    graph = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    (model / "saved_model.pb").write_bytes(graph.SerializeToString())
    command = ["export", str(model), URL, "--no-check", "--as-version=7"]
    result = CliRunner().invoke(servable, command)

    assert (result.exit_code, result.output) == (0, f"{URL}/7\n")
    assert store.exists("/bucket/models/m/7/saved_model.pb")


def test_the_command_publishes_to_databases(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy", reason="needs sqlalchemy")
    url = f"sqlite:///{tmp_path / 'models.db'}"

    unnamed = CliRunner().invoke(servable, ["publish", str(model), url])
    named = CliRunner().invoke(servable, ["publish", str(model), url, "--model=m"])

    behind = CliRunner().invoke(servable, ["publish", str(model), f"{url}#m"])
    other = CliRunner().invoke(
        servable, ["publish", str(model), f"{url}#m", "--model=n"]
    )

    assert unnamed.exit_code == 1
    assert "say which, with --model" in unnamed.output
    assert (named.exit_code, named.output) == (0, "version 1 of m\n")
    assert (behind.exit_code, behind.output) == (0, "version 2 of m\n")
    assert other.output == "INVALID_ARGUMENT: --model says n, and the base path m\n"


def test_databases_keep_as_many_versions_as_are_wanted(
    model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("sqlalchemy", reason="needs sqlalchemy")
    url = f"sqlite:///{tmp_path / 'models.db'}"
    for _ in range(3):
        command = ["publish", str(model), url, "--model=m", "--keep=2"]
        assert CliRunner().invoke(servable, command).exit_code == 0

    assert [row.version for row in ModelDatabase(url).rows("m")] == [2, 3]


def test_a_bucket_that_is_not_there_is_one_line(
    store: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: object, *_: object, **_options: object) -> None:
        raise FileNotFoundError("https://store.net/bucket")

    monkeypatch.setattr(type(store), "put_file", fail)
    monkeypatch.setattr(type(store), "pipe_file", fail)
    result = CliRunner().invoke(servable, ["publish", str(model), URL])

    assert (result.exit_code, result.output) == (
        1,
        f"UNAVAILABLE: {URL} cannot be written: not found: https://store.net/bucket\n",
    )


def test_a_database_that_is_not_there_is_one_line(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy", reason="needs sqlalchemy")
    url = f"sqlite:///{tmp_path / 'nowhere' / 'models.db'}"

    result = CliRunner().invoke(servable, ["publish", str(model), url, "--model=m"])

    assert (result.exit_code, result.output) == (
        1,
        f"UNAVAILABLE: {url} cannot be written: unable to open database file\n",
    )
