"""
How much memory servables need, and whether there is as much.

One kind of resource is known: bytes of memory.  Estimates are rough on purpose;
without a limit they are only written down.
"""

import os
import stat
import threading
from collections.abc import Hashable, Mapping
from pathlib import Path
from types import MappingProxyType

from servable.core.servable_id import ServableId

# What a SavedModel needs in memory for each byte of its files, as TF Serving has it.
MEMORY_PER_FILE_BYTE = 1.2


def estimate_from_files(path: str | os.PathLike[str], transient_bytes: int = 0) -> int:
    """
    Return the memory in bytes that the files under *path* will need once loaded.

    Symbolic links are followed.  Blocks on the file system.

    Args:
        path: a version directory, or a single file.
        transient_bytes: what is needed on top while loading.

    Raises:
        OSError: the directory cannot be read.
    """
    total = sum_of_file_sizes(path)
    return int(total * MEMORY_PER_FILE_BYTE) + transient_bytes


def sum_of_file_sizes(path: str | os.PathLike[str]) -> int:
    """Return the bytes of all regular files under *path*; raises as os.stat does."""
    total = 0
    seen: set[tuple[int, int]] = set()
    stack = [Path(path)]
    while stack:
        current = stack.pop()
        status = current.stat()
        if stat.S_ISREG(status.st_mode):
            total += status.st_size
        elif stat.S_ISDIR(status.st_mode) and (key := _identity(status)) not in seen:
            seen.add(key)  # a link may lead back up
            stack.extend(current.iterdir())
    return total


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class ResourcePool:
    """
    Memory that servables reserve before they load.

    Thread-safe.

    Args:
        limit_bytes: how much there is; None for no limit.
        spares_the_only_one: whether a version is never refused that none of its name
            is loaded beside; for limits that are guesses.
    """

    def __init__(
        self, limit_bytes: int | None = None, *, spares_the_only_one: bool = False
    ) -> None:
        self._spares_the_only_one = spares_the_only_one
        self._lock = threading.Lock()
        self._limit_bytes = limit_bytes
        self._reserved: dict[ServableId, int] = {}
        # What servables have in common, by what it is.
        self._shared: dict[ServableId, Mapping[Hashable, int]] = {}

    @property
    def limit_bytes(self) -> int | None:
        """How much there is; None for no limit."""
        return self._limit_bytes

    @property
    def reserved_bytes(self) -> int:
        """How much is reserved by all servables together."""
        with self._lock:
            return self._total(self._reserved, self._shared)

    def reserve(
        self,
        servable_id: ServableId,
        size_bytes: int,
        shared: Mapping[Hashable, int] = MappingProxyType({}),
    ) -> bool:
        """
        Reserve memory for a servable in place of what it had, if there is room.

        Returns whether it was done; if not, what the servable had is kept.

        Args:
            servable_id: of the servable.
            size_bytes: what it needs for itself.
            shared: bytes of what it has in common with others, by what that is; each
                is counted once, as long as one servable has it.
        """
        with self._lock:
            total = self._total(
                {**self._reserved, servable_id: size_bytes},
                {**self._shared, servable_id: shared},
            )
            is_too_much = self._limit_bytes is not None and total > self._limit_bytes
            if is_too_much and not self._is_spared(servable_id):
                return False
            self._reserved[servable_id] = size_bytes
            self._shared[servable_id] = shared
            return True

    def copy(self) -> "ResourcePool":
        """Return a pool in the same state, to try out what would fit."""
        other = ResourcePool(
            self._limit_bytes, spares_the_only_one=self._spares_the_only_one
        )
        with self._lock:
            other._reserved.update(self._reserved)
            other._shared.update(self._shared)
        return other

    def release(self, servable_id: ServableId) -> int:
        """Give back what a servable has reserved; return how many bytes that was."""
        with self._lock:
            before = self._total(self._reserved, self._shared)
            self._reserved.pop(servable_id, None)
            self._shared.pop(servable_id, None)
            return before - self._total(self._reserved, self._shared)

    def reserved_by(self, servable_id: ServableId) -> int:
        """Return how many bytes a servable has reserved for itself."""
        with self._lock:
            return self._reserved.get(servable_id, 0)

    def _is_spared(self, servable_id: ServableId) -> bool:
        return self._spares_the_only_one and not any(
            other.name == servable_id.name and other != servable_id
            for other in self._reserved
        )

    @staticmethod
    def _total(
        reserved: Mapping[ServableId, int],
        shared: Mapping[ServableId, Mapping[Hashable, int]],
    ) -> int:
        once: dict[Hashable, int] = {}
        for parts in shared.values():
            for key, size_bytes in parts.items():
                once[key] = max(size_bytes, once.get(key, 0))
        return sum(reserved.values()) + sum(once.values())

    def __repr__(self) -> str:
        limit = "no limit" if self._limit_bytes is None else f"{self._limit_bytes}"
        return f"<ResourcePool {self.reserved_bytes} of {limit}>"
