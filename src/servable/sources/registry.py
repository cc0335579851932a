"""
Which Source looks at which base paths: by the scheme of their URL.

A Source is a plug-in of the group `servable.sources`, whose name is the scheme; plain
paths have the scheme `file`.  Schemes with one factory share one Source.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

from servable import plugins
from servable.core.loader import Loader
from servable.core.progress import ProgressBoard
from servable.core.servable_data import FailedLoad
from servable.core.servable_id import ServableId
from servable.core.source import Target
from servable.core.storage_path import StoragePath
from servable.errors import FailedPrecondition, InvalidArgument
from servable.plugins import Plugin
from servable.sources.cache import ModelCache
from servable.sources.problems import ProblemBoard
from servable.sources.store import Fetched
from servable.sources.versions import FileSystemStoragePathSourceConfig


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """
    What every Source is given.

    Attributes:
        poll_wait_s: seconds between two looks; 0 looks once after each change of the
            configuration, and less than 0 never.
        cache: where what is not on this machine is fetched to.
        is_available: whether requests can be sent to a version.
        failed_load: how the last load of a version failed, None unless it did.
        model_roots: below which of them local files may be; anywhere if empty.
        record_fetch: is told of what was fetched, for metrics.
        progress: is told of what is being fetched, for people.
        problems: is told of what is wrong with a base path, for people.
    """

    poll_wait_s: float
    cache: ModelCache
    is_available: Callable[[ServableId], bool] = lambda _: False
    model_roots: tuple[str, ...] = ()
    record_fetch: Callable[[Fetched], None] = lambda _: None
    progress: ProgressBoard = field(default_factory=ProgressBoard)
    failed_load: Callable[[ServableId], FailedLoad | None] = lambda _: None
    problems: ProblemBoard = field(default_factory=ProblemBoard)


class ServableSource(Protocol):
    """
    A Source that is told by configurations what to look at.

    It tells its Target either where a version is, for the model's platform to load, or
    the Loader itself: a Source may make Loaders that share what they have in common.
    All methods may be called from any thread, and none blocks for long.
    """

    def check(self, config: FileSystemStoragePathSourceConfig) -> None:
        """
        Raise a ServingError if *config* can never be looked at; change nothing.

        What is only missing or unreachable now is no reason.
        """

    def set_target(self, target: Target[StoragePath | Loader]) -> None:
        """Tell *target* what is aspired, from now on.  Called once."""

    def set_config(self, config: FileSystemStoragePathSourceConfig) -> None:
        """
        Look at *config*, and at nothing else, from now on.

        Of the servables that are not in it any more the Target hears before this
        returns that nothing is aspired.
        """

    def stop(self) -> None:
        """Look no more; nothing is un-aspired."""


def source_plugin(scheme: str) -> Plugin:
    """
    Return the plug-in that makes the Source of *scheme*; imports nothing.

    Raises:
        InvalidArgument: none is installed for it.
    """
    # Looking for what others installed takes long, and is seldom needed.
    if (ours := plugins.built_in(plugins.SOURCES, scheme)) is not None:
        return ours
    installed = {plugin.name: plugin for plugin in plugins.installed(plugins.SOURCES)}
    if scheme not in installed:
        known = ", ".join(installed)
        raise InvalidArgument(
            f"No source for base paths with {scheme}://; known: {known}"
        )
    return installed[scheme]


def new_source(plugin: Plugin, options: SourceOptions) -> ServableSource:
    """
    Import *plugin* and make its Source.

    Raises:
        FailedPrecondition: it cannot be imported or made, whatever the reason.
    """
    factory = cast("Callable[[SourceOptions], ServableSource]", plugin.load())
    try:
        return factory(options)
    except Exception as exc:
        reason = (str(exc).splitlines() or [""])[0]
        raise FailedPrecondition(
            f"The source {plugin.name} cannot be made: {type(exc).__name__}: {reason}"
        ) from exc
