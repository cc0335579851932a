"""
What is READY: the snapshot that requests read.

The map holds every servable that requests may be sent to, and the labels.  Each
change makes a new snapshot and publishes it as a whole; nothing waits for readers.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from servable.core.servable_id import ServableId


@dataclass(frozen=True, slots=True)
class ServingSnapshot:
    """
    The serving map at one time.

    Attributes:
        servables: stream name to version to servable.
        labels: stream name to label to version.
    """

    servables: Mapping[str, Mapping[int, object]] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class ServingMap:
    """
    Holds the newest snapshot and publishes each new one.

    Thread-safe: snapshots are published one at a time, in the order of the changes.

    Args:
        publish: gets every new snapshot; must not block, and not change the map.
    """

    def __init__(self, publish: Callable[[ServingSnapshot], None]) -> None:
        self._lock = threading.Lock()
        self._publish = publish
        self._snapshot = ServingSnapshot()

    @property
    def snapshot(self) -> ServingSnapshot:
        """The newest snapshot."""
        return self._snapshot

    def add(self, servable_id: ServableId, servable: object) -> None:
        """Let requests reach *servable*."""
        with self._lock:
            streams = dict(self._snapshot.servables)
            stream = {
                **streams.get(servable_id.name, {}),
                servable_id.version: servable,
            }
            self._swap(streams | {servable_id.name: stream}, self._snapshot.labels)

    def remove(self, servable_id: ServableId) -> None:
        """Let no new request reach a servable; the running ones keep it."""
        with self._lock:
            streams = dict(self._snapshot.servables)
            stream = dict(streams.pop(servable_id.name, {}))
            stream.pop(servable_id.version, None)
            if stream:
                streams[servable_id.name] = stream
            self._swap(streams, self._snapshot.labels)

    def set_labels(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Replace all labels: stream name to label to version.  Nothing is checked."""
        with self._lock:
            copy = {name: dict(of_name) for name, of_name in labels.items()}
            self._swap(self._snapshot.servables, copy)

    def refresh(self) -> None:
        """Publish the newest snapshot once more."""
        with self._lock:
            self._publish(self._snapshot)

    def _swap(
        self,
        servables: Mapping[str, Mapping[int, object]],
        labels: Mapping[str, Mapping[str, int]],
    ) -> None:
        # Under the lock, or an older snapshot could be published over a newer one.
        self._snapshot = ServingSnapshot(servables, labels)
        self._publish(self._snapshot)

    def __repr__(self) -> str:
        ready = {name: sorted(of) for name, of in self._snapshot.servables.items()}
        return f"<ServingMap {ready}>"
