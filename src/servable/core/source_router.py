"""One Source, many Targets: each servable stream goes to the one for its platform."""

import threading
from collections.abc import Mapping, Sequence
from typing import Generic, NoReturn, TypeVar

from servable.core.servable_data import ServableData
from servable.core.source import Target
from servable.errors import Internal

T = TypeVar("T")


class SourceRouter(Generic[T]):
    """
    Passes what a Source says to the Target that its name is routed to.

    Routes may change at any time and count from the next call on.  A name without
    a route goes to *otherwise*.  Thread-safe.
    """

    def __init__(self, routes: Mapping[str, Target[T]], otherwise: Target[T]) -> None:
        self._lock = threading.Lock()
        self._routes = dict(routes)
        self._otherwise = otherwise

    def set_routes(self, routes: Mapping[str, Target[T]]) -> None:
        """Replace all routes: servable stream name to Target."""
        with self._lock:
            self._routes = dict(routes)

    def set_aspired_versions(
        self, name: str, versions: Sequence[ServableData[T]]
    ) -> None:
        """Pass *versions* to the Target of *name*."""
        with self._lock:
            target = self._routes.get(name, self._otherwise)
        target.set_aspired_versions(name, versions)


def refuse_unrouted(*_: object) -> NoReturn:
    """Convert, as a SourceAdapter does, what no platform takes: always fails."""
    raise Internal("No platform found for model")
