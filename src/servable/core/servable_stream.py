"""
All versions under one name, and what happens to them: the manager's decisions.

Events go in, effects come out.  Nothing here loads, locks, logs, reads a clock or
knows of other streams; AspiredVersionsManager does all that.  The order of the
effects is the order in which they must be carried out.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from servable.core.lifecycle import LOAD_UNDER_WAY, Event, State
from servable.core.loader import Loader
from servable.core.loader_harness import LoaderHarness, RetryPolicy
from servable.core.servable_data import ServableData
from servable.core.servable_id import ServableId
from servable.core.servable_state import ManagerState, ServableState
from servable.core.version_policy import AspiredVersionPolicy, Load, VersionSnapshot
from servable.errors import Cancelled, ServingError


@dataclass(frozen=True, slots=True)
class PublishState:
    """Tell everybody that a version is in a state."""

    state: ServableState


@dataclass(frozen=True, slots=True)
class Reserve:
    """Ask the Loader for its estimate and reserve that; answer with `approve`."""

    id: ServableId
    loader: Loader
    retry: int  # 0 unless this begins another attempt


@dataclass(frozen=True, slots=True)
class StartLoad:
    """Call load; answer with `load_finished`."""

    id: ServableId
    loader: Loader
    retry: int


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Call `retry_due` at that time, because of that error."""

    id: ServableId
    due_at: float
    error: ServingError


