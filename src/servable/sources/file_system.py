"""
Versions as directories: `<base path>/<number>`, looked at every so often.

What a listing means is decided in `sources/versions.py`; the Source here looks,
compares and tells its Target.  Servables do not know of each other: one whose base
path is missing, broken or hangs is left as it is, and all others go on.
"""

import dataclasses
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from servable.core.servable_data import ServableData
from servable.core.servable_id import ServableId
from servable.core.source import Target
from servable.core.storage_path import StoragePath
from servable.core.worker_pool import Pool, WorkerPool
from servable.errors import NotFound, PermissionDenied
from servable.sources.directory_signature import (
    Attempt,
    Signature,
    directory_signature,
)
from servable.sources.model_roots import leads_out
from servable.sources.problems import ProblemBoard
from servable.sources.registry import SourceOptions
from servable.sources.versions import (
    All,
    FileSystemStoragePathSourceConfig,
    Latest,
    ServableToMonitor,
    Specific,
    is_yet_to_come,
    versions_among,
)

_log = logging.getLogger(__name__)


def file_system_source(options: SourceOptions) -> "FileSystemStoragePathSource":
    """Return the Source of plain paths; see servable.sources.registry."""
    return FileSystemStoragePathSource(
        FileSystemStoragePathSourceConfig(),
        options.poll_wait_s,
        is_available=options.is_available,
        model_roots=options.model_roots,
        problems=options.problems,
    )


