"""
The manager: takes what is aspired, and makes it so.

One thread hears all events, asks the ServableStream concerned what follows, and
has that done.  Whatever may block (estimates, loads, unloads) runs on two pools,
and comes back as an event.  Nothing sleeps: retries are due times on a heap.

    set_aspired_versions ─┐                      ┌─▶ event bus, serving map
    estimates, loads ─────┼─▶ inbox ─▶ stream ───┤
    unloads, due times ───┘                      └─▶ load pool, unload pool
"""

import contextlib
import dataclasses
import heapq
import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from servable.core import manager_log
from servable.core.event_bus import EventBus
from servable.core.loader import Loader, shared_resources
from servable.core.loader_harness import RetryPolicy
from servable.core.progress import ProgressBoard
from servable.core.resources import ResourcePool
from servable.core.servable_data import FailedLoad, ServableData
from servable.core.servable_id import ServableId
from servable.core.servable_state import ManagerState, ServableState
from servable.core.servable_stream import (
    Effect,
    PublishState,
    Release,
    Reserve,
    RetryAt,
    ServableStream,
    Serve,
    StartLoad,
    StartUnload,
    Withdraw,
)
from servable.core.serving_map import ServingMap
from servable.core.version_policy import (
    AspiredVersionPolicy,
    AvailabilityPreservingPolicy,
)
from servable.core.worker_pool import Pool, WorkerPool
from servable.errors import ResourceExhausted, ServingError, from_code, from_exception

_log = logging.getLogger(__name__)


