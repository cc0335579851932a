"""A reader that looks at every moment of a publication in a store without renames."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servable.core.storage_path import StoragePath
from servable.export.uploading import upload
from servable.platforms.saved_model_files import Completeness, judge_directory
from servable.sources.cache import ModelCache
from servable.sources.object_store import ObjectStore
from servable.sources.store_source import StoreSource
from servable.sources.versions import (
    All,
    FileSystemStoragePathSourceConfig,
    Latest,
    ServableToMonitor,
    ServableVersionPolicy,
)
from servable.testing import FakeClock, FakeTarget, ManualPool

fsspec = pytest.importorskip("fsspec", reason="needs fsspec")

URL = "memory://bucket/models/m"


class Reader:
    """Looks and fetches when told, and keeps what of it would be loaded."""

    def __init__(self, cache: ModelCache, policy: ServableVersionPolicy) -> None:
        self.clock = FakeClock()
        self.target: FakeTarget[StoragePath] = FakeTarget()
        self.looks, self.fetches = ManualPool(), ManualPool()
        self.source = StoreSource(
            lambda servable: ObjectStore(servable.base_path),
            cache,
            poll_wait_s=-1,
            look_pool=self.looks,
            fetch_pool=self.fetches,
            clock=self.clock,
        )
        self.source.set_target(self.target)
        self.source.set_config(
            FileSystemStoragePathSourceConfig((ServableToMonitor("m", URL, policy),))
        )
        self.moments = 0
        self.loaded: dict[int, list[set[str]]] = {}

    def read(self) -> None:
        """Settle with what is there now, and load what can be."""
        self.moments += 1
        for _ in range(3):
            self.clock.advance(120.0)
            self.source.poll()
            while self.looks.run_next() or self.fetches.run_next():
                pass
        for data in self.target.aspired.get("m", ()):
            path = str(data.data)
            if judge_directory(path).completeness is Completeness.COMPLETE:
                self.loaded.setdefault(data.id.version, []).append(names_in(Path(path)))


def names_in(directory: Path) -> set[str]:
    return {
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    for name in (
        "saved_model.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00002",
        "variables/variables.data-00001-of-00002",
        "assets/vocabulary.txt",
        "assets.extra/tf_serving_warmup_requests",
        "transform.py",
    ):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(name)
    return made


@pytest.fixture
def reader(
    request: pytest.FixtureRequest, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reader]:
    """Return a reader of the store, which reads before and after each change."""
    store = fsspec.filesystem("memory")
    reader = Reader(cache, request.param)

    def watched(change: Any) -> Any:
        def watch(*arguments: Any, **options: Any) -> Any:
            reader.read()
            try:
                return change(*arguments, **options)
            finally:
                reader.read()

        return watch

    for name in ("put_file", "rm_file"):
        monkeypatch.setattr(type(store), name, watched(getattr(type(store), name)))
    yield reader
    store.store.clear()
    store.pseudo_dirs[:] = [""]


@pytest.mark.parametrize(
    "reader",
    [pytest.param(Latest(1), id="of the latest"), pytest.param(All(), id="of all")],
    indirect=True,
)
def test_half_a_version_is_never_loaded(reader: Reader, model: Path) -> None:
    for _ in range(3):  # of which the last two delete the one before
        upload(model, URL, keep=1)

    whole = names_in(model)
    assert reader.moments > 2 * 3 * len(whole)
    assert reader.loaded.keys() == {1, 2, 3}
    for version, times in reader.loaded.items():
        assert all(names == whole for names in times), version
