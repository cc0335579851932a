"""Policies in Python: who is asked, what is done with answers, and with failures."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from servable.batching import BatchingPolicy, Consultant, Decision, QueueObservation


def queue(**changes: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "version": 1,
        "signature": "s",
        "policy": "mine",
        "max_batch_size": 64,
        "target_p99_s": 0.0,
        "waiting_rows": 3,
        "in_flight": 1,
        "arrival_rate": 10.0,
        "row_s": [(1, 0.5), (2, 0.25)],
        "size": 64,
        "wait_s": 0.0,
        "max_in_flight": 2,
    } | changes


class FakeEngine:
    def __init__(self, *queues: dict[str, Any]) -> None:
        self.queues: Sequence[dict[str, Any]] = queues
        self.decided: list[tuple[Any, ...]] = []

    def observe_batching(self) -> Sequence[dict[str, Any]]:
        return self.queues

    def decide_batching(self, *decision: Any) -> None:
        self.decided.append(decision)


class Answers:
    """A policy that gives or raises one answer after the other."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.seen: list[QueueObservation] = []

    def decide(self, queue: QueueObservation) -> Decision | None:
        self.seen.append(queue)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return cast("Decision | None", answer)


def consultant(engine: FakeEngine, policy: BatchingPolicy) -> Consultant:
    return Consultant(engine, {"mine": lambda: policy})


def test_a_decision_reaches_the_queue_it_is_for() -> None:
    engine = FakeEngine(queue())
    policy = Answers(Decision(8, 0.002, 3))

    consultant(engine, policy).consult()

    assert engine.decided == [("m", 1, "s", 8, 0.002, 3)]
    assert policy.seen[0].row_s == {1: 0.5, 2: 0.25}
    assert policy.seen[0].decision == Decision(64, 0.0, 2)


@pytest.mark.parametrize(
    ("observed", "answer"),
    [
        pytest.param(queue(policy="adaptive"), Decision(8), id="a queue of another"),
        pytest.param(queue(), None, id="nothing to change"),
        pytest.param(queue(), Decision(64, 0.0, 2), id="what is in force already"),
    ],
)
def test_what_changes_nothing(observed: dict[str, Any], answer: object) -> None:
    engine = FakeEngine(observed)

    consultant(engine, Answers(answer)).consult()

    assert not engine.decided


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(ZeroDivisionError("no"), id="it raises"),
        pytest.param("eight", id="it answers something else"),
    ],
)
def test_a_failure_leaves_the_last_decision_and_is_told_of_once(
    bad: object, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeEngine(queue())
    under_test = consultant(engine, Answers(Decision(8), bad, bad, Decision(4), bad))

    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            under_test.consult()
        first = len(caplog.records)
        for _ in range(2):
            under_test.consult()

    assert first == 1
    assert "last good decision" in caplog.text
    assert [decision[3] for decision in engine.decided] == [8, 4]


def test_a_policy_that_cannot_be_made_is_told_of_once_and_hurts_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> BatchingPolicy:
        raise RuntimeError("no")

    factories: dict[str, Callable[[], BatchingPolicy]] = {
        "broken": broken,
        "mine": lambda: Answers(Decision(8), None),
    }
    engine = FakeEngine(queue(model="a", policy="broken"), queue(model="b"))
    under_test = Consultant(engine, factories)

    under_test.consult()
    under_test.consult()

    assert [decision[0] for decision in engine.decided] == ["b"]
    assert len(caplog.records) == 1


def test_every_queue_has_a_policy_of_its_own_until_it_is_gone() -> None:
    made: list[Answers] = []

    def make() -> Answers:
        made.append(Answers(*[None] * 9))
        return made[-1]

    engine = FakeEngine(queue(signature="a"), queue(signature="b"))
    under_test = Consultant(engine, {"mine": make})
    under_test.consult()
    under_test.consult()
    assert len(made) == 2

    engine.queues = []
    under_test.consult()
    engine.queues = [queue(signature="a")]
    under_test.consult()

    assert len(made) == 3


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        pytest.param((0,), ValueError, id="batches of no rows"),
        pytest.param((1.5,), TypeError, id="half a row"),
        pytest.param((1, -0.1), ValueError, id="a wait back in time"),
        pytest.param((1, float("nan")), ValueError, id="a wait that is no number"),
        pytest.param((1, 1e9), ValueError, id="a wait for ever"),
        pytest.param((1, 0.0, 0), ValueError, id="no batch at all"),
    ],
)
def test_decisions_that_cannot_be_carried_out(
    arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Decision(*arguments)
