"""
A Loader with its state.

The harness keeps what is known about one version while it is managed, and lets
nothing happen to it that the table in `lifecycle` does not allow.  It calls no
Loader and waits for nothing: when to try again is a time that it names.
"""

from collections.abc import Hashable
from dataclasses import dataclass

from servable.core.lifecycle import FINAL, Event, State, advance
from servable.core.loader import Loader
from servable.core.servable_data import ServableData
from servable.core.servable_id import ServableId
from servable.core.version_policy import VersionSnapshot
from servable.errors import FailedPrecondition, ServingError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    How often and when a load that failed is tried again.

    Attributes:
        max_num_load_retries: attempts after the first; less than 0 counts as 0.
        load_retry_interval_s: seconds between the end of one and the next.
    """

    max_num_load_retries: int = 5
    load_retry_interval_s: float = 60.0

    def due_at(self, failures: int, now: float) -> float | None:
        """Return when to try again after *failures*, None for not any more."""
        if failures > self.max_num_load_retries:
            return None
        return now + max(self.load_retry_interval_s, 0.0)


class LoaderHarness:
    """
    One managed version.

    Not thread-safe: it belongs to its ServableStream.

    Attributes:
        id: which version.
        loader: how to load it; None when its Source reported an error.
        attempt: what it was aspired with, see ServableData.
        generation: of its stream, in which it was aspired, or aspired again.
        is_aspired: whether it is wanted; a load that ends when it is not wanted is
            cancelled.
        is_running: whether a call of the Loader is under way or about to be.
        failures: attempts that failed, of this `attempt`.
        due_at: when the next attempt is due, None when none is planned.
        has_resources: whether its memory is reserved.
        was_refused: whether it ended because there was no room for it.
        error: what went wrong last, None once it is loaded.
        replacement: newer data to load instead, should the running attempt fail.
    """

    def __init__(self, data: ServableData[Loader], generation: int = 0) -> None:
        self.id: ServableId = data.id
        self.loader: Loader | None = data.data
        self.attempt: Hashable = data.attempt
        self.generation = generation
        self.is_aspired = True
        self.is_running = False
        self.failures = 0
        self.due_at: float | None = None
        self.has_resources = False
        self.was_refused = False
        self.error: ServingError | None = None
        self.replacement: ServableData[Loader] | None = None
        self._state = State.NEW
        if data.error is not None:
            self.fail(data.error)

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return self._state

    @property
    def snapshot(self) -> VersionSnapshot:
        """What a policy may know of it."""
        return VersionSnapshot(self.id, self._state, self.is_aspired)

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing will happen to it any more and nobody asks for it."""
        idle = self._state in FINAL or self._state is State.NEW
        return idle and not self.is_aspired and not self.is_running

    def would_load_the_same(self, data: ServableData[Loader]) -> bool:
        """Return whether *data* is for the content that this harness is for."""
        is_same_kind = (data.data is None) == (self.loader is None)
        return is_same_kind and data.attempt == self.attempt

    def request_load(self) -> None:
        """Take up the load; raises FailedPrecondition the second time."""
        if self._state is not State.NEW:
            raise FailedPrecondition("Duplicate load request")
        self.advance(Event.LOAD_REQUESTED)

    def request_unload(self) -> None:
        """Take up the unload; raises FailedPrecondition unless READY."""
        if self._state is not State.READY:
            raise FailedPrecondition(
                "Servable not loaded, or unload already requested/ongoing"
            )
        self.advance(Event.UNLOAD_REQUESTED)

    def advance(self, *events: Event) -> None:
        """Let *events* happen in turn; an illegal one ends in ERROR and raises."""
        for event in events:
            try:
                self._state = advance(self._state, event)
            except Exception:
                self._state = State.ERROR
                raise

    def fail(self, error: ServingError) -> None:
        """End in ERROR because of *error*."""
        self.advance(Event.FAILED)
        self.error = error
        self.due_at = None

    def start_over(self, data: ServableData[Loader]) -> None:
        """Load *data* instead of what failed so far, as if for the first time."""
        self.loader = data.data
        self.attempt = data.attempt
        self.replacement = None
        self.failures = 0
        self.has_resources = False
        self.due_at = None

    def __repr__(self) -> str:
        notes = "".join(
            (
                " aspired" if self.is_aspired else "",
                " running" if self.is_running else "",
                f" failures={self.failures}" if self.failures else "",
            )
        )
        return f"<LoaderHarness {self.id} {self._state.value}{notes}>"
