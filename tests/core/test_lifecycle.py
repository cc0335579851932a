"""The table of states: what may happen, and that nothing else may."""

import itertools

import pytest

from servable.core.lifecycle import (
    FINAL,
    TRANSITIONS,
    Event,
    IllegalTransition,
    State,
    advance,
)
from servable.errors import Code

WHOLE_LIFE = [
    (Event.LOAD_REQUESTED, State.LOAD_REQUESTED),
    (Event.LOAD_APPROVED, State.LOAD_APPROVED),
    (Event.LOAD_STARTED, State.LOADING),
    (Event.LOAD_SUCCEEDED, State.READY),
    (Event.UNLOAD_REQUESTED, State.UNLOAD_REQUESTED),
    (Event.QUIESCE_STARTED, State.QUIESCING),
    (Event.QUIESCED, State.QUIESCED),
    (Event.UNLOAD_STARTED, State.UNLOADING),
    (Event.UNLOADED, State.DISABLED),
]


def test_a_whole_life_passes_through_ten_states() -> None:
    state, passed = State.NEW, []
    for event, _ in WHOLE_LIFE:
        state = advance(state, event)
        passed.append(state)

    assert passed == [expected for _, expected in WHOLE_LIFE]


def test_a_load_that_nobody_wants_any_more_is_unloaded_at_once() -> None:
    assert advance(State.LOADING, Event.LOAD_CANCELLED) is State.UNLOADING


@pytest.mark.parametrize("state", sorted(set(State) - FINAL, key=str))
def test_any_state_that_is_not_final_can_fail(state: State) -> None:
    assert advance(state, Event.FAILED) is State.ERROR


@pytest.mark.parametrize(
    ("state", "event"),
    [
        pytest.param(state, event, id=f"{event.name} in {state.value}")
        for state, event in itertools.product(State, Event)
        if event not in TRANSITIONS[state]
        and not (event is Event.FAILED and state not in FINAL)
    ],
)
def test_everything_else_is_refused(state: State, event: Event) -> None:
    with pytest.raises(IllegalTransition) as caught:
        advance(state, event)

    assert caught.value.code is Code.INTERNAL


def test_the_refusal_says_what_met_what() -> None:
    with pytest.raises(IllegalTransition) as caught:
        advance(State.QUIESCING, Event.LOAD_STARTED)

    assert caught.value.message == (
        "Illegal request to transition from state quiescing to loading"
    )


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(State)
