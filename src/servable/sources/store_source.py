"""
Tells which versions are in stores, and has them fetched before anybody loads them.

This file has the threads: it looks at each store when that is due, fetches what
`remote_versions` decides, and tells the Target.  Servables do not know of each other:
one whose store is down keeps what it has, and all others go on.
"""

import functools
import logging
import operator
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from servable.core.progress import ProgressBoard
from servable.core.servable_data import FailedLoad, ServableData
from servable.core.servable_id import ServableId
from servable.core.source import Target
from servable.core.storage_path import StoragePath
from servable.core.worker_pool import Pool, WorkerPool
from servable.errors import (
    Cancelled,
    Code,
    NotFound,
    ServingError,
    Unavailable,
    from_code,
    from_exception,
)
from servable.sources.cache import Fetching, Lease, ModelCache
from servable.sources.problems import ProblemBoard
from servable.sources.remote_versions import RemoteVersions, back_off_s
from servable.sources.store import Content, Fetched, LocalContent, VersionStore
from servable.sources.urls import place_of, redacted, redacted_text, scheme_of
from servable.sources.versions import (
    FileSystemStoragePathSourceConfig,
    Listing,
    ServableToMonitor,
    Specific,
    versions_among,
)

_log = logging.getLogger(__name__)

_LOOKS_AT_A_TIME: Final = 4  # in one place, and in all together
_FETCHES_AT_A_TIME: Final = 4
_PROGRESS_EVERY_S: Final = 10.0
_MIB: Final = 1 << 20
# What loads fail with, whatever is in the files.
_NOT_OF_THE_FILES: Final = frozenset(
    {
        Code.CANCELLED,
        Code.DEADLINE_EXCEEDED,
        Code.FAILED_PRECONDITION,
        Code.PERMISSION_DENIED,
        Code.RESOURCE_EXHAUSTED,
        Code.UNAVAILABLE,
    }
)


