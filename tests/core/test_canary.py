"""When a new version is as good as the one before it, in numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servable.core.canary import Observation, Promote, RollBack, Wait, judge
from servable.core.served_versions import Canary

RULES = Canary(
    10, min_requests=500, min_s=60, max_error_rate_increase=0.01, max_latency_ratio=1.5
)
LIMITS_MS = (1, 2, 5, 10, 20, 50, 100, math.inf)


def seen(ok: int, failed: int = 0, within_ms: float = 10.0) -> Observation:
    """Return an observation whose answers all took between *within_ms* and less."""
    within = tuple(
        (limit / 1e3, ok if limit >= within_ms else 0) for limit in LIMITS_MS
    )
    return Observation(ok, failed, within)


@pytest.mark.parametrize(
    ("stable", "candidate", "elapsed_s", "expected"),
    [
        pytest.param(seen(0), seen(0), 0, Wait, id="nothing has happened"),
        pytest.param(
            seen(4500), seen(500), 60, Promote, id="just as good, long enough"
        ),
        pytest.param(seen(4500), seen(499), 60, Wait, id="one request is missing"),
        pytest.param(seen(4500), seen(500), 59, Wait, id="a second is missing"),
        pytest.param(seen(0), seen(500), 60, Promote, id="nothing to compare with"),
        pytest.param(seen(45), seen(0, 5), 1, RollBack, id="it fails all it gets"),
        pytest.param(seen(45), seen(0, 4), 1, Wait, id="so far, but it is little"),
        pytest.param(
            seen(0), seen(0, 9), 1, RollBack, id="fails, and no other is asked"
        ),
        pytest.param(
            seen(0, 900),
            seen(0, 100),
            10,
            Wait,
            id="both fail all, so it is not the model",
        ),
        pytest.param(
            seen(3600, 900),
            seen(400, 100),
            60,
            Promote,
            id="clients are at fault in both",
        ),
        pytest.param(seen(4491, 9), seen(495, 5), 60, Promote, id="0.8 % more errors"),
        pytest.param(seen(4500), seen(490, 10), 60, Wait, id="2 % is in doubt"),
        pytest.param(
            seen(45000), seen(4900, 100), 60, RollBack, id="2 % is sure later"
        ),
        pytest.param(
            seen(10, 0), seen(4930, 70), 60, RollBack, id="doubt does not last for ever"
        ),
        pytest.param(
            seen(4500, within_ms=10),
            seen(500, within_ms=20),
            60,
            RollBack,
            id="too slow",
        ),
        pytest.param(
            seen(4500, within_ms=10),
            seen(400, within_ms=20),
            60,
            Wait,
            id="slow so far",
        ),
        pytest.param(
            seen(4500, within_ms=20), seen(500, within_ms=10), 60, Promote, id="faster"
        ),
        pytest.param(
            seen(4500),
            seen(500, within_ms=1000),
            60,
            RollBack,
            id="slower than any limit",
        ),
    ],
)
def test_a_candidate_is_judged(
    stable: Observation,
    candidate: Observation,
    elapsed_s: float,
    expected: type[object],
) -> None:
    verdict = judge(RULES, stable, candidate, elapsed_s)

    assert isinstance(verdict, expected), verdict


def test_a_verdict_has_its_numbers() -> None:
    verdict = judge(RULES, seen(4491, 9), seen(497, 3), 60)

    assert verdict == Promote(
        "0.60% errors of 500, 90 % within 9.5 ms; the version before 0.20% errors of "
        "4500, 90 % within 9.5 ms"
    )


@pytest.mark.parametrize(
    ("within", "expected"),
    [
        pytest.param([(0.01, 10), (0.02, 10)], 0.009, id="all in the first bucket"),
        pytest.param([(0.01, 5), (0.02, 10)], 0.018, id="four fifths into the second"),
        pytest.param([(0.01, 9), (0.02, 10)], 0.01, id="at a limit"),
        pytest.param([(0.01, 5), (math.inf, 10)], None, id="above all limits"),
        pytest.param([], None, id="nothing"),
    ],
)
def test_a_percentile_is_read_between_limits(
    within: list[tuple[float, int]], expected: float | None
) -> None:
    seen = Observation(10, 0, tuple(within))

    assert seen.percentile(0.9) == pytest.approx(expected)


def test_what_came_later_is_the_difference() -> None:
    later = Observation(10, 3, ((0.01, 4), (0.02, 10)))
    earlier = Observation(6, 1, ((0.01, 3), (0.02, 6)))

    assert later.since(earlier) == Observation(4, 2, ((0.01, 1), (0.02, 4)))
    assert later.since(Observation()) == later


COUNTS = st.integers(0, 100_000)


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.floats(0, 1e6))
def test_more_errors_never_turn_a_verdict_for_the_better(
    ok: int, failed: int, candidate_ok: int, candidate_failed: int, elapsed_s: float
) -> None:
    order = [RollBack, Wait, Promote]
    stable = Observation(ok, failed)
    total = candidate_ok + candidate_failed
    worse = Observation(candidate_ok, candidate_failed)
    better = Observation(total - candidate_failed // 2, candidate_failed // 2)

    rank = [
        order.index(type(judge(RULES, stable, c, elapsed_s))) for c in (worse, better)
    ]

    assert rank[0] <= rank[1]


@given(COUNTS, COUNTS, st.floats(0, 1e6))
def test_a_version_is_never_rolled_back_for_what_the_one_before_does_too(
    ok: int, failed: int, elapsed_s: float
) -> None:
    same = Observation(ok, failed, ((0.01, ok), (math.inf, ok)))

    assert not isinstance(judge(RULES, same, same, elapsed_s), RollBack)
