"""Versions in object stores and databases."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from servable.cli.commands import servable
from servable.errors import AlreadyExists, InvalidArgument, NotFound, Unavailable
from servable.export.uploading import upload

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
            raise OSError("the store is full")
        put_file(self, local, remote, **options)

    monkeypatch.setattr(type(store), "put_file", fail)

    with pytest.raises(Unavailable, match="the store is full"):
        upload(model, URL)

    assert store.find("/bucket/models/m") == []


def test_the_command_publishes_to_stores(store: Any, model: Path) -> None:
    result = CliRunner().invoke(servable, ["publish", str(model), URL])

    assert (result.exit_code, result.output) == (0, f"{URL}/1\n")
    assert store.exists("/bucket/models/m/1/saved_model.pb")


def test_the_command_publishes_to_databases(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy", reason="needs sqlalchemy")
    url = f"sqlite:///{tmp_path / 'models.db'}"

    unnamed = CliRunner().invoke(servable, ["publish", str(model), url])
    named = CliRunner().invoke(servable, ["publish", str(model), url, "--model=m"])

    assert unnamed.exit_code == 1
    assert "say which, with --model" in unnamed.output
    assert (named.exit_code, named.output) == (0, "version 1 of m\n")
