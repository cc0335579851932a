"""
Publishing versions: a server sees all of one, or nothing.

A version is written beside the others, in the base path but under a name that no
server takes for a version; it is synced to disk, and then renamed to the next number.
The rename fails if somebody else has taken that number, and the next one is tried, so
publishers need not know of each other.

TensorFlow is not needed.
"""

import ctypes
import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from servable.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServingError,
    Unavailable,
    from_exception,
)
from servable.export.files import sync, sync_tree
from servable.export.steps import begin, bytes_in
from servable.platforms.saved_model_files import Completeness, judge_directory

_PREFIX: Final = ".servable-"
ABANDONED_AFTER_S: Final = 24 * 3600.0
_MAX_VERSION: Final = 2**63 - 1
_AT_FDCWD: Final = -100
_NO_REPLACE: Final = 1


class Staging:
    """
    A directory in which a version is written before it is one.

    Attributes:
        path: where to write; it exists and is empty.
        base_path: where the version will be.
    """

    def __init__(self, base_path: Path) -> None:
        self.base_path = base_path
        self.path = base_path / f"{_PREFIX}{uuid.uuid4().hex}"
        self.path.mkdir(parents=True)

    def copy(self, source: str | os.PathLike[str]) -> None:
        """
        Copy what is in the directory *source*.  Links are followed.

        Raises:
            ServingError: a file cannot be read or written.
        """
        begin("copying", lambda: bytes_in(self.path), bytes_in(Path(source)))
        with _os_errors():
            shutil.copytree(source, self.path, dirs_exist_ok=True)

    def publish(self, *, version: int | None = None, keep: int | None = None) -> Path:
        """
        Make what has been written a version; return its directory.  Blocks on disks.

        Args:
            version: its number; None for the next one.
            keep: how many versions there may be then, the highest numbers; None for
                all.  The new one is always kept.

        Raises:
            InvalidArgument: keep or version is out of range.
            AlreadyExists: there is a version of that number.
            ServingError: a file cannot be written or renamed.
        """
        check_numbers(version, keep)
        with _os_errors():
            begin("writing to disk")
            sync_tree(self.path)
            published = self._rename(version)
            sync(self.base_path)
            if keep is not None:
                _delete_all_but(keep, published)
        return published

    def _rename(self, version: int | None) -> Path:
        while True:
            number = next_version(self.base_path) if version is None else version
            target = self.base_path / str(number)
            if version is None and number > _MAX_VERSION:
                raise FailedPrecondition(f"{self.base_path} has no version number left")
            try:
                rename_exclusively(self.path, target)
            except FileExistsError:
                if version is not None:
                    raise AlreadyExists(
                        f"{self.base_path} has a version {version} already"
                    ) from None
            else:
                return target


