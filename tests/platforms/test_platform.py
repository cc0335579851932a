"""How a platform is found, and how it becomes a Source of Loaders."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from servable import plugins
from servable.core.loader import Loader
from servable.core.servable_data import ServableData
from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.errors import InvalidArgument
from servable.platforms import (
    PlatformSourceAdapter,
    platform_factory,
    platform_names,
)
from servable.testing import FakeLoader, FakeTarget


class EchoPlatform:
    """A platform whose servables are their paths."""

    name = "echo"

    def loader(self, servable_id: ServableId, path: StoragePath) -> Loader:
        return FakeLoader(f"{servable_id} at {path}")


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = EntryPoints(
        [EntryPoint("echo", "unittest.mock:Mock", "servable.platforms")]
    )
    monkeypatch.setattr(plugins, "entry_points", points.select)


@pytest.mark.usefixtures("_installed")
def test_a_platform_is_found_by_its_name() -> None:
    assert "echo" in platform_names()
    assert {"python", "hashmap", "composite"} <= {*platform_names()}
    assert callable(platform_factory("echo"))


@pytest.mark.usefixtures("_installed")
def test_a_platform_that_is_not_installed_is_refused() -> None:
    with pytest.raises(InvalidArgument) as caught:
        platform_factory("caffe")

    assert caught.value.message.startswith(
        "There is no caffe among servable.platforms; installed are: composite, echo, "
    )


def test_an_adapter_makes_loaders_of_paths() -> None:
    target: FakeTarget[Loader] = FakeTarget()
    adapter = PlatformSourceAdapter(EchoPlatform(), target, 60.0)
    servable_id = ServableId("m", 1)

    adapter.set_aspired_versions(
        "m", [ServableData(servable_id, StoragePath("/models/m/1"))]
    )

    (data,) = target.aspired["m"]
    assert data.data is not None
    assert data.data.servable() == "{name: m version: 1} at /models/m/1"
