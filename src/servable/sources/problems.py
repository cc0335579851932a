"""Why a servable gets no versions: what was wrong at the last look at its base path."""

import threading


class ProblemBoard:
    """Remembers what is wrong with which servable's base path; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._problems: dict[str, str] = {}

    def note(self, name: str, problem: str) -> None:
        """Note what is wrong now, in one line without secrets; "" for nothing."""
        with self._lock:
            if problem:
                self._problems[name] = problem
            else:
                self._problems.pop(name, None)

    def of(self, name: str) -> str:
        """Return what is wrong with the base path of a servable, "" for nothing."""
        with self._lock:
            return self._problems.get(name, "")
