"""One managed version: what it refuses, and when it may be tried again."""

import pytest

from servable.core.lifecycle import Event, IllegalTransition, State
from servable.core.loader_harness import LoaderHarness, RetryPolicy
from servable.core.servable_data import ServableData
from servable.core.servable_id import ServableId
from servable.errors import FailedPrecondition, NotFound
from servable.testing import FakeLoader


@pytest.fixture
def harness() -> LoaderHarness:
    return LoaderHarness(ServableData(ServableId("m", 1), FakeLoader()))


def test_a_second_request_to_load_is_refused(harness: LoaderHarness) -> None:
    harness.request_load()

    with pytest.raises(FailedPrecondition, match=r"^Duplicate load request$"):
        harness.request_load()


def test_what_is_not_loaded_cannot_be_unloaded(harness: LoaderHarness) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        harness.request_unload()

    assert caught.value.message == (
        "Servable not loaded, or unload already requested/ongoing"
    )


def test_an_illegal_step_ends_in_error(harness: LoaderHarness) -> None:
    with pytest.raises(IllegalTransition):
        harness.advance(Event.LOAD_REQUESTED, Event.QUIESCED)

    assert harness.state is State.ERROR


def test_an_error_of_the_source_is_an_error_from_the_start() -> None:
    error = NotFound("no such version")
    harness = LoaderHarness(ServableData(ServableId("m", 1), error=error))

    assert (harness.state, harness.error) == (State.ERROR, error)


def test_it_shows_its_state(harness: LoaderHarness) -> None:
    harness.request_load()
    harness.is_running = True
    harness.failures = 2

    assert repr(harness) == (
        "<LoaderHarness {name: m version: 1} load-requested aspired running failures=2>"
    )


def test_data_without_data_and_without_error_is_refused() -> None:
    with pytest.raises(ValueError, match="needs either data or an error"):
        ServableData(ServableId("m", 1))


@pytest.mark.parametrize(
    ("failures", "due_at"),
    [
        pytest.param(1, 160.0, id="after the first failure"),
        pytest.param(2, 160.0, id="after the second"),
        pytest.param(3, None, id="not after the third"),
    ],
)
def test_retries_end(failures: int, due_at: float | None) -> None:
    policy = RetryPolicy(max_num_load_retries=2, load_retry_interval_s=60.0)

    assert policy.due_at(failures, now=100.0) == due_at


def test_a_negative_interval_counts_as_none() -> None:
    assert RetryPolicy(1, -5.0).due_at(1, now=100.0) == 100.0
