"""The policy in examples/batching_policy does what its README says."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from servable.batching import Decision, QueueObservation

FILE = Path(__file__).parents[2] / "examples" / "batching_policy" / "deadline_policy.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deadline_policy", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def queue(
    target_p99_s: float = 0.1,
    arrival_rate: float = 1000.0,
    row_s: dict[int, float] | None = None,
) -> QueueObservation:
    return QueueObservation(
        model="m",
        version=1,
        signature="s",
        max_batch_size=32,
        target_p99_s=target_p99_s,
        waiting_rows=0,
        in_flight=0,
        arrival_rate=arrival_rate,
        row_s={32: 0.001} if row_s is None else row_s,
        decision=Decision(8, max_in_flight=2),
    )


@pytest.mark.parametrize(
    ("observed", "wait_s"),
    [
        pytest.param(queue(), 0.034, id="half of what the batch leaves of the target"),
        pytest.param(queue(arrival_rate=10), 0.0, id="nobody else is expected"),
        pytest.param(queue(target_p99_s=0.02), 0.0, id="there is no time to spare"),
    ],
)
def test_it_waits_while_there_is_time(
    example: ModuleType, observed: QueueObservation, wait_s: float
) -> None:
    got = example.SpendTheDeadline().decide(observed)

    assert got == Decision(32, wait_s, 2)


@pytest.mark.parametrize(
    "observed",
    [
        pytest.param(queue(target_p99_s=0.0), id="without a target"),
        pytest.param(queue(row_s={}), id="before anything ran"),
    ],
)
def test_it_leaves_things_alone(
    example: ModuleType, observed: QueueObservation
) -> None:
    assert example.SpendTheDeadline().decide(observed) is None
