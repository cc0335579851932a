"""
What is known about every version there ever was.

The history is never forgotten: a version that was unloaded or that failed stays
as END, so that GetModelStatus can tell.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

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
        self._streams: dict[str, dict[int, ServableState]] = {}
        self._is_closed = False

    def record(self, state: ServableState) -> None:
        """Take *state* as the newest of its version.  Never blocks for long."""
        with self._changed:
            self._streams.setdefault(state.id.name, {})[state.id.version] = state
            self._changed.notify_all()

    def state_of(self, servable_id: ServableId) -> ServableState | None:
        """Return the last state of a version, None for one never seen."""
        with self._changed:
            return self._streams.get(servable_id.name, {}).get(servable_id.version)

    def states_of(self, name: str) -> list[ServableState]:
        """Return the last state of every version of *name*, highest version first."""
        with self._changed:
            stream = self._streams.get(name, {})
            return [stream[version] for version in sorted(stream, reverse=True)]

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
        self, generations: Mapping[str, int], timeout_s: float | None = None
    ) -> Mapping[str, ServableState]:
        """
        Wait until each stream has a version that is AVAILABLE or at its END.

        Returns the state that decided for each name: of several versions that
        could, the highest.  It is for the caller to look which of them are in END.

        Args:
            generations: servable streams, of which unknown ones are waited for, and
                from which generation on a version decides: what was aspired before
                does not, so that a stream can be taken up again.
            timeout_s: how long to wait; None waits for ever.

        Raises:
            DeadlineExceeded: the time is over.
            Cancelled: the monitor was closed meanwhile.
        """
        deadline = None if timeout_s is None else self._clock() + timeout_s
        with self._changed:
            while True:
                decided = {n: self._decisive(n, g) for n, g in generations.items()}
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

    def _decisive(self, name: str, generation: int) -> ServableState | None:
        stream = self._streams.get(name, {})
        for version in sorted(stream, reverse=True):
            state = stream[version]
            if state.generation >= generation and state.manager_state in _DECISIVE:
                return state
        return None


_DECISIVE: Final = frozenset({ManagerState.AVAILABLE, ManagerState.END})
