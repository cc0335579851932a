"""What is being done for each version at the moment, for people who wait for it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from servable.core.servable_id import ServableId


@runtime_checkable
class ReportsProgress(Protocol):
    """A Loader, or whoever else does something, that can tell how far that is."""

    def progress(self) -> str:
        """Return how far it is, as "43 %"; "" for nothing to tell.  Never blocks."""


def progress_of(doer: object) -> str:
    """Return how far *doer* says that it is; who cannot tell says nothing."""
    try:
        return doer.progress() if isinstance(doer, ReportsProgress) else ""
    except Exception:  # noqa: BLE001 - it is only for people to read
        return ""


@dataclass(frozen=True, slots=True)
class Progress:
    """
    What is being done for a version.

    Attributes:
        what: in words.
        for_s: for how many seconds so far.
    """

    what: str
    for_s: float


class ProgressBoard:
    """Remembers what is being done; thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[ServableId, tuple[str, float, object]] = {}

    def begin(self, servable_id: ServableId, what: str, doer: object = None) -> None:
        """Note that *what* is done from now on, by *doer* if that may tell more."""
        with self._lock:
            self._entries[servable_id] = (what, self._clock(), doer)

    def end(self, servable_id: ServableId) -> None:
        """Note that nothing is done any more."""
        with self._lock:
            self._entries.pop(servable_id, None)

    def of(self, servable_id: ServableId) -> Progress | None:
        """Return what is being done for a version, None for nothing."""
        with self._lock:
            entry = self._entries.get(servable_id)
        if entry is None:
            return None
        what, since, doer = entry
        if more := progress_of(doer):
            what = f"{what}: {more}"
        return Progress(what, self._clock() - since)

    def ids_of(self, name: str) -> list[ServableId]:
        """Return the versions of a stream for which something is being done."""
        with self._lock:
            return [
                servable_id for servable_id in self._entries if servable_id.name == name
            ]