class FileSystemStoragePathSource:
    """
    Tells its Target which versions are on disk; a Source of StoragePath.

    A version that is not available, because its load failed or runs, is looked at
    more closely: when its files change and then stay the same for one look, it is
    aspired with a new `attempt`.  Thread-safe.

    Args:
        config: what to look at; see `set_config`.
        file_system_poll_wait_s: seconds between two looks; 0 looks once after each
            change of the config, and less than 0 never.
        is_available: whether requests can be sent to a version, and so nobody
            needs to know whether its files change.
        empty_listings_before_unload: how many looks in a row must find no version
            before those that are loaded are un-aspired.
        model_roots: a version that is below none of them, links followed, is in
            error; none allow everything.
        problems: is told of what is wrong with a base path.
        pool: where the file system is looked at.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        config: FileSystemStoragePathSourceConfig,
        file_system_poll_wait_s: float = 1.0,
        *,
        is_available: Callable[[ServableId], bool] = lambda _: False,
        empty_listings_before_unload: int = 1,
        model_roots: Sequence[str] = (),
        problems: ProblemBoard | None = None,
        pool: Pool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._poll_wait_s = file_system_poll_wait_s
        self._is_available = is_available
        self._empty_listings_before_unload = empty_listings_before_unload
        self._model_roots = tuple(model_roots)
        self._problems = problems or ProblemBoard()
        # A look that takes longer is at a file system that hangs; the others go on.
        self._pool = pool or WorkerPool("file-system", 1, stall_s=0.5)
        self._clock = clock
        self._target: Target[StoragePath] | None = None
        # Held while the Target is told, so that it hears all in the right order.
        self._lock = threading.Lock()
        self._config = config
        self._monitors = _monitors(config, {})
        self._wake = threading.Event()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)

    def check(self, config: FileSystemStoragePathSourceConfig) -> None:
        """Take any path: what is not there yet may come."""

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
            before, self._config = self._monitors, config
            self._monitors = _monitors(config, before)
            for name in before.keys() - self._monitors.keys():
                self._tell(name, [])
                self._problems.note(name, "")
        self._wake.set()

    def stop(self) -> None:
        """Look no more; nothing is un-aspired."""
        with self._lock:
            self._is_stopped = True
        self._wake.set()
        self._pool.close()

    def poll(self) -> None:
        """Look at everything once, on the caller's thread, and tell the Target."""
        for monitor in self._begin_round():
            self._look(monitor)

    def _run(self) -> None:
        while not self._is_stopped:
            self._wake.clear()
            for monitor in self._begin_round():
                self._pool.submit(functools.partial(self._look, monitor))
            self._wait_for_next_round()

    def _wait_for_next_round(self) -> None:
        now = self._clock()
        next_at = now + self._poll_wait_s if self._poll_wait_s else None
        while next_at is None or now < next_at:
            times = [t for t in (next_at, self._pool.relieve(now)) if t is not None]
            timeout_s = max(min(times) - now, 0.0) if times else None
            if self._wake.wait(timeout_s):
                return
            now = self._clock()

    def _begin_round(self) -> "list[_Monitor]":
        with self._lock:
            idle = [m for m in self._monitors.values() if not m.is_being_looked_at]
            for monitor in idle:
                monitor.is_being_looked_at = True
            return idle

    def _look(self, monitor: "_Monitor") -> None:
        try:
            names = _children(monitor.servable)
            if self._is_settled(monitor, names):
                return
            found = _find_versions(monitor.servable, names, self._model_roots)
            self._announce(monitor, found, self._signatures(monitor, found))
            is_well = found.paths and not (found.notes or self._model_roots)
            monitor.settled_names = names if is_well else None
        except _Inaccessible as exc:
            # Once it is back, what was wrong is to be taken back.
            monitor.settled_names = None
            with self._lock:
                if self._is_watched(monitor):
                    self._note(monitor, [(logging.ERROR, str(exc))])
        finally:
            with self._lock:
                monitor.is_being_looked_at = False

    def _is_settled(self, monitor: "_Monitor", names: list[str]) -> bool:
        """Return whether this look can find nothing new, as most looks do."""
        servable = monitor.servable
        return (
            names == monitor.settled_names
            and isinstance(servable.servable_version_policy, Latest | All)
            and all(
                self._is_available(ServableId(servable.servable_name, version))
                for version in monitor.attempts
            )
        )

    def _announce(
        self, monitor: "_Monitor", found: "_Found", signatures: dict[int, Signature]
    ) -> None:
        name = monitor.servable.servable_name
        with self._lock:
            if self._is_stopped or not self._is_watched(monitor):
                return  # it was removed meanwhile, and the Target knows
            policy, told = monitor.servable.servable_version_policy, monitor.attempts
            if not found.is_empty and is_yet_to_come(policy, found.paths, told):
                self._note(monitor, found.notes)
                return  # what is served stays
            versions = monitor.aspire(found, signatures)
            if versions or self._may_unload_all(monitor, found):
                self._note(monitor, found.notes)
                self._tell(name, versions)

    def _signatures(self, monitor: "_Monitor", found: "_Found") -> dict[int, Signature]:
        """Return the signatures of the versions that are worth the look."""
        name = monitor.servable.servable_name
        return {
            version: directory_signature(path)
            for version, path in found.paths.items()
            if version not in found.outside
            and (
                version not in monitor.attempts
                or not self._is_available(ServableId(name, version))
            )
        }

    def _may_unload_all(self, monitor: "_Monitor", found: "_Found") -> bool:
        if not found.is_empty:
            return True  # the policy chose none of those that are there
        if self._config.servable_versions_always_present:
            name = monitor.servable.servable_name
            text = f"Refusing to unload all versions for Servable: {name}"
            self._note(monitor, [*found.notes, (logging.WARNING, text)])
            return False
        if monitor.empty_listings < self._empty_listings_before_unload:
            self._note(monitor, found.notes)
            return False
        return True

    def _is_watched(self, monitor: "_Monitor") -> bool:
        return self._monitors.get(monitor.servable.servable_name) is monitor

    def _note(self, monitor: "_Monitor", notes: list[tuple[int, str]]) -> None:
        monitor.note(notes)
        first = notes[0][1] if notes else ""
        self._problems.note(monitor.servable.servable_name, first)

    def _tell(self, name: str, versions: Sequence[ServableData[StoragePath]]) -> None:
        if self._target is not None:
            self._target.set_aspired_versions(name, versions)

    def __repr__(self) -> str:
        return f"<FileSystemStoragePathSource {sorted(self._monitors)}>"


class _Inaccessible(Exception):
    """What is there cannot be seen, or is not what must be there."""


@dataclass(frozen=True, slots=True)
class _Found:
    """
    What one look found: the versions to aspire, in order, and where they are.

    Those that are *outside* of the model roots are not to be opened.
    """

    paths: dict[int, str]
    is_empty: bool
    notes: list[tuple[int, str]]
    outside: frozenset[int] = frozenset()


