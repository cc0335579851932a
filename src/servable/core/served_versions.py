"""
Which versions are aspired where TensorFlow Serving's policies do not decide it.

Pinned is one version; Candidates are the newest one and the one it is compared with.
Both are pure: they see which versions there are, and whoever asks acts.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from servable.errors import NotFound


@dataclass(frozen=True, slots=True)
class Pinned:
    """One version and no other."""

    version: int

    def choose(self, versions: Iterable[int]) -> list[int]:
        """
        Return the version.

        Raises:
            NotFound: It is not there; what is aspired is to stay as it is.
        """
        if self.version not in set(versions):
            raise NotFound(f"version {self.version}, to which it is pinned, is missing")
        return [self.version]


@dataclass(frozen=True, slots=True)
class Candidates:
    """
    The newest version, and beside it the one that it is to be compared with.

    Attributes:
        promoted: the newest version that was found good; None for none yet, and then
            it is the one before the newest.
        rejected: versions that were found bad, and are not aspired.
    """

    promoted: int | None = None
    rejected: frozenset[int] = frozenset()

    def choose(self, versions: Iterable[int]) -> list[int]:
        """Return at most two versions: the newest, and the one before."""
        eligible = sorted(set(versions) - self.rejected, reverse=True)
        newest, older = eligible[:1], eligible[1:]
        if self.promoted is None:
            return newest + older[:1]
        if newest and newest[0] > self.promoted:
            return newest + [v for v in older if v <= self.promoted][:1]
        return newest
