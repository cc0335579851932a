"""
What a platform is, and how one is found.

A platform turns the path of a version into a Loader; everything else about its
kind of servable stays inside it.
"""

import functools
from collections.abc import Callable
from typing import Protocol, cast

from servable import plugins
from servable.core.loader import Loader
from servable.core.servable_id import ServableId
from servable.core.source import Target
from servable.core.source_adapter import SourceAdapter
from servable.core.storage_path import StoragePath
from servable.platforms.steady_loader import SteadyLoader


class PlatformOptions(Protocol):
    """What the platforms of this package read of the ServerOptions."""

    @property
    def allow_python_models(self) -> bool:
        """Whether models may bring Python code along."""

    @property
    def python_run_limit_s(self) -> float:
        """How long a run may take in a model's own process."""

    @property
    def python_memory_limit_bytes(self) -> int:
        """How much memory a model's own process may have; 0 for any."""

    @property
    def enable_model_warmup(self) -> bool:
        """Whether requests that a version brings along are replayed first."""

    @property
    def num_request_iterations_for_warmup(self) -> int:
        """How often each of them is replayed."""


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

    A version whose files change while it loads is not loaded.  A Loader that the Source
    has made itself is passed on as it is.
    """

    def __init__(self, platform: Platform, target: Target[Loader]) -> None:
        super().__init__(functools.partial(_loader, platform), target)


def _loader(
    platform: Platform, servable_id: ServableId, data: StoragePath | Loader
) -> Loader:
    if not isinstance(data, str):
        return data
    return SteadyLoader(functools.partial(platform.loader, servable_id, data), data)


def platform_names() -> list[str]:
    """Return the names of all platforms that there are beside "tensorflow", sorted."""
    return [plugin.name for plugin in plugins.installed(plugins.PLATFORMS)]


def platform_factory(name: str) -> Callable[..., Platform]:
    """
    Return what makes the platform called *name*; imports its module.

    It is called with the ServerOptions and the servable._engine.Engine of the server.

    Raises:
        InvalidArgument: there is no such platform.
        FailedPrecondition: it cannot be imported.
    """
    return cast("Callable[..., Platform]", plugins.load(plugins.PLATFORMS, name))