class _Monitor:
    """What is remembered of one servable between two looks."""

    def __init__(self, servable: ServableToMonitor) -> None:
        self.servable = servable
        self.attempts: dict[int, Attempt] = {}
        self.empty_listings = 0
        self.settled_names: list[str] | None = None  # listed when all was well
        self.is_being_looked_at = False
        self._notes: set[tuple[int, str]] = set()

    def aspire(
        self, found: "_Found", signatures: dict[int, Signature]
    ) -> list[ServableData[StoragePath]]:
        """Return the versions that were *found* as the Target is to hear of them."""
        self.empty_listings = 0 if found.paths else self.empty_listings + 1
        self.attempts = {v: self._attempt(v, signatures.get(v)) for v in found.paths}
        return [
            ServableData(
                ServableId(self.servable.servable_name, version),
                None if version in found.outside else StoragePath(path),
                _outside(self.servable, version) if version in found.outside else None,
                attempt=(path, self.attempts[version].aspired),
            )
            for version, path in found.paths.items()
        ]

    def note(self, notes: list[tuple[int, str]]) -> None:
        """Log those of *notes* that were not there at the last look."""
        for level, text in notes:
            if (level, text) not in self._notes:
                _log.log(level, "%s", text)
        self._notes = set(notes)

    def _attempt(self, version: int, signature: Signature | None) -> Attempt:
        before = self.attempts.get(version)
        if before is None:
            first = signature or frozenset()
            return Attempt(first, first)
        return before if signature is None else before.look(signature)


def _monitors(
    config: FileSystemStoragePathSourceConfig, before: dict[str, _Monitor]
) -> dict[str, _Monitor]:
    monitors: dict[str, _Monitor] = {}
    for servable in config.servables:
        known = before.get(servable.servable_name)
        is_same = known is not None and known.servable == servable
        monitor = known if known and is_same else _Monitor(servable)
        monitors[servable.servable_name] = monitor
    return monitors


def _outside(servable: ServableToMonitor, version: int) -> PermissionDenied:
    return PermissionDenied(
        f"Version {version} of servable {servable.servable_name} leads out of "
        "--model_roots"
    )


def _find_versions(
    servable: ServableToMonitor, names: list[str], roots: Sequence[str]
) -> _Found:
    """Find the versions of *servable* among *names*; raises _Inaccessible."""
    found = _listed_versions(servable, names)
    # A link such as `current` may lead elsewhere while a version is read, and half of
    # one version with half of another is none.
    paths = {v: os.path.realpath(path) for v, path in found.paths.items()}
    found = dataclasses.replace(found, paths=paths)
    outside = frozenset(v for v, path in found.paths.items() if leads_out(path, roots))
    return dataclasses.replace(found, outside=outside) if outside else found


def _listed_versions(servable: ServableToMonitor, names: list[str]) -> _Found:
    name, base_path = servable.servable_name, servable.base_path
    policy = servable.servable_version_policy
    listing = versions_among(names)
    try:
        chosen = policy.choose(listing.versions)
    except NotFound as exc:
        raise _Inaccessible(
            f"Servable {name} stays as it is: under base path {base_path} {exc.message}"
        ) from None
    warnings = [
        f"Several children of {base_path} stand for the same version of servable "
        f"{name}: {duplicate!r} is not used"
        for duplicate in listing.duplicates
    ]
    if isinstance(policy, Specific):
        warnings += [
            f"Version {version} of servable {name}, which was requested to be served "
            "as a 'specific' version in the servable's version policy, was not found "
            "in the file system"
            for version in policy.versions
            if version not in listing.versions
        ]
        if not policy.versions:
            warnings.append(f"No specific versions of servable {name} are requested")
    if not listing.versions:
        warnings.append(
            f"No versions of servable {name} found under base path {base_path}. "
            "Did you forget to name your leaf directory as a number (eg. '/1/')?"
        )
    paths = {v: os.path.join(base_path, listing.versions[v]) for v in chosen}
    notes = [(logging.WARNING, text) for text in warnings]
    return _Found(paths, is_empty=not listing.versions, notes=notes)


def _all_there(base_path: str, policy: Specific) -> bool:
    """Return whether there are versions, and each is there under its plain number."""
    paths = [os.path.join(base_path, str(v)) for v in policy.versions]
    return bool(paths) and all(os.path.exists(path) for path in paths)


def _children(servable: ServableToMonitor) -> list[str]:
    """List the base path, unless it is known what is there without."""
    name, base_path = servable.servable_name, servable.base_path
    policy = servable.servable_version_policy
    if isinstance(policy, Specific) and _all_there(base_path, policy):
        return [str(version) for version in policy.versions]
    try:
        return os.listdir(base_path)
    except FileNotFoundError:
        problem = (
            f"Could not find base path {base_path} for servable {name} "
            f"with error NOT_FOUND: {base_path} not found"
        )
    except OSError as exc:
        problem = f"Could not list base path {base_path} of servable {name}: {exc}"
    raise _Inaccessible(
        f"FileSystemStoragePathSource encountered a filesystem access error: {problem}"
    )
