"""
Publishing to object stores, which have no rename.

Files are uploaded one after the other, and the graph last.

Publishers at the same time get different numbers: each first puts a file of its own,
its claim, where the version will be, and then looks whether it is alone there.  Of two
the later one sees the other, in stores that list what has been written; who is not
alone takes its claim back, and looks for a number again a little later.

The claim goes when the version is whole, and who deletes a version claims it first.
Servers take none up that is claimed, and what a publisher that was killed has left,
half written or half deleted, is claimed until a later one deletes it.

TensorFlow is not needed; fsspec and the package of the store's scheme are.
"""

import contextlib
import os
import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from servable.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    ServingError,
    Unavailable,
)
from servable.export.publishing import (
    ABANDONED_AFTER_S,
    check_complete,
    check_numbers,
)
from servable.export.steps import begin, bytes_in
from servable.platforms.saved_model_files import GRAPH_FILES

_CLAIM: Final = ".servable-"
# What to install for a scheme.  Directories are but parts of names there; who makes
# one makes a bucket, too.
_EXTRAS: Final = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
}
_ATTEMPTS: Final = 20
_LONGEST_PAUSE_S: Final = 0.5


def upload(
    source: str | os.PathLike[str],
    base_url: str,
    *,
    version: int | None = None,
    keep: int | None = None,
    filesystem: Any = None,
) -> str:
    """
    Upload the SavedModel *source* as a version below *base_url*; return its URL.

    Args:
        source: a complete SavedModel.
        base_url: as `s3://bucket/models/m`.
        version: its number; None for the one after the highest.
        keep: how many whole versions there may be then; None for all.
        filesystem: of fsspec, that *base_url* is for; None for the one that fsspec has.

    Raises:
        NotFound, FailedPrecondition: *source* is no SavedModel, or not complete; or
            the package for the scheme is not installed.
        AlreadyExists: there is a version of that number.
        InvalidArgument: keep or version is out of range.
        Unavailable: the store cannot be reached or written, or too many publish there
            at a time.
    """
    check_numbers(version, keep)
    check_complete(source)
    if filesystem is None:
        filesystem = _filesystem(base_url)
    root = filesystem._strip_protocol(base_url).rstrip("/")  # noqa: SLF001 - fsspec's own
    with store_errors(base_url):
        _delete_abandoned(filesystem, root)
        number, claim = _claim(filesystem, root, base_url, version)
        _put(filesystem, Path(source), f"{root}/{number}", claim)
        if keep is not None:
            _delete_all_but(keep, filesystem, root, number)
    return f"{base_url.rstrip('/')}/{number}"


def _filesystem(url: str) -> Any:
    try:
        import fsspec  # noqa: PLC0415 - an extra

        return fsspec.core.url_to_fs(url, use_listings_cache=False)[0]
    except ImportError as exc:
        extra = _EXTRAS.get(url.partition("://")[0])
        how = f"pip install 'servable[{extra}]'" if extra else str(exc)
        raise FailedPrecondition(
            f"publishing to {url} needs a package that is not installed: {how}"
        ) from exc
    except ValueError as exc:
        raise InvalidArgument(f"{url}: {exc}") from exc


@contextlib.contextmanager
def store_errors(shown: str) -> Iterator[None]:
    """
    Have what a store's library raises say where that was, as *shown*.

    Raises:
        Unavailable: for all that is no ServingError already.
    """
    try:
        yield
    except ServingError:
        raise
    except Exception as exc:  # each store's library has errors of its own
        reason = getattr(exc, "orig", None) or exc  # SQLAlchemy's go on about it
        raise Unavailable(f"{shown} cannot be written: {_line(reason)}") from exc


def _line(reason: object) -> str:
    """Return the first line of *reason*; stores go on with what they were asked."""
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    # Of a bucket that is missing some say no more than where it would be.
    is_missing = isinstance(reason, FileNotFoundError)
    return f"not found: {lines[0]}" if is_missing else lines[0]


def _claim(
    filesystem: Any, root: str, url: str, version: int | None
) -> tuple[int, str]:
    """Return a number that nobody else gets, and the file that says so."""
    for _ in range(_ATTEMPTS):
        there = _versions(filesystem, root)
        number = max(there, default=0) + 1 if version is None else version
        if number in there:
            raise AlreadyExists(f"{url} has a version {number} already")
        target = f"{root}/{number}"
        claim = f"{target}/{_CLAIM}{uuid.uuid4().hex}"
        _make_directory(filesystem, target)
        filesystem.pipe_file(claim, b"")
        if len(filesystem.ls(target, detail=False)) == 1:
            return number, claim
        filesystem.rm_file(claim)
        time.sleep(random.uniform(0, _LONGEST_PAUSE_S))  # noqa: S311 - to be apart
    raise Unavailable(f"{url} is published to by too many at a time")


