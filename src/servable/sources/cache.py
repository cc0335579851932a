"""
Versions that were fetched, kept on disk by their content and used by many servers.

    blobs/<sha256>          bytes of files, shared by all versions that have them
    index/<identity>        which blob a file of a store is
    partial/<identity>      a file that is being fetched, or was until it broke off
    building/<identity>     a version that is being put together
    versions/<identity>     a version: `files` and a manifest of their sizes
    locks/<name>            who uses or makes what

A version appears by a rename, when each of its files was checked and written to disk.
Its files are hard links to blobs, so a blob that nobody links to is of no use any
more.  Locks are the kernel's: a server that dies leaves nothing to clean up.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Final

from servable.errors import DataLoss, ResourceExhausted
from servable.sources.file_lock import FileLock
from servable.sources.store import Content, RemoteFile, checked_name

_FOLDERS: Final = ("blobs", "index", "partial", "building", "versions", "locks")
_MANIFEST: Final = "manifest.json"
_FILES: Final = "files"
_TAG: Final = "Signature: 8a477f597d28d172789f06886806bc55\n"  # of CACHEDIR.TAG
_LOCKED_WAIT_S: Final = 0.2


def default_cache_directory() -> str:
    """Return the directory for models in the caches of whoever runs this."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(caches, "servable", "models")


class Fetching:
    """
    What a fetch tells while it runs; does nothing by itself.

    Both are called often, and from the thread that fetches.
    """

    def check(self) -> None:
        """Raise to give up; what was fetched until then is kept."""

    def received(self, size_bytes: int, *, was_there: bool) -> None:
        """Take note of bytes that came, or that *was_there* already."""


class Lease:
    """A version in the cache that is in use; it stays until `release`."""

    def __init__(self, path: str, lock: FileLock) -> None:
        self.path = path
        self._lock = lock

    def release(self) -> None:
        """Let the version be removed when room is needed."""
        self._lock.release()

    def __repr__(self) -> str:
        return f"<Lease {self.path}>"


