"""Sources whose aspired versions never change."""

from servable.core.servable_data import ServableData
from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.sources.static import StaticSource, StaticStoragePathSource
from servable.testing import FakeTarget


def test_everything_is_told_at_once() -> None:
    versions = {
        "m": [ServableData(ServableId("m", v), str(v)) for v in (1, 2)],
        "n": [],
    }
    target: FakeTarget[str] = FakeTarget()

    StaticSource(versions).set_target(target)

    assert target.aspired == versions


def test_one_path_is_one_version() -> None:
    target: FakeTarget[StoragePath] = FakeTarget()
    path = StoragePath("/models/m/7")

    StaticStoragePathSource(ServableId("m", 7), path).set_target(target)

    assert target.calls == [("m", [ServableData(ServableId("m", 7), path)])]
