"""
What is known about every version there ever was.

The history is never forgotten: a version that was unloaded or that failed stays
as END, so that GetModelStatus can tell.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping

from servable.core.servable_id import ServableId
from servable.core.servable_state import ManagerState, ServableState
from servable.errors import Cancelled, DeadlineExceeded


class ServableStateMonitor:
    """
    Remembers the last state of every version; subscribe `record` to an EventBus.

    Thread-safe.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._streams: dict[str, dict[int, _Entry]] = {}
        self._sequence = 0
        self._is_closed = False

    @property
    def sequence(self) -> int:
        """How many states have been recorded: a mark for `wait_until_available`."""
        return self._sequence

    def record(self, state: ServableState) -> None:
        """Take *state* as the newest of its version.  Never blocks for long."""
        with self._changed:
            self._sequence += 1
            stream = self._streams.setdefault(state.id.name, {})
            stream[state.id.version] = (self._sequence, state)
            self._changed.notify_all()

    def state_of(self, servable_id: ServableId) -> ServableState | None:
        """Return the last state of a version, None for one never seen."""
        with self._changed:
            stream = self._streams.get(servable_id.name, {})
            entry = stream.get(servable_id.version)
        return entry[1] if entry else None

    def states_of(self, name: str) -> list[ServableState]:
        """Return the last state of every version of *name*, highest version first."""
        with self._changed:
            stream = self._streams.get(name, {})
            return [stream[version][1] for version in sorted(stream, reverse=True)]

    def all_states(self) -> dict[str, list[ServableState]]:
        """Return `states_of` for every name ever seen."""
        with self._changed:
            names = sorted(self._streams)
        return {name: self.states_of(name) for name in names}

    def is_available(self, servable_id: ServableId) -> bool:
        """Return whether requests can be sent to this version now."""
        state = self.state_of(servable_id)
        return state is not None and state.manager_state is ManagerState.AVAILABLE

    def wait_until_available(
        self, names: Collection[str], timeout_s: float | None = None, since: int = 0
    ) -> Mapping[str, ServableState]:
        """
        Wait until each of *names* has a version that is AVAILABLE or at its END.

        Returns the state that decided for each name: of several versions that
        could, the highest.  It is for the caller to look which of them are in END.

        Args:
            names: servable streams; unknown ones are waited for.
            timeout_s: how long to wait; None waits for ever.
            since: an earlier `sequence`; a version that came to its END before it
                does not decide, so that a stream can be taken up again.

        Raises:
            DeadlineExceeded: the time is over.
            Cancelled: the monitor was closed meanwhile.
        """
        deadline = None if timeout_s is None else self._clock() + timeout_s
        with self._changed:
            while True:
                decided = {name: self._decisive(name, since) for name in names}
                waiting = [name for name, state in decided.items() if state is None]
                if not waiting:
                    return {n: state for n, state in decided.items() if state}
                if self._is_closed:
                    raise Cancelled("Waiting for servables was cancelled")
                left = None if deadline is None else deadline - self._clock()
                if left is not None and left <= 0:
                    raise DeadlineExceeded(
                        f"Servables did not become available: {', '.join(waiting)}"
                    )
                self._changed.wait(left)

    def close(self) -> None:
        """Make all who wait, now or later, give up with Cancelled."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _decisive(self, name: str, since: int) -> ServableState | None:
        stream = self._streams.get(name, {})
        for version in sorted(stream, reverse=True):
            sequence, state = stream[version]
            if state.manager_state is ManagerState.AVAILABLE:
                return state
            if state.manager_state is ManagerState.END and sequence > since:
                return state
        return None


_Entry = tuple[int, ServableState]