def _versions(filesystem: Any, root: str) -> dict[int, str]:
    names = _names(filesystem, root)
    return {int(n): n for n in names if n.isascii() and n.isdecimal()}


def _make_directory(filesystem: Any, path: str) -> None:
    protocols = filesystem.protocol
    protocols = {protocols} if isinstance(protocols, str) else set(protocols)
    if not protocols & _EXTRAS.keys():
        filesystem.makedirs(path, exist_ok=True)


def _put(filesystem: Any, source: Path, target: str, claim: str) -> None:
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    files.sort(key=lambda path: path.parent == source and path.name in GRAPH_FILES)
    sent = _sent()
    begin("uploading", lambda: sent.value, bytes_in(source))
    try:
        for file in files:
            name = f"{target}/{file.relative_to(source).as_posix()}"
            _make_directory(filesystem, name.rpartition("/")[0])
            filesystem.put_file(str(file), name, callback=sent)
        filesystem.rm_file(claim)
    except BaseException:
        _delete(filesystem, target)
        raise


def _sent() -> Any:
    """Return what counts the bytes that file systems say they have sent."""
    from fsspec.callbacks import Callback  # noqa: PLC0415 - an extra

    class Sent(Callback):  # type: ignore[misc]
        def set_size(self, size: int) -> None:
            """Ignore the size of one file."""

    return Sent()


def _delete_all_but(keep: int, filesystem: Any, root: str, published: int) -> None:
    """Delete old versions; those that are claimed are somebody's who is at it."""
    whole = []
    for number, name in sorted(_versions(filesystem, root).items()):
        names = _names(filesystem, f"{root}/{name}")
        if names & set(GRAPH_FILES) and not any(n.startswith(_CLAIM) for n in names):
            whole.append((number, f"{root}/{name}"))
    for number, path in whole[:-keep]:
        if number != published:
            _delete(filesystem, path)


def _delete_abandoned(filesystem: Any, root: str) -> None:
    """Delete what publishers that were killed have left."""
    too_old = time.time() - ABANDONED_AFTER_S
    for name in _versions(filesystem, root).values():
        for path in filesystem.ls(f"{root}/{name}", detail=False):
            if not PurePosixPath(path).name.startswith(_CLAIM):
                continue
            with contextlib.suppress(FileNotFoundError, NotImplementedError):
                if filesystem.modified(path).timestamp() < too_old:
                    _delete(filesystem, f"{root}/{name}")
    if hasattr(filesystem, "call_s3"):
        _abort_uploads(filesystem, root, too_old)


def _abort_uploads(filesystem: Any, root: str, too_old: float) -> None:
    """Have S3 drop the parts of large files that nobody will complete any more."""
    bucket, below, _ = filesystem.split_path(root)
    where = {"Bucket": bucket, "Prefix": f"{below}/"}
    # Not all who may write may list them, and not all stores like S3 have such a list.
    with contextlib.suppress(OSError):
        found = filesystem.call_s3("list_multipart_uploads", **where)
        for begun in found.get("Uploads", []):
            if begun["Initiated"].timestamp() < too_old:
                which = {"Key": begun["Key"], "UploadId": begun["UploadId"]}
                filesystem.call_s3("abort_multipart_upload", Bucket=bucket, **which)


def _delete(filesystem: Any, version: str) -> None:
    """Delete a version, claimed until nothing else is left of it."""
    filesystem.pipe_file(f"{version}/{_CLAIM}{uuid.uuid4().hex}", b"")
    for path in filesystem.find(version):
        if not PurePosixPath(path).name.startswith(_CLAIM):
            with contextlib.suppress(FileNotFoundError):  # another publisher did
                filesystem.rm_file(path)
    with contextlib.suppress(FileNotFoundError):
        filesystem.rm(version, recursive=True)


def _names(filesystem: Any, directory: str) -> set[str]:
    try:
        paths = filesystem.ls(directory, detail=False)
    except FileNotFoundError:
        return set()
    return {PurePosixPath(path).name for path in paths}
