"""
Whether a new version is as good as the one before it: a decision over numbers.

Both have answered requests of the same kind over the same time.  Errors are compared
by the difference of the two rates with Agresti and Caffo's interval, and durations by
a high percentile.  Nothing here counts, waits or looks at a clock.
"""

import math
from dataclasses import dataclass
from typing import Final, TypeAlias

from servable.core.served_versions import Canary

# One look in 2000 finds a difference that is none; there are many looks at a canary.
_Z: Final = 3.3
# Fewer errors prove nothing, whatever the rate.
_MIN_FAILED: Final = 5
# With so many times the requests that were asked for, doubt counts against it.
_PATIENCE: Final = 10
_PERCENTILE: Final = 0.9


@dataclass(frozen=True, slots=True)
class Observation:
    """
    What a version has answered over some time.

    Attributes:
        ok: requests with success.
        failed: requests with an error, whoever's fault it was.
        within: for rising limits in seconds how many of the first took at most that.
    """

    ok: int = 0
    failed: int = 0
    within: tuple[tuple[float, int], ...] = ()

    @property
    def requests(self) -> int:
        """How many requests it answered."""
        return self.ok + self.failed

    @property
    def error_rate(self) -> float:
        """The part of the requests that failed; 0 of none."""
        return self.failed / self.requests if self.requests else 0.0

    def since(self, earlier: "Observation") -> "Observation":
        """Return what came after *earlier*, an observation of the same version."""
        before = dict(earlier.within)
        within = tuple((limit, n - before.get(limit, 0)) for limit, n in self.within)
        return Observation(self.ok - earlier.ok, self.failed - earlier.failed, within)

    def percentile(self, part: float = _PERCENTILE) -> float | None:
        """Return in how many seconds that *part* had answers; None: unknown."""
        wanted = part * self.ok
        limit_before, count_before = 0.0, 0
        for limit, count in self.within:
            if count >= wanted and count > count_before:
                if math.isinf(limit):
                    return None
                inside = (wanted - count_before) / (count - count_before)
                return limit_before + max(inside, 0.0) * (limit - limit_before)
            limit_before, count_before = limit, count
        return None


@dataclass(frozen=True, slots=True)
class Promote:
    """It is as good; it may answer everything."""

    reason: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """It is worse; it shall answer nothing."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be said yet."""

    reason: str


Verdict: TypeAlias = Promote | RollBack | Wait


def judge(
    rules: Canary, stable: Observation, candidate: Observation, elapsed_s: float
) -> Verdict:
    """
    Return what is to become of a candidate.

    Args:
        rules: what is asked of it.
        stable: what the version before answered since the candidate was there.
        candidate: what the candidate answered.
        elapsed_s: for how long it has been there.
    """
    numbers = _numbers(stable, candidate)
    if candidate.failed >= _MIN_FAILED and _is_surely_worse(rules, stable, candidate):
        return RollBack(f"its rate of errors is too high: {numbers}")
    if candidate.requests < rules.min_requests or elapsed_s < rules.min_s:
        return Wait(
            f"{candidate.requests} of {rules.min_requests} requests, "
            f"{elapsed_s:.0f} of {rules.min_s:.0f} s: {numbers}"
        )
    if _is_slower(rules, stable, candidate):
        return RollBack(f"it is too slow: {numbers}")
    if candidate.error_rate <= stable.error_rate + rules.max_error_rate_increase:
        return Promote(numbers)
    if candidate.requests < _PATIENCE * rules.min_requests:
        return Wait(f"its rate of errors is in doubt: {numbers}")
    return RollBack(f"its rate of errors stayed in doubt: {numbers}")


def _is_surely_worse(
    rules: Canary, stable: Observation, candidate: Observation
) -> bool:
    rate, variance = _adjusted(candidate)
    stable_rate, stable_variance = _adjusted(stable) if stable.requests else (0.0, 0.0)
    excess = rate - stable_rate - rules.max_error_rate_increase
    return excess > _Z * math.sqrt(variance + stable_variance)


def _adjusted(seen: Observation) -> tuple[float, float]:
    """Return rate and variance with one request more of each kind."""
    requests = seen.requests + 2
    rate = (seen.failed + 1) / requests
    return rate, rate * (1 - rate) / requests


def _is_slower(rules: Canary, stable: Observation, candidate: Observation) -> bool:
    if not (stable.ok and candidate.ok):
        return False
    before, now = stable.percentile(), candidate.percentile()
    if before is None:
        return False
    return now is None or now > rules.max_latency_ratio * before


def _numbers(stable: Observation, candidate: Observation) -> str:
    def told(seen: Observation) -> str:
        seconds = seen.percentile()
        slow = "" if seconds is None else f", 90 % within {seconds * 1e3:.3g} ms"
        return f"{seen.error_rate:.2%} errors of {seen.requests}{slow}"

    return f"{told(candidate)}; the version before {told(stable)}"
