"""One publisher's events, given to all who asked for them."""

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)

E = TypeVar("E")


class EventBus(Generic[E]):
    """
    Hands each event to every subscriber, in the order of subscription.

    Subscribers are called on the publisher's thread and must not block.  One that
    raises is logged; the others are called all the same.  Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: tuple[Callable[[E], None], ...] = ()

    def subscribe(self, subscriber: Callable[[E], None]) -> Callable[[], None]:
        """Call *subscriber* with every event from now on; return how to stop that."""
        with self._lock:
            self._subscribers = (*self._subscribers, subscriber)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(
                    s for s in self._subscribers if s is not subscriber
                )

        return unsubscribe

    def publish(self, event: E) -> None:
        """Give *event* to all subscribers."""
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception:  # noqa: BLE001 - whatever it is, the others go on
                _log.exception("A subscriber failed on %s", event)
