"""The Source of models in databases: base paths as `postgresql://host/models#m`."""

import dataclasses
import posixpath
from collections.abc import Iterator, Sequence

from servable.errors import FailedPrecondition, PermissionDenied
from servable.sources.database import ModelDatabase, Row, check_installed, split
from servable.sources.filesystems import KINDS
from servable.sources.model_roots import check_base_path, leads_out
from servable.sources.object_store import ObjectStore
from servable.sources.registry import SourceOptions
from servable.sources.store import Content, Digest, LocalContent, RemoteFile
from servable.sources.store_source import StoreSource
from servable.sources.urls import redacted, scheme_of
from servable.sources.versions import ServableToMonitor


def database_source(options: SourceOptions) -> StoreSource:
    """Return the Source of databases; see servable.sources.registry."""
    return StoreSource(
        lambda servable: DatabaseStore(servable, options.model_roots),
        options.cache,
        options.poll_wait_s,
        is_available=options.is_available,
        failed_load=options.failed_load,
        record=options.record_fetch,
        progress=options.progress,
        problems=options.problems,
        check=lambda servable: check_installed(scheme_of(servable.base_path)),
    )


class DatabaseStore:
    """
    The versions of one model in a database; see VersionStore.

    Args:
        servable: its rows are those of the model after `#` in its base path, or of
            its own name.
        model_roots: below which of them the places of versions may be.
    """

    def __init__(
        self, servable: ServableToMonitor, model_roots: Sequence[str] = ()
    ) -> None:
        _, key = split(servable.base_path)
        self._model = key or servable.servable_name
        self._model_roots = model_roots
        self._database = ModelDatabase(servable.base_path)
        self._rows: dict[str, Row] = {}

    def children(self) -> list[str]:
        """Return the numbers of the versions, in one query."""
        rows = self._database.rows(self._model)
        self._rows = {str(row.version): row for row in rows}
        return list(self._rows)

    def content(self, child: str) -> Content | LocalContent:
        """Return the archive of a version, or what is at its place."""
        row = self._rows[child]
        if row.location is not None:
            return content_at(row.location, self._model_roots)
        sha256 = row.sha256 or ""

        def read(_: RemoteFile, start: int) -> Iterator[bytes]:
            return self._database.read(sha256, start)

        file = RemoteFile(
            "archive.tar", row.size_bytes, f"sha256:{sha256}", Digest("sha256", sha256)
        )
        return Content((file,), read, is_whole=True, is_archive=True)

    def __repr__(self) -> str:
        return f"<DatabaseStore {self._model} in {self._database}>"


def content_at(location: str, roots: Sequence[str]) -> Content | LocalContent:
    """
    Return the version whose files are at *location*, which somebody has published.

    Raises:
        PermissionDenied: It is below none of *roots*.
        FailedPrecondition: It is no place that can be read.
    """
    scheme = scheme_of(location)
    check_base_path(location, roots)
    if scheme == "file":
        if leads_out(location, roots):
            raise PermissionDenied(f"{location} leads out of --model_roots")
        return LocalContent(location)
    if scheme not in KINDS:
        raise FailedPrecondition(f"{redacted(location)} is no place of files")
    parent, child = posixpath.split(location.rstrip("/"))
    content = ObjectStore(parent).content(child)
    return dataclasses.replace(content, is_whole=True)