@contextmanager
def staged(base_path: str | os.PathLike[str]) -> Iterator[Staging]:
    """
    Yield a Staging in *base_path*, which is made if need be; clean up behind it.

    What was written and not published is deleted, whatever happened.

    Raises:
        InvalidArgument: it is a place elsewhere.
        FailedPrecondition: it is a file.
        ServingError: the directory cannot be made.
    """
    base = Path(base_path)
    if "://" in os.fspath(base_path):
        raise InvalidArgument(f"{base_path} is no directory; servable publish takes it")
    if base.is_file():
        raise FailedPrecondition(f"{base} is a file, and no directory for versions")
    with _os_errors():
        is_new = not base.exists()
        base.mkdir(parents=True, exist_ok=True)
        _delete_abandoned(base)
        staging = Staging(base)
    try:
        yield staging
    finally:
        shutil.rmtree(staging.path, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # there is something in it
                base.rmdir()


@contextmanager
def written_beside(target: Path) -> Iterator[Path]:
    """
    Yield a directory to write to, which becomes *target* if all goes well.

    Raises:
        AlreadyExists: there is a *target*.
        ServingError: it cannot be written.
    """
    if os.path.lexists(target):
        raise AlreadyExists(f"{target} exists already")
    with _os_errors():
        parent = target.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        staging = Staging(parent)
    try:
        yield staging.path
        with _os_errors():
            begin("writing to disk")
            sync_tree(staging.path)
            rename_exclusively(staging.path, target)
            sync(parent)
    finally:
        shutil.rmtree(staging.path, ignore_errors=True)


def publish(
    source: str | os.PathLike[str],
    base_path: str | os.PathLike[str],
    *,
    version: int | None = None,
    keep: int | None = None,
) -> Path:
    """
    Copy the SavedModel *source* to *base_path*, as a version; return its directory.

    Links are followed: a version stands for itself.

    Args:
        source: a complete SavedModel.
        base_path: the directory of the model's versions; made if need be.
        version: the number; None for the next one.
        keep: how many versions there may be then; None for all.

    Raises:
        NotFound: source is no SavedModel.
        FailedPrecondition: its files are not all there.
        AlreadyExists: there is a version of that number.
        InvalidArgument: keep or version is out of range.
        ServingError: a file cannot be read or written.
    """
    check_numbers(version, keep)
    check_complete(source)
    with staged(base_path) as staging:
        staging.copy(source)
        return staging.publish(version=version, keep=keep)


def check_complete(directory: str | os.PathLike[str]) -> None:
    """
    Check that *directory* is a SavedModel with all of its files.

    Raises:
        NotFound: it is none.
        FailedPrecondition: files are missing.
    """
    verdict = judge_directory(os.fspath(directory))
    if verdict.completeness is Completeness.NOT_A_SAVED_MODEL:
        raise NotFound(f"{os.fspath(directory)} is no SavedModel: {verdict.reason}")
    if verdict.completeness is Completeness.INCOMPLETE:
        raise FailedPrecondition(
            f"{os.fspath(directory)} is not complete: {verdict.reason}"
        )


def check_numbers(version: int | None, keep: int | None) -> None:
    """
    Check that *version* and *keep* are what they may be.

    Raises:
        InvalidArgument: one is not.
    """
    if version is not None and not 0 <= version <= _MAX_VERSION:
        raise InvalidArgument(f"version must be from 0 to {_MAX_VERSION}: {version}")
    if keep is not None and keep < 1:
        raise InvalidArgument(f"keep must be at least 1: {keep}")


def versions_in(base_path: Path) -> dict[int, Path]:
    """Return the versions in *base_path*, ascending by number."""
    numbered = {
        int(child.name): child
        for child in base_path.iterdir()
        if child.name.isascii() and child.name.isdecimal()
    }
    return dict(sorted(numbered.items()))


def next_version(base_path: Path) -> int:
    """Return the number after the highest in *base_path*; 1 for the first."""
    return max(versions_in(base_path), default=0) + 1


def rename_exclusively(source: Path, target: Path) -> None:
    """
    Rename *source*, unless there is a *target* already, in one step.

    Raises:
        FileExistsError: there is.
        OSError: it cannot be renamed.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        names = os.fsencode(source), os.fsencode(target)
        if not renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _NO_REPLACE):
            return
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(number, os.strerror(number), str(source), None, str(target))
    # No such call, or a file system that does not know it: a directory is only ever
    # replaced when it is empty, and nobody makes empty versions.
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    try:
        source.rename(target)
    except OSError as exc:
        if exc.errno == errno.ENOTEMPTY:
            raise FileExistsError(exc.errno, exc.strerror, str(target)) from None
        raise


def _delete_all_but(keep: int, published: Path) -> None:
    versions = list(versions_in(published.parent).values())
    for old in versions[:-keep]:
        if old == published:
            continue
        hidden = old.with_name(f"{_PREFIX}{uuid.uuid4().hex}")
        try:
            old.rename(hidden)  # no server sees half of it
        except FileNotFoundError:
            continue  # another publisher did
        shutil.rmtree(hidden, ignore_errors=True)


def _delete_abandoned(base_path: Path) -> None:
    """Delete what publishers that were killed have left."""
    too_old = time.time() - ABANDONED_AFTER_S
    for child in base_path.glob(f"{_PREFIX}*"):
        try:
            is_abandoned = child.stat().st_mtime < too_old
        except FileNotFoundError:
            continue
        if is_abandoned:
            shutil.rmtree(child, ignore_errors=True)


@contextmanager
def _os_errors() -> Iterator[None]:
    try:
        yield
    except ServingError:
        raise
    except shutil.Error as exc:  # of many files; mostly for one reason
        *_, reason = exc.args[0][0]
        raise Unavailable(f"{reason}") from exc
    except OSError as exc:
        raise from_exception(exc) from exc