class StoreSource:
    """
    A Source of StoragePath over stores: each path told is a complete local copy.

    A version is aspired when it was fetched into the cache; until then those before
    it stay.  When a store cannot be reached, nothing changes, and it is asked again
    less and less often.  Thread-safe.

    Args:
        new_store: makes the store of a servable; may raise.
        cache: where versions are fetched to.
        poll_wait_s: seconds between two looks; 0 looks until what is wanted was
            fetched, and again after each change of the config; less than 0 never.
        is_available: whether requests can be sent to a version.
        failed_load: how the last load of a version failed, None unless it did.
        check: raises a ServingError for a servable that can never be looked at.
        record: is told of what became of each fetch.
        progress: is told of what is being fetched.
        problems: is told of what is wrong with a base path.
        clock: monotonic seconds.
        jitter: draws from 0 to 1.
    """

    def __init__(
        self,
        new_store: Callable[[ServableToMonitor], VersionStore],
        cache: ModelCache,
        poll_wait_s: float = 1.0,
        *,
        is_available: Callable[[ServableId], bool] = lambda _: False,
        failed_load: Callable[[ServableId], FailedLoad | None] = lambda _: None,
        check: Callable[[ServableToMonitor], None] = lambda _: None,
        record: Callable[[Fetched], None] = lambda _: None,
        progress: ProgressBoard | None = None,
        problems: ProblemBoard | None = None,
        look_pool: Pool | None = None,
        fetch_pool: Pool | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._new_store = new_store
        self._cache = cache
        self._poll_wait_s = poll_wait_s
        self._is_available = is_available
        self._failed_load = failed_load
        self._check = check
        self._record = record
        self._progress = progress or ProgressBoard()
        self._problems = problems or ProblemBoard()
        # A look that takes longer is at a store that hangs; those at others go on.
        self._look_pool = look_pool or WorkerPool("store", _LOOKS_AT_A_TIME, 2.0)
        self._fetch_pool = fetch_pool or WorkerPool("fetch", _FETCHES_AT_A_TIME, 0)
        self._clock = clock
        self._jitter = jitter
        self._target: Target[StoragePath] | None = None
        # Held while the Target is told, so that it hears all in the right order.
        self._lock = threading.Lock()
        self._always_present = False
        self._monitors: dict[str, _Monitor] = {}
        self._looks: Counter[str] = Counter()  # that run, by place
        self._wake = threading.Event()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="stores", daemon=True)

    def check(self, config: FileSystemStoragePathSourceConfig) -> None:
        """Raise a ServingError if something in *config* can never be looked at."""
        for servable in config.servables:
            self._check(servable)

    def store(self, servable: ServableToMonitor) -> VersionStore:
        """Return a store of *servable*, for the caller to ask; raises as it does."""
        return self._new_store(servable)

    def set_target(self, target: Target[StoragePath]) -> None:
        """Begin to look, and tell *target*; the first look is at once."""
        self._target = target
        if self._poll_wait_s >= 0:
            self._thread.start()

    def set_config(self, config: FileSystemStoragePathSourceConfig) -> None:
        """
        Look at *config* from now on, beginning at once.

        The Target hears before this returns that nothing is aspired any more of
        the servables that are not in it.
        """
        with self._lock:
            before = self._monitors
            self._always_present = config.servable_versions_always_present
            self._monitors = {
                servable.servable_name: (
                    before[servable.servable_name].with_servable(servable)
                    if servable.servable_name in before
                    else _Monitor(servable)
                )
                for servable in config.servables
            }
            for monitor in self._monitors.values():
                monitor.look_at = self._clock()
            for name, monitor in before.items():
                monitor.is_gone = self._monitors.get(name) is not monitor
                if name not in self._monitors:
                    self._tell(name, [])
                    self._problems.note(name, "")
                    monitor.release()
        self._wake.set()

    def stop(self) -> None:
        """Look no more and fetch no more; nothing is un-aspired."""
        with self._lock:
            self._is_stopped = True
        self._wake.set()
        self._look_pool.close()
        self._fetch_pool.close()

    def poll(self) -> None:
        """Look at everything that is due, and hand out what is to be fetched."""
        for monitor in self._begin_looks():
            self._look_pool.submit(functools.partial(self._look, monitor))

    def _run(self) -> None:
        while not self._is_stopped:
            self._wake.clear()
            self.poll()
            self._wake.wait(self._wait_s())

    def _wait_s(self) -> float | None:
        now = self._clock()
        with self._lock:
            times = [
                monitor.look_at
                for monitor in self._monitors.values()
                if monitor.look_at is not None and self._may_look(monitor)
            ]
        if (relieve_at := self._look_pool.relieve(now)) is not None:
            times.append(relieve_at)
        return max(min(times) - now, 0.0) if times else None

    def _begin_looks(self) -> "list[_Monitor]":
        now = self._clock()
        begun = []
        with self._lock:
            due = [
                (monitor.look_at, monitor)
                for monitor in self._monitors.values()
                if monitor.look_at is not None and monitor.look_at <= now
            ]
            for _, monitor in sorted(due, key=operator.itemgetter(0)):
                if self._may_look(monitor):
                    monitor.is_being_looked_at = True
                    self._looks[monitor.place] += 1
                    begun.append(monitor)
        return begun

    def _may_look(self, monitor: "_Monitor") -> bool:
        """Return whether nobody looks at it, nor do too many at the place it is in."""
        is_full = self._looks[monitor.place] >= _LOOKS_AT_A_TIME
        return not (monitor.is_being_looked_at or is_full)

    def _look(self, monitor: "_Monitor") -> None:
        try:
            found = self._find(monitor)
        except Exception as exc:  # noqa: BLE001 - whatever a store's library raises
            self._look_failed(monitor, exc)
        else:
            self._look_succeeded(monitor, found)
        finally:
            with self._lock:
                monitor.is_being_looked_at = False
                self._looks[monitor.place] -= 1
            self._wake.set()

    def _find(self, monitor: "_Monitor") -> "_Found":
        servable = monitor.servable
        if monitor.store is None:
            monitor.store = self._new_store(servable)
        listing = versions_among(monitor.store.children())
        with self._lock:
            try:
                monitor.versions.list_found(listing)
            except NotFound as exc:
                raise _Missing(exc.message) from None
            numbers = monitor.versions.to_look_into(
                lambda n: self._is_available(ServableId(servable.servable_name, n))
            )
        contents: dict[int, Content | LocalContent] = {}
        errors: dict[int, ServingError] = {}
        for number in numbers:
            try:
                contents[number] = monitor.store.content(listing.versions[number])
            except ServingError as error:
                errors[number] = error
            except FileNotFoundError:
                continue  # removed since it was listed
        return _Found(listing, contents, errors)

    def _look_failed(self, monitor: "_Monitor", exc: Exception) -> None:
        name = monitor.servable.servable_name
        base_path = redacted(monitor.servable.base_path)
        if isinstance(exc, _Missing):
            failures = 0
            problem = (
                f"Servable {name} stays as it is: under base path {base_path} "
                f"{exc.message}"
            )
        elif isinstance(exc, FileNotFoundError):
            failures = 0  # somebody will put something there
            problem = (
                f"Could not find base path {base_path} for servable {name} with error "
                f"NOT_FOUND: {base_path} not found"
            )
        else:
            failures = monitor.failed_looks + 1
            self._record(
                Fetched(
                    scheme_of(monitor.servable.base_path),
                    "unreachable",
                    cache_bytes=self._cache.used_bytes(),
                )
            )
            problem = (
                f"Could not look at base path {base_path} for servable {name}; what is "
                f"loaded stays, and it is tried again: "
                f"{what_failed(exc).status_text}"
            )
        with self._lock:
            monitor.failed_looks = failures
            wait_s = back_off_s(failures, self._poll_wait_s or 1.0, self._jitter())
            monitor.look_at = self._clock() + wait_s
            if not monitor.is_gone:
                self._note(monitor, logging.ERROR, problem)

    def _look_succeeded(self, monitor: "_Monitor", found: "_Found") -> None:
        now = self._clock()
        with self._lock:
            if self._is_stopped or monitor.is_gone:
                return
            if monitor.failed_looks:
                _log.info(
                    "Base path %s is there again", redacted(monitor.servable.base_path)
                )
            monitor.failed_looks = 0
            for number, content in found.contents.items():
                monitor.versions.content_found(number, content)
                self._doubt_what_failed(monitor, number)
            for number, error in found.errors.items():
                if monitor.versions.failed(number, error, now) == 1:
                    self._log_failure(monitor, number, error)
            self._note_listing(monitor, found.listing)
            self._begin_fetches(monitor, now)
            if found.listing.versions or not self._always_present:
                self._announce(monitor)
            monitor.look_at = self._next_look(monitor, now)

    def _doubt_what_failed(self, monitor: "_Monitor", number: int) -> None:
        """Have a version fetched again if it does not load and may be corrupt."""
        name = monitor.servable.servable_name
        failed = self._failed_load(ServableId(name, number))
        if failed is None or failed.error.code in _NOT_OF_THE_FILES:
            return
        if monitor.versions.did_not_load(number, failed.attempt):
            _log.warning(
                "Version %d of servable %s does not load, and may have come corrupt: "
                "its store tells no hash of some of its files. It is fetched once more",
                number,
                name,
            )

    def _next_look(self, monitor: "_Monitor", now: float) -> float | None:
        if not self._poll_wait_s and monitor.versions.is_done:
            return None
        return now + back_off_s(0, self._poll_wait_s or 1.0, self._jitter())

    def _note_listing(self, monitor: "_Monitor", listing: Listing) -> None:
        name, base_path = monitor.servable.servable_name, monitor.servable.base_path
        policy = monitor.servable.servable_version_policy
        named = policy.versions if isinstance(policy, Specific) else ()
        if missing := [str(v) for v in named if v not in listing.versions]:
            self._note(
                monitor,
                logging.WARNING,
                f"Version {', '.join(missing)} of servable {name}, which was requested "
                "to be served as a 'specific' version in the servable's version "
                f"policy, was not found under base path {redacted(base_path)}",
            )
            return
        if listing.versions:
            self._note(monitor, logging.WARNING, "")
            return
        self._note(
            monitor,
            logging.WARNING,
            f"No versions of servable {name} found under base path "
            f"{redacted(base_path)}. Did you forget to name your leaf directory as a "
            "number (eg. '/1/')?",
        )

    def _note(self, monitor: "_Monitor", level: int, problem: str) -> None:
        monitor.note(level, problem)
        self._problems.note(monitor.servable.servable_name, problem)

    def _begin_fetches(self, monitor: "_Monitor", now: float) -> None:
        for number, content in monitor.versions.to_fetch(now):
            if number not in monitor.fetching:
                fetch = _Fetch(monitor, number, content, self._clock, self._may_go_on)
                monitor.fetching.add(number)
                self._progress.begin(fetch.id, "waits to be fetched")
                self._fetch_pool.submit(functools.partial(self._fetch, fetch))

    def _may_go_on(self, monitor: "_Monitor") -> bool:
        return not (self._is_stopped or monitor.is_gone)

    def _fetch(self, fetch: "_Fetch") -> None:
        monitor, number = fetch.monitor, fetch.number
        lease: Lease | None = None
        error: ServingError | None = None
        self._progress.begin(fetch.id, "is fetched", fetch)
        try:
            fetch.check()
            lease = self._cache.fetch(fetch.content, fetch)
        except Exception as exc:  # noqa: BLE001 - whatever a store's library raises
            error = what_failed(exc)
        # Before anybody hears of it: who loads it has more to tell.
        self._progress.end(fetch.id)
        now = self._clock()
        self._record(fetch.ended("fetched" if lease else "failed", self._cache))
        with self._lock:
            monitor.fetching.discard(number)
            if self._is_stopped or monitor.is_gone:
                if lease:
                    lease.release()
                return
            if lease:
                fetch.log_end()
                monitor.hold(number, lease)
                monitor.versions.fetched(number, fetch.content, lease.path)
            elif error:
                failures = monitor.versions.failed(number, error, now)
                retry_at = now + back_off_s(failures, 1.0, self._jitter())
                monitor.versions.put_off(number, retry_at)
                self._log_failure(monitor, number, error)
            self._announce(monitor)
        if lease:  # and what it was fetched instead of is let go
            self._cache.discard(fetch.content.instead_of)

    def _log_failure(
        self, monitor: "_Monitor", number: int, error: ServingError
    ) -> None:
        _log.error(
            "Could not fetch version %d of servable %s from %s: %s",
            number,
            monitor.servable.servable_name,
            redacted(monitor.servable.base_path),
            error.status_text,
        )

    def _announce(self, monitor: "_Monitor") -> None:
        name = monitor.servable.servable_name
        is_waiting = monitor.versions.is_waiting
        aspired = monitor.versions.aspire()
        if not aspired and is_waiting:
            return  # what was there before stays until something has been fetched
        self._tell(
            name,
            [
                ServableData(
                    ServableId(name, version.version),
                    StoragePath(version.path) if version.path else None,
                    version.error,
                    attempt=version.path or str(version.error),
                )
                for version in aspired
            ],
        )
        gone = monitor.versions.forget(
            lambda number: self._is_available(ServableId(name, number))
        )
        for number in gone:
            monitor.let_go(number)

    def _tell(self, name: str, versions: Sequence[ServableData[StoragePath]]) -> None:
        if self._target is not None:
            self._target.set_aspired_versions(name, versions)

    def __repr__(self) -> str:
        return f"<StoreSource {sorted(self._monitors)}>"


