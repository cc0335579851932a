"""
Publishing to object stores, which have no rename.

Files are uploaded one after the other, and the graph last: a version without its
graph is none, so servers take it up when it is whole.  Publishers at the same time
must agree on numbers by themselves; `publishing` and databases do better.

TensorFlow is not needed; fsspec and the package of the store's scheme are.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from servable.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
)
from servable.export.publishing import check_complete, check_numbers
from servable.platforms.saved_model_files import GRAPH_FILES


def upload(
    source: str | os.PathLike[str],
    base_url: str,
    *,
    version: int | None = None,
    keep: int | None = None,
) -> str:
    """
    Upload the SavedModel *source* as a version below *base_url*; return its URL.

    Args:
        source: a complete SavedModel.
        base_url: as `s3://bucket/models/m`.
        version: its number; None for the one after the highest.
        keep: how many versions there may be then; None for all.

    Raises:
        NotFound, FailedPrecondition: *source* is no SavedModel, or not complete; or
            the package for the scheme is not installed.
        AlreadyExists: there is a version of that number.
        InvalidArgument: keep or version is out of range.
        Unavailable: the store cannot be reached or written.
    """
    check_numbers(version, keep)
    check_complete(source)
    filesystem, root = _filesystem(base_url)
    with _store_errors(base_url):
        there = _versions(filesystem, root)
    number = max(there, default=0) + 1 if version is None else version
    if number in there:
        raise AlreadyExists(f"{base_url} has a version {number} already")
    with _store_errors(base_url):
        _put(filesystem, Path(source), f"{root}/{number}")
        if keep is not None:
            for old in sorted(there)[: max(0, len(there) + 1 - keep)]:
                _delete(filesystem, f"{root}/{there[old]}")
    return f"{base_url.rstrip('/')}/{number}"


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        import fsspec  # noqa: PLC0415 - an extra

        filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as exc:
        raise FailedPrecondition(f"publishing to {url} needs {exc}") from exc
    except ValueError as exc:
        raise InvalidArgument(f"{url}: {exc}") from exc
    return filesystem, root.rstrip("/")


@contextmanager
def _store_errors(url: str) -> Iterator[None]:
    try:
        yield
    except Exception as exc:  # each store's library has errors of its own
        raise Unavailable(f"{url} cannot be written: {exc}") from exc


def _versions(filesystem: Any, root: str) -> dict[int, str]:
    try:
        paths = filesystem.ls(root, detail=False)
    except FileNotFoundError:
        return {}
    names = [PurePosixPath(path).name for path in paths]
    return {int(n): n for n in names if n.isascii() and n.isdecimal()}


def _put(filesystem: Any, source: Path, target: str) -> None:
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    files.sort(key=lambda path: path.parent == source and path.name in GRAPH_FILES)
    try:
        for file in files:
            name = f"{target}/{file.relative_to(source).as_posix()}"
            filesystem.makedirs(name.rpartition("/")[0], exist_ok=True)
            filesystem.put_file(str(file), name)
    except BaseException:
        _delete(filesystem, target)
        raise


def _delete(filesystem: Any, version: str) -> None:
    """Delete a version, its graph first, so that nobody takes the rest for one."""
    for name in GRAPH_FILES:
        if filesystem.exists(f"{version}/{name}"):
            filesystem.rm_file(f"{version}/{name}")
    if filesystem.exists(version):
        filesystem.rm(version, recursive=True)
