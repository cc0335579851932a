"""Models whose newest version has to prove itself, without an engine or a thread."""

from collections.abc import Mapping
from typing import Any

import pytest

from servable.core.served_versions import Canary, Shadow
from servable.errors import FailedPrecondition
from servable.rollouts import Rollout, RolloutStatus
from servable.testing import FakeClock

CANARY = Canary(20, min_requests=100, min_s=10, max_error_rate_increase=0)


class FakeCounts:
    """What versions answered, as a test says."""

    def __init__(self) -> None:
        self.counts: dict[int, tuple[int, int]] = {}
        self.decisions: list[str] = []

    def answered(self, name: str) -> Mapping[int, Any]:
        assert name == "m"
        return {v: (ok, bad, ((0.01, ok),), {}) for v, (ok, bad) in self.counts.items()}

    def record_decision(self, name: str, decision: str) -> None:
        self.decisions.append(f"{name} {decision}")


class Model:
    """A rollout whose source and server do at once what it says."""

    def __init__(self, rules: Canary | Shadow, *versions: int) -> None:
        self.counts = FakeCounts()
        self.clock = FakeClock()
        self.rollout = Rollout("m", rules, self.counts)
        self.versions = list(versions)
        self.ready: list[int] = []

    def settle(self) -> "Any":
        """Load what is chosen, the lower first, and return the route."""
        for version in sorted(self.rollout.choose(self.versions)):
            self.ready = sorted({*self.ready, version})
            self.rollout.route(self.ready, self.clock())
        self.ready = sorted(self.rollout.choose(self.versions))
        return self.rollout.route(self.ready, self.clock())

    def look(self, **counts: tuple[int, int]) -> bool:
        self.counts.counts |= {int(name[1:]): of for name, of in counts.items()}
        return self.rollout.look(self.clock())


def test_the_newest_of_two_is_a_candidate_from_the_start() -> None:
    model = Model(CANARY, 1, 2, 3)

    assert model.settle() == (2, 3, 0.2, None)
    assert model.ready == [2, 3]


def test_the_only_version_is_served_and_later_ones_must_be_as_good() -> None:
    model = Model(CANARY, 4)
    alone = model.settle()
    model.versions += [5, 6]

    assert alone is None
    assert model.settle() == (4, 6, 0.2, None)


def test_a_good_candidate_is_promoted() -> None:
    model = Model(CANARY, 1, 2)
    model.settle()
    early = model.look(v1=(400, 0), v2=(100, 0))
    model.clock.advance(10)
    late = model.look()

    assert (early, late) == (False, True)
    assert model.counts.decisions == ["m promoted"]
    assert model.settle() is None
    assert model.ready == [2]


def test_a_bad_candidate_is_rolled_back_and_not_tried_again() -> None:
    model = Model(CANARY, 1, 2)
    model.settle()
    decided = model.look(v1=(400, 0), v2=(50, 50))

    assert decided
    assert model.counts.decisions == ["m rolled_back"]
    assert model.settle() is None
    assert model.ready == [1]
    model.versions.append(3)
    assert model.settle() == (1, 3, 0.2, None)


def test_until_it_is_unloaded_a_bad_version_answers_nothing() -> None:
    model = Model(CANARY, 1, 2)
    model.settle()
    model.look(v1=(400, 0), v2=(50, 50))

    assert model.rollout.route([1, 2], 0.0) == (1, 1, 0.0, None)


def test_only_what_is_answered_beside_each_other_counts() -> None:
    model = Model(CANARY, 1)
    model.settle()
    model.look(v1=(1000, 900))  # before there was a candidate
    model.versions.append(2)
    model.settle()
    model.clock.advance(10)
    model.look(v1=(1400, 900), v2=(50, 50))

    assert model.counts.decisions == ["m rolled_back"]


def test_a_newer_candidate_takes_the_place_of_one_that_is_not_judged() -> None:
    model = Model(CANARY, 1, 2)
    model.settle()
    model.look(v1=(10, 0), v2=(10, 0))
    model.versions.append(3)

    assert model.settle() == (1, 3, 0.2, None)
    assert model.ready == [1, 3]
    assert model.counts.decisions == []


def test_shadows_are_judged_by_people() -> None:
    model = Model(Shadow(50, 0.1), 1, 2)
    route = model.settle()
    model.clock.advance(1e6)
    decided = model.look(v1=(10**6, 0), v2=(10**6, 0))
    text = model.rollout.promote(None)

    assert route == (1, 2, 0.5, 0.1)
    assert not decided
    assert text == "Version 2 of model m was promoted: asked for"
    assert model.settle() is None
    assert model.ready == [2]


def test_people_can_roll_back_and_think_better_of_it() -> None:
    model = Model(CANARY, 1, 2)
    model.settle()
    model.rollout.roll_back()
    after = model.rollout.status()
    with pytest.raises(FailedPrecondition, match="no candidate to roll back"):
        model.rollout.roll_back()
    model.rollout.promote(2)  # while it is still loaded

    assert after == RolloutStatus(
        "canary", 1, None, (2,), "version 2 was rolled back: asked for"
    )
    assert model.settle() is None
    assert model.ready == [2]


@pytest.mark.parametrize(
    ("version", "error"),
    [
        pytest.param(None, "Model m has no candidate to promote", id="nothing"),
        pytest.param(
            9,
            "Version 9 of model m is not available, and cannot be promoted",
            id="what is not there",
        ),
    ],
)
def test_what_cannot_be_promoted(version: int | None, error: str) -> None:
    model = Model(CANARY, 1)
    model.settle()

    with pytest.raises(FailedPrecondition) as refused:
        model.rollout.promote(version)

    assert refused.value.message == error


def test_the_one_before_can_be_promoted_to_end_a_candidate() -> None:
    model = Model(CANARY, 1, 2)
    model.settle()
    model.rollout.promote(1)

    assert model.settle() is None
    assert model.ready == [1]


def test_other_rules_change_no_decision() -> None:
    model = Model(CANARY, 1, 2)
    model.settle()
    model.rollout.promote(2)
    model.rollout.set_rules(Shadow(100))
    model.versions.append(3)

    assert model.settle() == (2, 3, 1.0, 1e-3)