@dataclass(frozen=True, slots=True)
class Serve:
    """Put the servable into the serving map."""

    id: ServableId
    loader: Loader


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take the servable out of the serving map."""

    id: ServableId


@dataclass(frozen=True, slots=True)
class StartUnload:
    """Call unload; answer with `unload_finished`."""

    id: ServableId
    loader: Loader


@dataclass(frozen=True, slots=True)
class Release:
    """Give back what was reserved."""

    id: ServableId


Effect: TypeAlias = (
    PublishState
    | Reserve
    | StartLoad
    | RetryAt
    | Serve
    | Withdraw
    | StartUnload
    | Release
)


class ServableStream:
    """
    Decides for the versions of one name.

    Attempts to load run one at a time, or as many as `set_max_loads` says.  An
    attempt that nobody wants any more, one that waits for its next try, and an
    unload that waits for a request to end do not count: none of them holds up
    another version.

    Not thread-safe.

    Args:
        name: of the stream.
        policy: which step comes next.
        retry_policy: when a load that failed is tried again.
    """

    def __init__(
        self, name: str, policy: AspiredVersionPolicy, retry_policy: RetryPolicy
    ) -> None:
        self.name = name
        self._policy = policy
        self._retry_policy = retry_policy
        self._max_loads = 1
        self._generation = 0
        self._harnesses: dict[ServableId, LoaderHarness] = {}
        # Aspired again while the harness of their past life is still there.
        self._waiting: dict[ServableId, ServableData[Loader]] = {}

    @property
    def versions(self) -> list[VersionSnapshot]:
        """All versions that are managed, lowest first."""
        return [self._harnesses[i].snapshot for i in sorted(self._harnesses)]

    def manages(self, servable_id: ServableId) -> bool:
        """Return whether a version is managed."""
        return servable_id in self._harnesses

    def attempt_of(self, servable_id: ServableId) -> Hashable:
        """Return what a managed version was aspired with; see ServableData."""
        return self._harnesses[servable_id].attempt

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing left to decide."""
        return not self._harnesses and not self._waiting

    def set_policy(self, policy: AspiredVersionPolicy, now: float) -> list[Effect]:
        """Ask *policy* from now on."""
        self._policy = policy
        return self._settle(now)

    def is_aspired(self, servable_id: ServableId) -> bool:
        """Return whether a version is managed and wanted."""
        harness = self._harnesses.get(servable_id)
        return harness is not None and harness.is_aspired

    def set_max_loads(self, count: int, now: float) -> list[Effect]:
        """Let *count* attempts that are wanted run at a time."""
        self._max_loads = count
        return self._settle(now)

    def aspire(
        self, versions: Sequence[ServableData[Loader]], now: float, generation: int = 0
    ) -> list[Effect]:
        """
        Take *versions* as all that are aspired; the last of equal ids counts.

        What is published of them is of *generation*.
        """
        self._generation = generation
        aspired = {data.id: data for data in versions}
        self._waiting.clear()
        for harness in self._harnesses.values():
            if harness.id not in aspired:
                harness.is_aspired = False
        effects: list[Effect] = []
        for data in aspired.values():
            known = self._harnesses.get(data.id)
            if known is None:
                effects += self._manage(data)
            elif known.is_aspired:
                effects += self._aspire_still(known, data)
            else:
                self._aspire_again(known, data)
        effects += self._renew()
        return effects + self._settle(now)

    def approve(self, servable_id: ServableId, now: float) -> list[Effect]:
        """Note that the resources of a version are reserved."""
        harness = self._harnesses[servable_id]
        harness.has_resources = True
        if not harness.is_aspired:
            harness.is_running = False
            return self._settle(now)
        start_load = StartLoad(harness.id, _loader(harness), retry=0)
        if harness.state is State.LOADING:  # other data after a load that failed
            return [start_load]
        harness.advance(Event.LOAD_APPROVED)
        loading = self._public(harness, ManagerState.LOADING)
        harness.advance(Event.LOAD_STARTED)
        return [loading, start_load]

    def refuse(
        self, servable_id: ServableId, error: ServingError, now: float
    ) -> list[Effect]:
        """Note that there is no room for a version; see `room_again`."""
        harness = self._harnesses[servable_id]
        harness.is_running = False
        harness.was_refused = True
        return self._end_in_error(harness, error) + self._settle(now)

    def room_again(self, servable_id: ServableId, now: float) -> list[Effect]:
        """Try a version that was refused once more, if it is still wanted."""
        harness = self._harnesses.get(servable_id)
        if harness is None or not (harness.was_refused and harness.is_aspired):
            return []
        loader = _loader(harness)
        del self._harnesses[servable_id]
        data = ServableData(servable_id, loader, attempt=harness.attempt)
        return self._manage(data) + self._settle(now)

    def load_finished(
        self, servable_id: ServableId, error: ServingError | None, now: float
    ) -> list[Effect]:
        """Note how an attempt ended: the estimate or the load, *error* if it failed."""
        harness = self._harnesses[servable_id]
        harness.is_running = False
        effects: list[Effect] = []
        if error is not None:
            effects = self._load_failed(harness, error, now)
        elif harness.is_aspired:
            harness.advance(Event.LOAD_SUCCEEDED)
            harness.error = None  # of attempts before this one
            harness.replacement = None
            effects = [
                Serve(harness.id, _loader(harness)),
                self._public(harness, ManagerState.AVAILABLE),
            ]
        else:
            harness.advance(Event.LOAD_CANCELLED)
            harness.error = _cancelled()
            harness.is_running = True
            effects = [StartUnload(harness.id, _loader(harness))]
        return effects + self._settle(now)

    def retry_due(self, servable_id: ServableId, now: float) -> list[Effect]:
        """Note that the time has come that a RetryAt named."""
        return self._settle(now) if servable_id in self._harnesses else []

    def unload_finished(
        self, servable_id: ServableId, error: ServingError | None, now: float
    ) -> list[Effect]:
        """Note that an unload ended, with *error* if it failed."""
        harness = self._harnesses[servable_id]
        harness.is_running = False
        if error is not None:
            return self._end_in_error(harness, error) + self._settle(now)
        if harness.state is State.QUIESCING:
            # An unload waits for the last handle first, so both are over by now.
            harness.advance(Event.QUIESCED, Event.UNLOAD_STARTED)
        harness.advance(Event.UNLOADED)
        end = self._public(harness, ManagerState.END)
        return [Release(harness.id), end, *self._settle(now)]

    def _manage(self, data: ServableData[Loader]) -> list[Effect]:
        harness = self._harnesses[data.id] = LoaderHarness(data, self._generation)
        if harness.state is State.ERROR:
            return [self._public(harness, ManagerState.END)]
        return [self._public(harness, ManagerState.START)]

    def _aspire_still(
        self, harness: LoaderHarness, data: ServableData[Loader]
    ) -> list[Effect]:
        if harness.would_load_the_same(data):
            harness.replacement = None
        elif harness.state is State.ERROR:
            del self._harnesses[harness.id]
            return self._manage(data)
        elif harness.state is State.READY or data.data is None:
            pass  # an error of the Source is no reason to give up what goes well
        elif harness.is_running:
            harness.replacement = data
        else:
            harness.start_over(data)
        return []

    def _aspire_again(self, harness: LoaderHarness, data: ServableData[Loader]) -> None:
        goes_well = harness.state in LOAD_UNDER_WAY or harness.state is State.READY
        if goes_well and harness.would_load_the_same(data):
            harness.is_aspired = True
        else:
            self._waiting[data.id] = data

    def _renew(self) -> list[Effect]:
        """Let what is aspired be of this generation, and tell of what is at rest."""
        effects: list[Effect] = []
        for harness in self._harnesses.values():
            if harness.is_aspired and harness.generation != self._generation:
                harness.generation = self._generation
                if harness.state is State.READY:
                    effects.append(self._public(harness, ManagerState.AVAILABLE))
                elif harness.state is State.ERROR:
                    effects.append(self._public(harness, ManagerState.END))
        return effects

    def _settle(self, now: float) -> list[Effect]:
        """Do all that can be done now."""
        effects = self._cancel_unaspired()
        effects += self._flush()
        while (step := self._next_step(now)) is not None:
            effects += step
        return effects

    def _cancel_unaspired(self) -> list[Effect]:
        """End what was not loaded yet and is not aspired any more."""
        effects: list[Effect] = []
        for harness in self._harnesses.values():
            pending = harness.state in LOAD_UNDER_WAY or harness.state is State.NEW
            if pending and not harness.is_aspired and not harness.is_running:
                effects += self._end_in_error(harness, _cancelled())
        return effects

    def _flush(self) -> list[Effect]:
        """Forget what is over, and begin with what waited for that."""
        for servable_id in [i for i, h in self._harnesses.items() if h.is_forgettable]:
            del self._harnesses[servable_id]
        effects: list[Effect] = []
        for servable_id in [i for i in self._waiting if i not in self._harnesses]:
            effects += self._manage(self._waiting.pop(servable_id))
        return effects

    def _next_step(self, now: float) -> list[Effect] | None:
        action = self._policy.next_action(self.versions)
        running = [h for h in self._harnesses.values() if h.is_aspired and h.is_running]
        is_busy = len(running) >= self._max_loads
        if action is None or (is_busy and isinstance(action, Load)):
            return None if is_busy else self._next_retry(now)
        harness = self._harnesses[action.id]
        if isinstance(action, Load):
            harness.request_load()
            return [self._attempt(harness)]
        unloading = self._public(harness, ManagerState.UNLOADING)
        harness.request_unload()
        harness.advance(Event.QUIESCE_STARTED)
        harness.is_running = True
        loader = _loader(harness)
        return [unloading, Withdraw(harness.id), StartUnload(harness.id, loader)]

    def _next_retry(self, now: float) -> list[Effect] | None:
        due = [
            harness
            for harness in self._harnesses.values()
            if harness.state in LOAD_UNDER_WAY
            and not harness.is_running
            and (harness.due_at is None or harness.due_at <= now)
        ]
        if not due:
            return None
        return [self._attempt(min(due, key=lambda h: (h.due_at or now, h.id)))]

    def _attempt(self, harness: LoaderHarness) -> Effect:
        harness.is_running = True
        harness.due_at = None
        if harness.has_resources:
            return StartLoad(harness.id, _loader(harness), harness.failures)
        return Reserve(harness.id, _loader(harness), harness.failures)

    def _load_failed(
        self, harness: LoaderHarness, error: ServingError, now: float
    ) -> list[Effect]:
        harness.failures += 1
        harness.error = error
        if not harness.is_aspired:
            return self._end_in_error(harness, _cancelled())
        if harness.replacement is not None:
            harness.start_over(harness.replacement)
            return [Release(harness.id)]
        harness.due_at = self._retry_policy.due_at(harness.failures, now)
        if harness.due_at is None:
            return self._end_in_error(harness, error)
        return [RetryAt(harness.id, harness.due_at, error)]

    def _end_in_error(
        self, harness: LoaderHarness, error: ServingError
    ) -> list[Effect]:
        harness.fail(error)
        return [Release(harness.id), self._public(harness, ManagerState.END)]

    def _public(self, harness: LoaderHarness, state: ManagerState) -> PublishState:
        error = harness.error if state is ManagerState.END else None
        return PublishState(ServableState(harness.id, state, error, harness.generation))

    def __repr__(self) -> str:
        versions = ", ".join(
            f"{v.id.version}{'' if v.is_aspired else '-'} {v.state.value}"
            for v in self.versions
        )
        return f"<ServableStream {self.name} [{versions}]>"


def _loader(harness: LoaderHarness) -> Loader:
    if harness.loader is None:
        raise TypeError(f"{harness!r} has nothing to load")
    return harness.loader


def _cancelled() -> Cancelled:
    return Cancelled("Loading of servable cancelled")