class ModelCache:
    """
    Fetches versions, and keeps them for whoever wants them again.

    Thread-safe, and safe among processes that have the same directory.

    Args:
        directory: made when it is first needed.
        max_bytes: how much all of it may take; 0 for half of the file system.
    """

    def __init__(self, directory: str, max_bytes: int = 0) -> None:
        self._directory = directory
        self._max_bytes = max_bytes

    def fetch(self, content: Content, fetching: Fetching) -> Lease:
        """
        Return *content* as a directory, fetched as far as it is not there.  Blocks.

        What breaks off is resumed by the next call.

        Raises:
            DataLoss: What came is not what the store says it has.
            ResourceExhausted: There is no room, with all removed that nobody uses.
            InvalidArgument: A file has a name that leads elsewhere.
            Exception: whatever reading from the store or *fetching* raises.
        """
        for file in content.files:
            checked_name(file.name)
        try:
            self._make_folders()
            return self._fetch(content, fetching)
        except OSError as exc:
            if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise ResourceExhausted(f"The model cache is full: {exc}") from exc
            raise

    def discard(self, identity: str) -> None:
        """Remove the version of that identity, unless somebody uses it; "" is none."""
        if identity and os.path.exists(self._path("versions", identity)):
            self._remove_unused("versions", identity)

    def used_bytes(self) -> int:
        """Return how many bytes it holds.  Reads directories."""
        sizes: dict[int, int] = {}
        for folder in ("blobs", "partial", "building", "versions"):
            for parent, _, names in os.walk(self._path(folder)):
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        status = os.lstat(os.path.join(parent, name))
                        sizes[status.st_ino] = status.st_size
        return sum(sizes.values())

    def _fetch(self, content: Content, fetching: Fetching) -> Lease:
        key = content.identity
        lock = FileLock(self._path("locks", key))
        path = self._path("versions", key)
        was_damaged = False
        while True:
            is_damaged = False
            if lock.try_acquire(shared=True):
                if _is_complete(path):
                    fetching.received(content.size_bytes, was_there=True)
                    os.utime(self._path("locks", key))
                    return Lease(os.path.join(path, _FILES), lock)
                is_damaged = os.path.exists(path)
                lock.release()
            if not lock.try_acquire():
                # Seen once, it may be what another server is about to mend.
                if is_damaged and was_damaged:
                    raise DataLoss(f"{path} is damaged, and used by another server")
                was_damaged = is_damaged
                _wait(fetching)
                continue
            try:
                if not _is_complete(path):
                    self._make(content, fetching)
                lock.share()
            except BaseException:
                lock.release(remove=True)
                raise
            if _is_complete(path):
                return Lease(os.path.join(path, _FILES), lock)
            lock.release()  # room was made just then

    def _make(self, content: Content, fetching: Fetching) -> None:
        """Put the version together; its lock is held."""
        key = content.identity
        building, path = self._path("building", key), self._path("versions", key)
        _remove(building)
        _remove(path)
        self._make_room(self._missing_bytes(content))
        files = os.path.join(building, _FILES)
        os.makedirs(files)
        for file in content.files:
            name = "archive" if content.is_archive else os.path.join(_FILES, file.name)
            with contextlib.suppress(FileExistsError):
                os.makedirs(os.path.dirname(os.path.join(building, name)))
            self._fetch_file(content, file, os.path.join(building, name), fetching)
        if content.is_archive:
            self._unpack(os.path.join(building, "archive"), files, fetching)
        with open(os.path.join(building, _MANIFEST), "x", encoding="utf-8") as manifest:
            json.dump(_sizes(files), manifest)
        _sync_below(building)
        os.rename(building, path)
        _sync(os.path.dirname(path))

    def _unpack(self, packed: str, files: str, fetching: Fetching) -> None:
        from servable.sources import archive  # noqa: PLC0415 - seldom needed

        room = self._limit_bytes()
        with open(packed, "rb") as file:
            archive.unpack(file, files, room, fetching.check)
        os.unlink(packed)
        self._make_room(0)

    def _fetch_file(
        self, content: Content, file: RemoteFile, path: str, fetching: Fetching
    ) -> None:
        """Have the bytes of *file* at *path*, from a blob or from the store."""
        key = hashlib.sha256(file.identity.encode()).hexdigest()
        index = self._path("index", key)
        lock = FileLock(self._path("locks", f"file-{key}"))
        while not lock.try_acquire():
            _wait(fetching)
        try:
            if _link(index, path, file.size_bytes):
                fetching.received(os.path.getsize(path), was_there=True)
                return
            partial = self._path("partial", key)
            digest = self._complete(content, file, partial, fetching)
            os.chmod(partial, 0o444)
            # First the version's link: what nobody links to may be removed.
            _link(partial, path, None)
            os.replace(partial, self._path("blobs", digest))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(index)
            os.symlink(os.path.join("..", "blobs", digest), index)
        finally:
            lock.release(remove=True)

    def _complete(
        self, content: Content, file: RemoteFile, partial: str, fetching: Fetching
    ) -> str:
        """Fetch what *partial* has not of *file*; return the SHA-256 of it all."""
        start = os.path.getsize(partial) if os.path.exists(partial) else 0
        if file.size_bytes is None or start > file.size_bytes:
            start = 0
        sha256 = hashlib.sha256()
        stated = file.digest.start(file.size_bytes) if file.digest else None
        with open(partial, "r+b" if start else "wb") as out:
            while out.tell() < start:
                known = out.read(min(1 << 20, start - out.tell()))
                sha256.update(known)
                if stated:
                    stated.update(known)
                fetching.received(len(known), was_there=True)
            if start != file.size_bytes or not start:
                for chunk in content.read(file, start):
                    fetching.check()
                    out.write(chunk)
                    sha256.update(chunk)
                    if stated:
                        stated.update(chunk)
                    fetching.received(len(chunk), was_there=False)
            size_bytes = out.tell()
            out.flush()
            os.fsync(out.fileno())
        self._check(file, size_bytes, stated.hexdigest() if stated else "", partial)
        return sha256.hexdigest()

    def _check(self, file: RemoteFile, size: int, digest: str, partial: str) -> None:
        if file.size_bytes is not None and size != file.size_bytes:
            if size > file.size_bytes:
                os.unlink(partial)
            raise DataLoss(
                f"{file.name} has {file.size_bytes} bytes, and {size} came of them"
            )
        if file.digest and digest != file.digest.hex:
            os.unlink(partial)  # nothing of it can be trusted
            raise DataLoss(
                f"{file.name} came with {file.digest.algorithm} {digest}, and the "
                f"store says {file.digest.hex}"
            )

    def _missing_bytes(self, content: Content) -> int:
        return sum(
            (file.size_bytes or 0) * (2 if content.is_archive else 1)
            for file in content.files
            if not os.path.exists(
                self._path("index", hashlib.sha256(file.identity.encode()).hexdigest())
            )
        )

    def _limit_bytes(self) -> int:
        return self._max_bytes or shutil.disk_usage(self._directory).total // 2

    def _make_room(self, needed_bytes: int) -> None:
        """Remove what was not used for longest until *needed_bytes* fit in."""
        limit = self._limit_bytes()
        if needed_bytes <= limit:
            for remove in self._removals():
                if self.used_bytes() + needed_bytes <= limit:
                    return
                remove()
        used = self.used_bytes()
        if used + needed_bytes > limit:
            raise ResourceExhausted(
                f"The model cache may hold {limit} bytes; {used} are in use, and "
                f"{needed_bytes} more are needed"
            )

    def _removals(self) -> Iterator[Callable[[], None]]:
        """Yield what could be removed, that which is missed least first."""
        yield self._sweep  # also what others left
        by_age: list[tuple[float, str, str]] = []
        for folder in ("building", "versions"):
            for key in os.listdir(self._path(folder)):
                with contextlib.suppress(OSError):
                    used_at = os.stat(self._path("locks", key)).st_mtime
                    by_age.append((used_at, folder, key))
        for _, folder, key in sorted(by_age):
            yield functools.partial(self._remove_unused, folder, key)
        yield self._remove_partials

    def _remove_unused(self, folder: str, key: str) -> None:
        lock = FileLock(self._path("locks", key))
        if not lock.try_acquire():
            return
        try:
            _remove(self._path(folder, key))
            self._sweep()
        finally:
            lock.release(remove=True)

    def _sweep(self) -> None:
        """Remove the blobs that no version has."""
        for blob in _entries(self._path("blobs")):
            with contextlib.suppress(FileNotFoundError):  # others sweep, too
                if blob.stat().st_nlink == 1:
                    os.unlink(blob.path)
        for index in _entries(self._path("index")):
            with contextlib.suppress(FileNotFoundError):
                if not os.path.exists(index.path):
                    os.unlink(index.path)

    def _remove_partials(self) -> None:
        for partial in _entries(self._path("partial")):
            lock = FileLock(self._path("locks", f"file-{partial.name}"))
            if lock.try_acquire():
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(partial.path)
                lock.release(remove=True)

    def _make_folders(self) -> None:
        for folder in _FOLDERS:
            os.makedirs(self._path(folder), mode=0o700, exist_ok=True)
        tag = self._path("CACHEDIR.TAG")  # backups leave such directories out
        if not os.path.exists(tag):
            with open(tag, "w", encoding="ascii") as file:
                file.write(_TAG)

    def _path(self, *parts: str) -> str:
        return os.path.join(self._directory, *parts)

    def __repr__(self) -> str:
        return f"<ModelCache {self._directory}>"