def what_failed(exc: BaseException) -> ServingError:
    """
    Return *exc* as what everybody may be told: one line, without secrets.

    Stores raise what their library does when they cannot be reached; only what Python
    itself raises may be anything.
    """
    while not str(exc) and exc.__cause__ is not None:
        exc = exc.__cause__  # fsspec says no more of what took too long
    error = from_exception(exc)
    is_of_python = type(exc).__module__ == "builtins"
    if error.code is Code.UNKNOWN and error is not exc and not is_of_python:
        error = Unavailable(error.message)
    lines = redacted_text(error.message).splitlines() or [type(exc).__name__]
    return from_code(error.code, lines[0][:300])


class _Missing(NotFound):
    """A version that must be there is not."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What one look found."""

    listing: Listing
    contents: Mapping[int, Content | LocalContent]
    errors: Mapping[int, ServingError]


class _Monitor:
    """What is remembered of one servable; guarded by its source's lock."""

    def __init__(
        self, servable: ServableToMonitor, replaced: tuple[Lease, ...] = ()
    ) -> None:
        self.servable = servable
        self.place = place_of(servable.base_path)
        self.store: VersionStore | None = None  # only used by the look that runs
        self.versions = RemoteVersions(servable.servable_version_policy)
        self.fetching: set[int] = set()
        self.look_at: float | None = None
        self.failed_looks = 0
        self.is_being_looked_at = False
        self.is_gone = False
        self._leases: dict[int, Lease] = {}
        self._replaced = replaced
        self._note = ""

    def with_servable(self, servable: ServableToMonitor) -> "_Monitor":
        """Return the monitor for *servable*, with what is known of its base path."""
        if self.servable.base_path == servable.base_path:
            self.servable = servable
            self.versions.policy = servable.servable_version_policy
            return self
        # Versions from the old base path are served until there are new ones.
        return _Monitor(servable, (*self._replaced, *self._leases.values()))

    def hold(self, number: int, lease: Lease) -> None:
        """Keep the files of a version in the cache, and not those it had before."""
        self.let_go(number)
        self._leases[number] = lease

    def let_go(self, number: int) -> None:
        """Let the files of a version be removed when room is needed."""
        if lease := self._leases.pop(number, None):
            lease.release()

    def release(self) -> None:
        """Let go of everything."""
        for lease in (*self._replaced, *self._leases.values()):
            lease.release()
        self._replaced = ()
        self._leases.clear()

    def note(self, level: int, text: str) -> None:
        """Log *text* unless it is what was logged last."""
        if text and text != self._note:
            _log.log(level, "%s", text)
        self._note = text


