"""
What a platform is, and how one is found.

A platform turns the path of a version into a Loader; everything else about its
kind of servable stays inside it.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final, Protocol

from servable.core.loader import Loader
from servable.core.servable_id import ServableId
from servable.core.source import Target
from servable.core.source_adapter import SourceAdapter
from servable.core.storage_path import StoragePath
from servable.errors import InvalidArgument

ENTRY_POINT_GROUP = "servable.platforms"

# Those of this package, beside "tensorflow"; they are there without an installation.
_OWN: Final[Mapping[str, str]] = {
    "composite": "servable.platforms.composite:composite_platform",
    "hashmap": "servable.platforms.hashmap:hashmap_platform",
    "onnx": "servable.platforms.onnx:onnx_platform",
    "python": "servable.platforms.python.platform:python_platform",
    "sklearn": "servable.platforms.sklearn:sklearn_platform",
    "xgboost": "servable.platforms.xgboost:xgboost_platform",
}


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
    """Return the names of all platforms that there are beside "tensorflow", sorted."""
    return sorted({*_OWN, *entry_points(group=ENTRY_POINT_GROUP).names})


def platform_factory(name: str) -> Callable[..., Platform]:
    """
    Return what makes the platform called *name*; imports its module.

    It is called with the ServerOptions and the servable._engine.Engine of the server.

    Raises:
        InvalidArgument: there is no such platform, or it cannot be imported.
    """
    try:
        if name in _OWN:
            module, _, attribute = _OWN[name].partition(":")
            own: Callable[..., Platform] = getattr(import_module(module), attribute)
            return own
        found: Any = None
        for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=name):
            found = entry_point.load()
    except Exception as error:
        raise InvalidArgument(
            f"Platform {name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if found is None:
        raise InvalidArgument(
            f"Unknown platform {name}; there are: {', '.join(platform_names())}"
        )
    factory: Callable[..., Platform] = found
    return factory