def _wait(fetching: Fetching) -> None:
    """Give another server some time."""
    fetching.check()
    threading.Event().wait(_LOCKED_WAIT_S)


def _link(source: str, path: str, size_bytes: int | None) -> bool:
    """Make *path* the file at *source*, unless that is gone or of another size."""
    real = os.path.realpath(source)
    try:
        if size_bytes is not None and os.path.getsize(real) != size_bytes:
            return False
        os.link(real, path)
    except FileNotFoundError:
        return False
    except OSError as exc:
        if exc.errno not in {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS}:
            raise
        shutil.copyfile(real, path)  # a file system without hard links
    return True


def _is_complete(path: str) -> bool:
    try:
        with open(os.path.join(path, _MANIFEST), encoding="utf-8") as manifest:
            stated: dict[str, int] = json.load(manifest)
        # What a platform adds (Python compiles what it imports) is no damage.
        return stated.items() <= _sizes(os.path.join(path, _FILES)).items()
    except (OSError, ValueError, AttributeError):
        return False


def _sizes(path: str) -> dict[str, int]:
    """Return the sizes of all files below *path* by their names."""
    return {
        os.path.relpath(os.path.join(parent, name), path): os.lstat(
            os.path.join(parent, name)
        ).st_size
        for parent, _, names in os.walk(path)
        for name in names
    }


def _entries(path: str) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return list(entries)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def _sync_below(path: str) -> None:
    for parent, _, names in os.walk(path):
        for name in names:
            _sync(os.path.join(parent, name))
        _sync(parent)


def _sync(path: str) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        if stat.S_ISDIR(os.fstat(file).st_mode) or stat.S_ISREG(os.fstat(file).st_mode):
            os.fsync(file)
    finally:
        os.close(file)
