"""
Which versions are served where TensorFlow Serving's policies do not decide it.

The first three are what configurations say, the last one is what follows for a model
whose newest version is to prove itself.  All are values: they see which versions there
are, and whoever asks acts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from servable.errors import NotFound


@dataclass(frozen=True, slots=True)
class Pinned:
    """One version and no other; what was served before stays until it is there."""

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
class Canary:
    """
    A share of the default traffic for the newest version, until it is judged.

    Attributes:
        percent: of the requests that name neither version nor label.
        min_requests: that the newest version answers before it can be promoted.
        min_s: seconds that it is available before it can be.
        max_error_rate_increase: how much higher its rate of errors may be.
        max_latency_ratio: how many times as long its answers may take.
    """

    percent: float
    min_requests: int = 500
    min_s: float = 60.0
    max_error_rate_increase: float = 0.01
    max_latency_ratio: float = 1.5


@dataclass(frozen=True, slots=True)
class Shadow:
    """
    Copies of a share of the requests for the newest version.

    Attributes:
        percent: of the requests that the version before answers.
        relative_tolerance: how far apart equal numbers may be.
    """

    percent: float
    relative_tolerance: float = 1e-3


ServedVersions: TypeAlias = Pinned | Canary | Shadow


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

    def pair(self, ready: Iterable[int]) -> tuple[int | None, int | None]:
        """
        Return who answers of the versions that are *ready*, and who is a candidate.

        The first is None when nothing that was not rejected is ready, the second when
        nothing is newer than what was found good.
        """
        chosen = self.choose(ready)
        match chosen:
            case [newest, stable]:
                return stable, newest
            case [newest]:
                return newest, None
            case _:
                return None, None
