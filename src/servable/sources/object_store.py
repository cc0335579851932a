"""
Base paths in object stores and on web servers, through fsspec.

What is listed becomes names, sizes and identities by pure functions; the file systems
of `filesystems` do the rest.
"""

import base64
import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

from servable.errors import DataLoss
from servable.sources.filesystems import HTTP, KINDS, S3, check_installed, filesystem
from servable.sources.registry import SourceOptions
from servable.sources.store import Content, Digest, RemoteFile, checked_name
from servable.sources.store_source import StoreSource
from servable.sources.urls import redacted, scheme_of

_CHUNK_BYTES: Final = 8 << 20
_CHUNKS_AT_A_TIME: Final = 4


def object_store_source(options: SourceOptions) -> StoreSource:
    """Return the Source of object stores; see servable.sources.registry."""
    return StoreSource(
        lambda servable: ObjectStore(servable.base_path),
        options.cache,
        options.poll_wait_s,
        is_available=options.is_available,
        failed_load=options.failed_load,
        record=options.record_fetch,
        progress=options.progress,
        problems=options.problems,
        check=lambda servable: check_installed(scheme_of(servable.base_path)),
    )


class ObjectStore:
    """
    The versions below one URL; see VersionStore.

    Args:
        url: as `s3://bucket/models/m`.

    Raises:
        FailedPrecondition: the package for its scheme is not installed.
    """

    def __init__(self, url: str) -> None:
        self._scheme = scheme_of(url)
        check_installed(self._scheme)
        self._url = url.rstrip("/")
        self._filesystem = filesystem(self._url)
        self._is_http = KINDS[self._scheme] is HTTP
        self._is_hashed: dict[tuple[str, str], bool] = {}
        self._root = self._filesystem._strip_protocol(self._url)  # noqa: SLF001

    def children(self) -> Iterable[str]:
        """Return the names of what is directly below the URL."""
        return [name for name, _ in self._list(self._root)]

    def content(self, child: str) -> Content:
        """Return the files below a child, with sizes and ETags."""
        top = f"{self._root}/{child}"
        self._forget_listings()
        if self._is_http:
            found = dict(self._walk_http(top))
        else:
            found = {
                info["name"]: info
                for info in self._filesystem.find(top, detail=True).values()
            }
        prefix = f"{top}/"
        files: list[RemoteFile] = []
        urls: dict[str, str] = {}
        for path, info in sorted(found.items()):
            # Consoles make empty objects that stand for directories.
            is_marker = path.endswith("/") or info.get("type") == "directory"
            if is_marker or not path.startswith(prefix):
                continue
            name = checked_name(self._name(path.removeprefix(prefix)))
            urls[name] = path
            url = f"{self._scheme}://{path}" if "://" not in path else path
            file = remote_file(name, url, info)
            if KINDS[self._scheme] is S3 and not self._has_md5_for_etag(path, info):
                file = dataclasses.replace(file, digest=None)
            files.append(file)
        return Content(tuple(files), self._reader(urls))

    def _list(self, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield name and description of each child of *path*, in one request."""
        self._forget_listings()
        # A web server answers for a directory where its name ends so.
        listed = path + "/" if self._is_http else path
        for info in self._filesystem.ls(listed, detail=True):
            full = info["name"].partition("?")[0] if self._is_http else info["name"]
            name = full.removeprefix(f"{path}/").rstrip("/")
            if full.startswith(f"{path}/") and name and "/" not in name:
                yield self._name(name), info

    def _walk_http(self, top: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the URL and the headers of each file below *top*."""
        waiting = [top]
        while waiting:
            directory = waiting.pop()
            for name, info in self._list(directory):
                checked_name(name)
                if info["type"] == "directory":
                    waiting.append(info["name"].rstrip("/"))
                else:
                    url = info["name"]
                    yield url, self._filesystem.info(url)

    def _has_md5_for_etag(self, path: str, info: Mapping[str, Any]) -> bool:
        """Ask, once for each object, whether its ETag is a hash of what is stored."""
        key = path, str(info.get("ETag"))
        if key not in self._is_hashed:
            bucket, name, _ = self._filesystem.split_path(path)
            head = self._filesystem.call_s3("head_object", Bucket=bucket, Key=name)
            encryption = head.get("ServerSideEncryption", "AES256")
            self._is_hashed[key] = (
                encryption == "AES256" and "SSECustomerAlgorithm" not in head
            )
        return self._is_hashed[key]

    def _name(self, name: str) -> str:
        return unquote(name) if self._is_http else name

    def _reader(
        self, urls: Mapping[str, str]
    ) -> Callable[[RemoteFile, int], Iterator[bytes]]:
        if self._is_http:
            read = self._stream
        elif self._filesystem.async_impl:
            read = self._read_ranges
        else:
            # Fetches run beside looks, and may want a file system of their own.
            read = functools.partial(self._read_on, filesystem(self._url))

        def read_file(file: RemoteFile, start: int) -> Iterator[bytes]:
            return read(urls[file.name], file, start)

        return read_file

    def _read_ranges(self, path: str, file: RemoteFile, start: int) -> Iterator[bytes]:
        """Read some pieces at a time, side by side."""
        size = file.size_bytes or 0
        while start < size:
            starts = range(start, size, _CHUNK_BYTES)[:_CHUNKS_AT_A_TIME]
            ends = [min(begin + _CHUNK_BYTES, size) for begin in starts]
            chunks = self._filesystem.cat_ranges([path] * len(ends), list(starts), ends)
            for begin, end, chunk in zip(starts, ends, chunks, strict=True):
                if isinstance(chunk, BaseException):  # where the others may be well
                    raise chunk
                yield chunk
                if len(chunk) != end - begin:
                    raise DataLoss(f"The store sent {file.name} cut short")
            start = ends[-1]

    def _read_on(
        self, reading: Any, path: str, file: RemoteFile, start: int
    ) -> Iterator[bytes]:
        """Read one piece after the other."""
        options = {"block_size": _CHUNK_BYTES, "cache_type": "none"}
        with reading.open(path, "rb", size=file.size_bytes, **options) as body:
            body.seek(start)
            while chunk := body.read(_CHUNK_BYTES):
                yield chunk

    def _stream(self, path: str, file: RemoteFile, start: int) -> Iterator[bytes]:
        """Read in one request, from *start* on where the server can do that."""
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        size = file.size_bytes if file.size_bytes is not None else 1
        options = {"block_size": 0, "size": max(size, 1), "headers": headers}
        with contextlib.closing(self._filesystem.open(path, "rb", **options)) as body:
            skip = start if body.r.status != _PARTIAL_CONTENT else 0
            while chunk := body.read(_CHUNK_BYTES):
                if skip >= len(chunk):
                    skip -= len(chunk)
                    continue
                yield chunk[skip:]
                skip = 0

    def _forget_listings(self) -> None:
        self._filesystem.invalidate_cache()

    def __repr__(self) -> str:
        return f"<ObjectStore {redacted(self._url)}>"


_PARTIAL_CONTENT: Final = 206


def remote_file(name: str, url: str, info: Mapping[str, Any]) -> RemoteFile:
    """Return the file that *info*, an entry of a listing by fsspec, tells of."""
    size = info.get("size")
    return RemoteFile(
        name=name,
        size_bytes=int(size) if size is not None else None,
        identity=f"{url} {size} {_tag(info)}",
        digest=_digest(info),
    )


# What stores call that which is another one when a file is replaced; the first counts.
_TAGS: Final = (
    "ETag",
    "etag",
    "blob_id",
    "generation",
    "LastModified",
    "last_modified",
    "Last-Modified",
    "updated",
    "mtime",
    "created",
)
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_SHA1: Final = re.compile(r"[0-9a-f]{40}")


def _tag(info: Mapping[str, Any]) -> str:
    return next((f"{key}={info[key]}" for key in _TAGS if info.get(key)), "")


def _digest(info: Mapping[str, Any]) -> Digest | None:
    """Return what the store says of the bytes, None where that is nothing."""
    lfs, blob_id = info.get("lfs"), str(info.get("blob_id"))
    if lfs and (sha256 := lfs.get("sha256")):
        return Digest("sha256", sha256)
    if not lfs and not info.get("xet_hash") and _SHA1.fullmatch(blob_id):
        return Digest("git", blob_id)
    for md5 in (
        info.get("md5Hash"),
        info.get("Content-MD5"),
        (info.get("content_settings") or {}).get("content_md5"),
    ):
        if isinstance(md5, bytes | bytearray):
            return Digest("md5", bytes(md5).hex())
        if md5:
            with contextlib.suppress(ValueError):
                return Digest("md5", base64.b64decode(md5, validate=True).hex())
    etag = str(info.get("ETag", "")).strip('"')
    # That of a part-wise upload is no hash, and says so by its hyphen.
    if "StorageClass" in info and _MD5.fullmatch(etag):
        return Digest("md5", etag)
    return None
