"""
Stand-ins that do what a test tells them, and nothing by themselves.

None of them starts a thread, sleeps or reads a clock.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from servable.core.servable_data import ServableData
from servable.core.source import Target

T = TypeVar("T")


class FakeClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let *seconds* go by."""
        self.now += seconds


class FakeLoader:
    """
    A Loader that keeps a record of what is done with it.

    Args:
        servable: what requests would be run on.
        failures: what the first loads raise, one each; the ones after succeed.
        size_bytes: the estimate; an exception to have it raised.
        unload_failure: what unload raises.

    Attributes:
        calls: names of the methods called, in order.
    """

    def __init__(
        self,
        servable: object = "servable",
        failures: Sequence[BaseException] = (),
        size_bytes: int | BaseException = 0,
        unload_failure: BaseException | None = None,
    ) -> None:
        self.calls: list[str] = []
        self._servable = servable
        self._failures = deque(failures)
        self._size_bytes = size_bytes
        self._unload_failure = unload_failure

    @property
    def is_loaded(self) -> bool:
        """Whether a load has succeeded and no unload was called since."""
        done = [call for call in self.calls if call in {"loaded", "unload"}]
        return bool(done) and done[-1] == "loaded"

    def estimate_resources(self) -> int:
        """See Loader."""
        self.calls.append("estimate_resources")
        if isinstance(self._size_bytes, BaseException):
            raise self._size_bytes
        return self._size_bytes

    def load(self) -> None:
        """See Loader."""
        self.calls.append("load")
        if self._failures:
            raise self._failures.popleft()
        self.calls.append("loaded")

    def servable(self) -> object:
        """See Loader."""
        return self._servable

    def unload(self) -> None:
        """See Loader."""
        self.calls.append("unload")
        if self._unload_failure is not None:
            raise self._unload_failure

    def __repr__(self) -> str:
        return f"<FakeLoader {self._servable!r} {self.calls}>"


class FakeTarget(Generic[T]):
    """A Target that remembers what it was told last of each name, and every call."""

    def __init__(self) -> None:
        self.aspired: dict[str, list[ServableData[T]]] = {}
        self.calls: list[tuple[str, list[ServableData[T]]]] = []

    def set_aspired_versions(
        self, name: str, versions: Sequence[ServableData[T]]
    ) -> None:
        """See Target."""
        self.aspired[name] = list(versions)
        self.calls.append((name, list(versions)))


class FakeSource(Generic[T]):
    """A Source that says what a test has it say."""

    def __init__(self) -> None:
        self._target: Target[T] | None = None

    def set_target(self, target: Target[T]) -> None:
        """See Source."""
        self._target = target

    def aspire(self, name: str, *versions: ServableData[T]) -> None:
        """Tell the Target that *versions* of *name* are aspired."""
        if self._target is None:
            raise RuntimeError("A FakeSource speaks only to a Target that is set")
        self._target.set_aspired_versions(name, versions)


class ManualPool:
    """
    A pool whose jobs run when, and in the order that, a test says.

    Attributes:
        jobs: those that were submitted and have not run.
    """

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def submit(self, job: Callable[[], None]) -> None:
        """Keep *job* for later."""
        self.jobs.append(job)

    def relieve(self, now: float) -> float | None:  # noqa: ARG002 - nothing runs here
        """Do nothing; see Pool."""
        return None

    def close(self) -> None:
        """Forget all jobs."""
        self.jobs.clear()

    def run_next(self) -> bool:
        """Run the oldest job here and now; return whether there was one."""
        if not self.jobs:
            return False
        self.jobs.pop(0)()
        return True
