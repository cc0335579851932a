"""Values that several servables have: made by who needs one first, kept to the last."""

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SharedValues(Generic[K, T]):
    """
    Makes each value once, for all who have it at one time.  Thread-safe.

    Args:
        make: makes the value of a key.  May block, which holds up who needs the same
            value and nobody else; what it raises is raised to the caller, and the next
            one tries again.
    """

    def __init__(self, make: Callable[[K], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._held: dict[K, _Held[T]] = {}

    def acquire(self, key: K) -> T:
        """Return the value of *key*; to be given back with `release`.  May block."""
        with self._lock:
            held = self._held.setdefault(key, _Held())
            held.holders += 1
        try:
            with held.lock:
                if not held.values:
                    held.values.append(self._make(key))
                return held.values[0]
        except BaseException:
            self.release(key)
            raise

    def release(self, key: K) -> None:
        """Give the value of *key* back; when all have, it is dropped."""
        with self._lock:
            held = self._held[key]
            held.holders -= 1
            if not held.holders:
                del self._held[key]

    def __len__(self) -> int:
        """Return how many values somebody has."""
        with self._lock:
            return len(self._held)

    def __repr__(self) -> str:
        return f"<SharedValues {len(self)}>"


@dataclass(slots=True)
class _Held(Generic[T]):
    lock: threading.Lock = field(default_factory=threading.Lock)
    values: list[T] = field(default_factory=list)
    holders: int = 0