class _Fetch(Fetching):
    """One version on its way, and how far it has come."""

    def __init__(
        self,
        monitor: _Monitor,
        number: int,
        content: Content,
        clock: Callable[[], float],
        may_go_on: Callable[[_Monitor], bool],
    ) -> None:
        self.monitor = monitor
        self.number = number
        self.id = ServableId(monitor.servable.servable_name, number)
        self.content = content
        self._clock = clock
        self._may_go_on = may_go_on
        self._began_at = self._told_at = clock()
        self._came = self._was_there = 0

    def check(self) -> None:
        """Give up when nobody wants the version any more."""
        if not self._may_go_on(self.monitor):
            raise Cancelled(f"Nobody wants {self._what} any more")

    def received(self, size_bytes: int, *, was_there: bool) -> None:
        """Count, and tell the log every now and then."""
        if was_there:
            self._was_there += size_bytes
        else:
            self._came += size_bytes
        now = self._clock()
        if now - self._told_at >= _PROGRESS_EVERY_S:
            self._told_at = now
            done = self._came + self._was_there
            total = self.content.size_bytes
            _log.info(
                "Fetching %s: %d of %d MiB, %d MiB/s",
                self._what,
                done // _MIB,
                total // _MIB,
                self._came / _MIB / (now - self._began_at),
            )

    def progress(self) -> str:
        """Return how much of it is there; see ReportsProgress."""
        done, total = self._came + self._was_there, self.content.size_bytes
        if not total:  # which some stores do not tell
            return f"{done / _MIB:.1f} MiB"
        part = (
            f"{done / _MIB:.1f} of {total / _MIB:.1f} MiB ({100 * done / total:.0f} %)"
        )
        speed = self._came / _MIB / max(self._clock() - self._began_at, 1e-3)
        return f"{part}, {speed:.1f} MiB/s" if self._came else part

    def ended(self, outcome: str, cache: ModelCache) -> Fetched:
        """Return what became of it, for those who count."""
        return Fetched(
            scheme_of(self.monitor.servable.base_path),
            outcome,
            self._came,
            self._was_there,
            self._clock() - self._began_at,
            cache.used_bytes(),
        )

    def log_end(self) -> None:
        """Tell the log that it is complete."""
        _log.info(
            "Fetched %s: %d files, %.1f MiB came and %.1f MiB were there, in %.1f s",
            self._what,
            len(self.content.files),
            self._came / _MIB,
            self._was_there / _MIB,
            self._clock() - self._began_at,
        )

    @property
    def _what(self) -> str:
        return (
            f"version {self.number} of servable {self.monitor.servable.servable_name}"
        )