class AspiredVersionsManager:
    """
    Owns all versions: loads, serves, unloads.  A Target of Loaders; thread-safe.

    Args:
        serving_map: gets what is READY, before AVAILABLE is published, and loses it
            after UNLOADING was.
        event_bus: gets every ServableState; subscribers run on the manager's thread.
        policy: which step comes next in each stream that has no policy of its own.
        retry_policy: when a load that failed is tried again.
        resources: what loads reserve their memory in.
        load_pool: where estimates and loads run; one thread when left out.
        unload_pool: where unloads run and wait for the last handle.
        clock: monotonic seconds.

    Attributes:
        progress: what is being done for each version.
    """

    def __init__(
        self,
        serving_map: ServingMap,
        event_bus: EventBus[ServableState],
        *,
        policy: AspiredVersionPolicy | None = None,
        retry_policy: RetryPolicy | None = None,
        resources: ResourcePool | None = None,
        load_pool: Pool | None = None,
        unload_pool: Pool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._serving_map = serving_map
        self._event_bus = event_bus
        self._policy = policy or AvailabilityPreservingPolicy()
        self._retry_policy = retry_policy or RetryPolicy()
        self._resources = resources or ResourcePool()
        self._load_pool = load_pool or new_load_pool(0)
        self._unload_pool = unload_pool or new_unload_pool(0)
        self._clock = clock
        self.progress = ProgressBoard(clock)
        # Written by the manager's thread only.
        self._failed_loads: dict[ServableId, FailedLoad] = {}
        self._inbox: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        # By stream; what is aspired gets it before it is queued.
        self._generations: dict[str, int] = {}
        self._last_generation = itertools.count(1)
        # All below belongs to the manager's thread.
        self._streams: dict[str, ServableStream] = {}
        self._policies: Mapping[str, AspiredVersionPolicy] = {}
        self._max_loads = 1
        self._retries: list[tuple[float, ServableId]] = []
        self._awaiting_resources: list[_Estimated] = []
        self._refused: dict[ServableId, _Estimated] = {}  # for lack of memory
        self._has_freed = False  # since the refused were last looked at
        self._holding: set[ServableId] = set()  # reserved, and loading or unloading
        self._is_stopping = False
        self._is_left = False
        self._thread = threading.Thread(target=self._run, name="manager", daemon=True)
        self._is_empty = threading.Event()

    def start(self) -> None:
        """Begin to act; what was aspired before is done now."""
        self._thread.start()

    def failed_load(self, servable_id: ServableId) -> FailedLoad | None:
        """Return how the last load of a version failed, None unless it did."""
        return self._failed_loads.get(servable_id)

    def stop(self, timeout_s: float | None = None) -> bool:
        """
        Unload everything, wait for that, and end the manager's thread.

        Returns False when something was still in use after *timeout_s* seconds; it
        is then left as it is.  Only after `start`.  Blocks.
        """
        self._inbox.put(_Stop())
        is_empty = self._is_empty.wait(timeout_s)
        self._inbox.put(_Leave())
        self._thread.join(timeout_s)
        self._load_pool.close()
        self._unload_pool.close()
        return is_empty

    def set_aspired_versions(
        self, name: str, versions: Sequence[ServableData[Loader]]
    ) -> None:
        """Take *versions* as all that are wanted of *name*; see Target."""
        for data in versions:
            if data.id.name != name:
                raise ValueError(f"{data.id} is no version of {name}")
        generation = self._generations.get(name, 0)
        self._inbox.put(_Aspired(name, tuple(versions), generation))

    def begin_generation(self, names: Iterable[str]) -> int:
        """
        Return a new generation of the streams *names*, higher than all before.

        A state tells by its generation that its version was aspired after this call:
        what is still to come of those that were aspired before has a lower one.
        """
        generation = next(self._last_generation)
        self._generations |= dict.fromkeys(names, generation)
        return generation

    def set_max_loads_per_stream(self, count: int) -> None:
        """Let *count* versions of a stream load at a time; 1 until this is called."""
        self._inbox.put(_MaxLoads(count))

    def set_version_policies(
        self, policies: Mapping[str, AspiredVersionPolicy]
    ) -> None:
        """Ask these *policies* from now on, by stream name; the default for others."""
        self._inbox.put(_Policies(dict(policies)))

    def process(self) -> float | None:
        """
        Handle all that has come in and is due, without waiting.

        Returns when to call again though nothing has come in, None for never.  Only
        for the manager's thread, and for tests in its place.
        """
        while True:
            try:
                self._handle(self._inbox.get_nowait())
            except queue.Empty:
                break
        return self._handle_due(self._clock())

    def _run(self) -> None:
        while not self._is_left:
            due_at = self.process()
            timeout_s = None if due_at is None else max(due_at - self._clock(), 0.0)
            with contextlib.suppress(queue.Empty):
                self._handle(self._inbox.get(timeout=timeout_s))

    def _handle(self, message: "_Message") -> None:
        try:
            self._dispatch(message)
        except Exception:  # noqa: BLE001 - our fault must not stop other streams
            _log.exception("The manager failed on %s", message)

    def _dispatch(self, message: "_Message") -> None:
        now = self._clock()
        match message:
            case _Aspired(name, versions, generation):
                wanted = () if self._is_stopping else versions
                self._carry_out(self._stream(name).aspire(wanted, now, generation))
                self._forget_if_empty(name)
            case _Estimated():
                self._awaiting_resources.append(message)
            case _LoadFinished(servable_id, error, retry):
                self._holding.discard(servable_id)
                manager_log.log_load(servable_id, error)
                if retry == self._retry_policy.max_num_load_retries:
                    manager_log.log_last_attempt(servable_id, retry)
                stream = self._stream(servable_id.name)
                self._note_end(stream, servable_id, error)
                self._carry_out(stream.load_finished(servable_id, error, now))
                self._forget_if_empty(servable_id.name)
            case _UnloadFinished(servable_id, error):
                self._holding.discard(servable_id)
                manager_log.log_unload(servable_id, error)
                stream = self._stream(servable_id.name)
                self._carry_out(stream.unload_finished(servable_id, error, now))
                self._forget_if_empty(servable_id.name)
            case _MaxLoads() | _Policies() | _Stop() | _Leave():
                self._obey(message, now)
        self._share_memory(now)
        if self._is_stopping and not self._streams:
            self._is_empty.set()

    def _obey(
        self, command: "_MaxLoads | _Policies | _Stop | _Leave", now: float
    ) -> None:
        match command:
            case _Policies(policies):
                self._policies = policies
                for stream in list(self._streams.values()):
                    policy = policies.get(stream.name, self._policy)
                    self._carry_out(stream.set_policy(policy, now))
            case _MaxLoads(count):
                self._max_loads = count
                for stream in self._streams.values():
                    self._carry_out(stream.set_max_loads(count, now))
            case _Stop():
                self._is_stopping = True
                for stream in list(self._streams.values()):
                    self._carry_out(stream.aspire([], now))
                    self._forget_if_empty(stream.name)
            case _Leave():
                self._is_left = True

    def _handle_due(self, now: float) -> float | None:
        while self._retries and self._retries[0][0] <= now:
            _, servable_id = heapq.heappop(self._retries)
            if stream := self._streams.get(servable_id.name):
                self._carry_out(stream.retry_due(servable_id, now))
        self._share_memory(now)
        times = [
            self._retries[0][0] if self._retries else None,
            self._load_pool.relieve(now),
            self._unload_pool.relieve(now),
        ]
        return min((t for t in times if t is not None), default=None)

    def _stream(self, name: str) -> ServableStream:
        if name not in self._streams:
            policy = self._policies.get(name, self._policy)
            stream = ServableStream(name, policy, self._retry_policy)
            stream.set_max_loads(self._max_loads, self._clock())
            self._streams[name] = stream
        return self._streams[name]

    def _note_end(
        self,
        stream: ServableStream,
        servable_id: ServableId,
        error: ServingError | None,
    ) -> None:
        if error is None:
            self._failed_loads.pop(servable_id, None)
        else:
            attempt = stream.attempt_of(servable_id)
            self._failed_loads[servable_id] = FailedLoad(attempt, error)

    def _forget_if_empty(self, name: str) -> None:
        stream = self._streams[name]
        for failed in [i for i in self._failed_loads if i.name == name]:
            if not stream.manages(failed):
                del self._failed_loads[failed]
        if stream.is_empty:
            del self._streams[name]

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case PublishState(state):
                    self._publish(state)
                case Reserve(servable_id, loader, retry):
                    manager_log.log_retry(servable_id, retry)
                    self.progress.begin(servable_id, "estimates its memory")
                    self._load_pool.submit(self._estimating(servable_id, loader, retry))
                case StartLoad(servable_id, loader, retry):
                    manager_log.log_retry(servable_id, retry)
                    _log.info("Loading servable version %s", servable_id)
                    self._holding.add(servable_id)
                    attempt = f"loads, attempt {retry + 1}" if retry else "loads"
                    self.progress.begin(servable_id, attempt, loader)
                    self._load_pool.submit(self._loading(servable_id, loader, retry))
                case RetryAt(servable_id, due_at, error):
                    heapq.heappush(self._retries, (due_at, servable_id))
                    wait_s = due_at - self._clock()
                    cause = error.status_text.partition("\n")[0]
                    what = f"failed, and is tried again {wait_s:.3g} s later: {cause}"
                    self.progress.begin(servable_id, what)
                case Serve(servable_id, loader):
                    self._serving_map.add(servable_id, loader.servable())
                case Withdraw(servable_id):
                    self._serving_map.remove(servable_id)
                case StartUnload(servable_id, loader):
                    self._holding.add(servable_id)
                    self.progress.begin(servable_id, "ends its requests and unloads")
                    self._unload_pool.submit(self._unloading(servable_id, loader))
                case Release(servable_id):
                    self._has_freed |= self._resources.release(servable_id) > 0

    def _publish(self, state: ServableState) -> None:
        manager_log.log_state(state)
        if state.manager_state in _AT_REST:
            self.progress.end(state.id)
        self._event_bus.publish(state)

    def _share_memory(self, now: float) -> None:
        """Give memory to those who wait for it, as far as it goes, first come first."""
        waiting, self._awaiting_resources = self._awaiting_resources, []
        for request in waiting:
            servable_id = request.id
            stream = self._stream(servable_id.name)
            if not stream.is_aspired(servable_id):
                effects = stream.approve(servable_id, now)  # which cancels it
            elif self._resources.reserve(*request.reservation):
                _log.info(
                    "Successfully reserved resources to load servable %s", servable_id
                )
                _log.info("Approving load for servable version %s", servable_id)
                effects = stream.approve(servable_id, now)
            elif self._holding:
                self._awaiting_resources.append(self._waiting_still(request))
                continue  # what is under way may give memory back
            else:
                error = ResourceExhausted(
                    f"Insufficient resources to load servable {servable_id}: "
                    f"{self._shortage(request)}"
                )
                self._refused[servable_id] = request
                effects = stream.refuse(servable_id, error, now)
            self._carry_out(effects)
            self._forget_if_empty(servable_id.name)
        if self._has_freed:
            self._has_freed = False
            self._try_refused(now)

    def _try_refused(self, now: float) -> None:
        """Let those try again that were refused, as many as fit together now."""
        trial = self._resources.copy()
        for servable_id, request in list(self._refused.items()):
            stream = self._streams.get(servable_id.name)
            if stream is None or not stream.is_aspired(servable_id):
                del self._refused[servable_id]
            elif trial.reserve(*request.reservation):
                del self._refused[servable_id]
                _log.info("There is room now for servable version %s", servable_id)
                self._carry_out(stream.room_again(servable_id, now))

    def _waiting_still(self, request: "_Estimated") -> "_Estimated":
        if not request.is_told:
            _log.info(
                "Servable version %s waits for memory that others may give back: %s",
                request.id,
                self._shortage(request),
            )
            self.progress.begin(request.id, "waits for memory")
        return dataclasses.replace(request, is_told=True)

    def _shortage(self, request: "_Estimated") -> str:
        needed = request.size_bytes + sum(request.shared.values())
        return (
            f"it needs {needed} bytes, and of {self._resources.limit_bytes}"
            f" bytes {self._resources.reserved_bytes} are reserved"
        )

    def _estimating(
        self, servable_id: ServableId, loader: Loader, retry: int
    ) -> Callable[[], None]:
        def estimate() -> None:
            try:
                size_bytes = loader.estimate_resources()
                shared = shared_resources(loader)
            except BaseException as exc:  # noqa: BLE001 - it becomes the status
                cause = from_exception(exc)
                text = (
                    "Error while attempting to reserve resources to load servable "
                    f"{servable_id}: {cause.message}"
                )
                error = from_code(cause.code, text)
                self._inbox.put(_LoadFinished(servable_id, error, retry))
            else:
                self._inbox.put(_Estimated(servable_id, size_bytes, shared))

        return estimate

    def _loading(
        self, servable_id: ServableId, loader: Loader, retry: int
    ) -> Callable[[], None]:
        def load() -> None:
            self._inbox.put(_LoadFinished(servable_id, _error_of(loader.load), retry))

        return load

    def _unloading(self, servable_id: ServableId, loader: Loader) -> Callable[[], None]:
        def unload() -> None:
            _log.info("Quiescing servable version %s", servable_id)
            error = _error_of(loader.unload)
            self._inbox.put(_UnloadFinished(servable_id, error))

        return unload

    def __repr__(self) -> str:
        return f"<AspiredVersionsManager {list(self._streams.values())}>"


_AT_REST: Final = frozenset({ManagerState.AVAILABLE, ManagerState.END})


def new_load_pool(num_load_threads: int) -> WorkerPool:
    """Return a pool for that many loads at a time; 0 and less mean one."""
    # It may be a big model or a dead mount; the small ones need not wait to know.
    return WorkerPool("load", max(num_load_threads, 1), stall_s=10.0)


def new_unload_pool(num_unload_threads: int) -> WorkerPool:
    """Return a pool for that many unloads at a time; 0 and less mean one."""
    # Requests that still run are what an unload waits for, and they may run long.
    return WorkerPool("unload", max(num_unload_threads, 1), stall_s=0.5)


def num_initial_load_threads() -> int:
    """Return how many loads run at a time while a server starts."""
    return 4 * (os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class _Aspired:
    name: str
    versions: tuple[ServableData[Loader], ...]
    generation: int


@dataclass(frozen=True, slots=True)
class _Estimated:
    id: ServableId
    size_bytes: int
    shared: Mapping[Hashable, int]
    is_told: bool = False  # whether the log says that it waits

    @property
    def reservation(self) -> tuple[ServableId, int, Mapping[Hashable, int]]:
        return self.id, self.size_bytes, self.shared


@dataclass(frozen=True, slots=True)
class _LoadFinished:
    id: ServableId
    error: ServingError | None
    retry: int


@dataclass(frozen=True, slots=True)
class _UnloadFinished:
    id: ServableId
    error: ServingError | None


@dataclass(frozen=True, slots=True)
class _MaxLoads:
    count: int


@dataclass(frozen=True, slots=True)
class _Policies:
    policies: Mapping[str, AspiredVersionPolicy]


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


@dataclass(frozen=True, slots=True)
class _Leave:
    pass


_Message: TypeAlias = (
    _Aspired
    | _Estimated
    | _LoadFinished
    | _UnloadFinished
    | _MaxLoads
    | _Policies
    | _Stop
    | _Leave
)


def _error_of(call: Callable[[], None]) -> ServingError | None:
    try:
        call()
    except BaseException as exc:  # noqa: BLE001 - it becomes the status
        return from_exception(exc)
    return None
