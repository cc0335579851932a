"""
What a platform is, and how one is found.

A platform turns the path of a version into a Loader; everything else about its
kind of servable stays inside it.
"""

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Protocol

from servable.core.loader import Loader
from servable.core.servable_id import ServableId
from servable.core.source import Target
from servable.core.source_adapter import SourceAdapter
from servable.core.storage_path import StoragePath
from servable.errors import InvalidArgument

ENTRY_POINT_GROUP = "servable.platforms"


class Platform(Protocol):
    """One kind of servable, with the options that all its servables share."""

    @property
    def name(self) -> str:
        """What `model_platform` says in a model config, as "tensorflow"."""

    def loader(self, servable_id: ServableId, path: StoragePath) -> Loader:
        """
        Return the Loader of the version at *path*.

        Must not touch the file system: it is called with locks held, and a version
        that cannot be loaded says so when `load` is called.
        """


class PlatformSourceAdapter(SourceAdapter[StoragePath | Loader, Loader]):
    """
    Makes a Source of StoragePath one of Loaders, by one platform.

    A Loader that the Source has made itself is passed on as it is.
    """

    def __init__(self, platform: Platform, target: Target[Loader]) -> None:
        super().__init__(
            lambda servable_id, data: platform.loader(servable_id, data)
            if isinstance(data, str)
            else data,
            target,
        )


def platform_names() -> list[str]:
    """Return the names of all platforms that are installed, sorted."""
    return sorted(entry_points(group=ENTRY_POINT_GROUP).names)


def platform_factory(name: str) -> Callable[..., Platform]:
    """
    Return what makes the platform called *name*; imports its module.

    Raises:
        InvalidArgument: no such platform is installed.
    """
    found: Any = None
    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        found = entry_point.load()
    if found is None:
        known = ", ".join(platform_names()) or "none"
        raise InvalidArgument(f"Unknown platform {name}; installed are: {known}")
    factory: Callable[..., Platform] = found
    return factory
