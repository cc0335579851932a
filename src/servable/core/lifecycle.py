"""
The life of one servable version, as a table.

Everything that decides whether a version may move from one state to the next
is in this file; nothing here loads, locks, logs or sleeps.  LoaderHarness does
those, and asks this table first.
"""

import enum
from collections.abc import Mapping
from typing import Final

from servable.errors import Internal


class State(enum.Enum):
    """Where a version is in its life; the values are what logs show."""

    NEW = "new"
    LOAD_REQUESTED = "load-requested"
    LOAD_APPROVED = "load-approved"  # its resources are reserved
    LOADING = "loading"  # and also between two attempts
    READY = "ready"
    UNLOAD_REQUESTED = "unload-requested"
    QUIESCING = "quiescing"  # no new handles
    QUIESCED = "quiesced"  # the last handle has been returned
    UNLOADING = "unloading"
    DISABLED = "disabled"
    ERROR = "error"


class Event(enum.Enum):
    """What can happen to a version."""

    LOAD_REQUESTED = enum.auto()
    LOAD_APPROVED = enum.auto()
    LOAD_STARTED = enum.auto()
    LOAD_SUCCEEDED = enum.auto()
    LOAD_CANCELLED = enum.auto()
    UNLOAD_REQUESTED = enum.auto()
    QUIESCE_STARTED = enum.auto()
    QUIESCED = enum.auto()
    UNLOAD_STARTED = enum.auto()
    UNLOADED = enum.auto()
    FAILED = enum.auto()


TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = {
    State.NEW: {Event.LOAD_REQUESTED: State.LOAD_REQUESTED},
    State.LOAD_REQUESTED: {Event.LOAD_APPROVED: State.LOAD_APPROVED},
    State.LOAD_APPROVED: {Event.LOAD_STARTED: State.LOADING},
    State.LOADING: {
        Event.LOAD_SUCCEEDED: State.READY,
        Event.LOAD_CANCELLED: State.UNLOADING,  # loaded, but nobody wants it now
    },
    State.READY: {Event.UNLOAD_REQUESTED: State.UNLOAD_REQUESTED},
    State.UNLOAD_REQUESTED: {Event.QUIESCE_STARTED: State.QUIESCING},
    State.QUIESCING: {Event.QUIESCED: State.QUIESCED},
    State.QUIESCED: {Event.UNLOAD_STARTED: State.UNLOADING},
    State.UNLOADING: {Event.UNLOADED: State.DISABLED},
    State.DISABLED: {},
    State.ERROR: {},
}

FINAL: Final = frozenset({State.DISABLED, State.ERROR})

LOAD_UNDER_WAY: Final = frozenset(
    {State.LOAD_REQUESTED, State.LOAD_APPROVED, State.LOADING}
)

# Every event leads to one state, from wherever it may happen.
_LEADS_TO: Final[Mapping[Event, State]] = {
    event: state for row in TRANSITIONS.values() for event, state in row.items()
} | {Event.FAILED: State.ERROR}


class IllegalTransition(Internal):
    """A version was asked to do what it cannot do in the state it is in."""

    def __init__(self, state: State, event: Event) -> None:
        self.state = state
        self.event = event
        super().__init__(
            f"Illegal request to transition from state {state.value} "
            f"to {_LEADS_TO[event].value}"
        )


def advance(state: State, event: Event) -> State:
    """
    Return the state that *event* leads to from *state*.

    Raises:
        IllegalTransition: the event cannot happen in that state.
    """
    if event is Event.FAILED and state not in FINAL:
        return State.ERROR
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(state, event) from None
