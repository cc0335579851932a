"""
What a platform is, and how one is found.

A platform turns the path of a version into a Loader; everything else about its
kind of servable stays inside it.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, cast, runtime_checkable

from servable import plugins
from servable.core.loader import Loader
from servable.core.servable_id import ServableId
from servable.core.source import Target
from servable.core.source_adapter import SourceAdapter
from servable.core.storage_path import StoragePath
from servable.platforms.steady_loader import SteadyLoader
from servable.platforms.timed_loader import TimedLoader

if TYPE_CHECKING:
    from servable import _engine


class PlatformOptions(Protocol):
    """What the platforms of this package read of the ServerOptions."""

    @property
    def allow_python_models(self) -> bool:
        """Whether models may bring Python code along."""

    @property
    def allow_native_models(self) -> bool:
        """Whether models may be libraries that run in this process."""

    @property
    def python_run_limit_s(self) -> float:
        """How long a run may take in a model's own process."""

    @property
    def enable_model_warmup(self) -> bool:
        """Whether requests that a version brings along are replayed first."""

    @property
    def num_request_iterations_for_warmup(self) -> int:
        """How often each of them is replayed."""

    def read_platform_batching(self) -> "ChoosesBatching":
        """
        Return what says how models that are no SavedModels are batched.

        Raises:
            ServingError: A file cannot be read, or is wrong.
        """


class ChoosesBatching(Protocol):
    """Says how versions are batched."""

    def of(
        self, model_name: str, path: StoragePath
    ) -> "_engine.BatchingParameters | None":
        """
        Return how requests for the version at *path* are put into batches; None: each
        runs by itself.

        Raises:
            ServingError: what the load shall fail with.
        """


class Platform(Protocol):
    """
    One kind of servable, with the options that all its servables share.

    One that is also LoadsInProcess may have its versions tried in another process.
    """

    @property
    def name(self) -> str:
        """What `model_platform` says in a model config, as "tensorflow"."""

    def loader(self, servable_id: ServableId, path: StoragePath) -> Loader:
        """
        Return the Loader of the version at *path*.

        Must not touch the file system: it is called with locks held, and a version
        that cannot be loaded says so when `load` is called.
        """


@runtime_checkable
class LoadsInProcess(Protocol):
    """A Platform whose Loaders run what may crash in the process of the server."""

    loads_in_process: Literal[True]


class PlatformSourceAdapter(SourceAdapter[StoragePath | Loader, Loader]):
    """
    Makes a Source of StoragePath one of Loaders, by one platform.

    A version whose files change while it loads is not loaded, nor is one that takes
    longer than load_timeout_s.  A Loader that the Source has made itself is passed on
    as it is.
    """

    def __init__(
        self, platform: Platform, target: Target[Loader], load_timeout_s: float
    ) -> None:
        super().__init__(functools.partial(_loader, platform, load_timeout_s), target)


def _loader(
    platform: Platform,
    load_timeout_s: float,
    servable_id: ServableId,
    data: StoragePath | Loader,
) -> Loader:
    if not isinstance(data, str):
        return data
    new_loader = functools.partial(platform.loader, servable_id, data)
    steady = functools.partial(SteadyLoader, new_loader, data)
    return TimedLoader(steady, load_timeout_s)


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
