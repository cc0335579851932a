"""
Models in a database: a row is a version, with its archive or the place where it is.

    servable_versions   model, version, sha256, size_bytes, location, published_at
    servable_pieces     sha256, number, data

The tables are made by whoever publishes first.  A version is published in one
transaction, so that a server sees all of it or nothing.  Archives are kept by their
content and in pieces: neither side ever holds one in memory, and what replaces a
version is never mixed with it.  The Source for it is in `sources/database_source.py`.
"""

import contextlib
import functools
import hashlib
import importlib.util
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Final
from urllib.parse import unquote

from servable.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from servable.sources import archive
from servable.sources.urls import redacted, scheme_of

_PIECE_BYTES: Final = 4 << 20
_PUBLISH_ATTEMPTS: Final = 5
_TIMEOUT_S: Final = 10
_PSYCOPG: Final = "postgresql+psycopg"
# What base paths say, and what SQLAlchemy calls it.
_DIALECTS: Final = {
    "sqlite": "sqlite",
    "postgres": _PSYCOPG,
    "postgresql": _PSYCOPG,
    _PSYCOPG: _PSYCOPG,
}

# functools.cache may make two for two threads, and connections of one would be lost.
_making: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class Row:
    """
    One version of a model.

    Attributes:
        version: its number.
        sha256: of its archive, None if it has none.
        size_bytes: of its archive.
        location: a directory or URL where it is, None if it has an archive.
    """

    version: int
    sha256: str | None
    size_bytes: int
    location: str | None


def publish(
    base_path: str, model: str, directory: str, version: int | None = None
) -> int:
    """
    Publish the files below *directory* as a version of *model*; return its number.

    Blocks.  Servers see the version when this returns, and nothing of it before.

    Args:
        base_path: the database, as `sqlite:////var/models.db`.
        model: the name that servers look for.
        directory: of one version; links are followed.
        version: None for one more than the highest there is.

    Raises:
        AlreadyExists: There is that version already.
        NotFound: There is no such directory.
        FailedPrecondition: What the database needs is not installed.
        ServingError: The database cannot be reached or written.
    """
    if not os.path.isdir(directory):
        raise NotFound(f"There is no directory {directory}")
    database = ModelDatabase(base_path)
    with tempfile.TemporaryFile() as packed:
        archive.pack(directory, packed)
        packed.seek(0)
        return database.add_archive(model, packed, version)


def publish_location(
    base_path: str, model: str, location: str, version: int | None = None
) -> int:
    """Publish the directory or URL *location* as a version; as `publish` otherwise."""
    return ModelDatabase(base_path).add_location(model, location, version)


def remove(base_path: str, model: str, version: int) -> None:
    """
    Remove a version of *model* from a database, and so from servers.

    Raises:
        NotFound: There is no such version.
        ServingError: The database cannot be reached or written.
    """
    ModelDatabase(base_path).remove(model, version)


class ModelDatabase:
    """
    The versions in one database.  Thread-safe; all methods block.

    Raises:
        FailedPrecondition: What it needs is not installed.
        InvalidArgument: The base path is no database's.
    """

    def __init__(self, base_path: str) -> None:
        check_installed(scheme_of(base_path))
        url, _ = split(base_path)
        self._shown = redacted(url)
        with _making:
            self._engine = _engine(url)
        self._tables = _tables()
        self._exists = False

    def rows(self, model: str) -> list[Row]:
        """
        Return the versions of *model*, in one query.

        Raises:
            FileNotFoundError: Nobody has published anything yet.
        """
        versions = self._tables.versions
        chosen = versions.select().where(versions.c.model == model)
        self._must_exist()
        with self._engine.connect() as connection:
            return [
                Row(found.version, found.sha256, found.size_bytes, found.location)
                for found in connection.execute(chosen)
            ]

    def read(self, sha256: str, start: int) -> Iterator[bytes]:
        """Yield the bytes of an archive from *start* on."""
        pieces = self._tables.pieces
        number, skip = divmod(start, _PIECE_BYTES)
        while True:
            self._must_exist()
            # A query for each: a transaction as long as a fetch would hold others up.
            chosen = pieces.select().where(
                pieces.c.sha256 == sha256, pieces.c.number == number
            )
            with self._engine.connect() as connection:
                found = connection.execute(chosen).first()
            if found is None:
                return
            yield bytes(found.data)[skip:]
            number, skip = number + 1, 0

    def add_archive(
        self, model: str, packed: IO[bytes], version: int | None = None
    ) -> int:
        """Publish a tar archive; see `publish`."""
        digest, size_bytes = hashlib.sha256(), 0
        while piece := packed.read(_PIECE_BYTES):
            digest.update(piece)
            size_bytes += len(piece)
        row = {"sha256": digest.hexdigest(), "size_bytes": size_bytes}
        return self._add(model, version, row, packed)

    def add_location(
        self, model: str, location: str, version: int | None = None
    ) -> int:
        """Publish a place; see `publish_location`."""
        if not location.startswith("/") and "://" not in location:
            raise InvalidArgument(
                f"Expected an absolute path or URI as location; got {location}"
            )
        return self._add(model, version, {"size_bytes": 0, "location": location})

    def remove(self, model: str, version: int) -> None:
        """Remove a version; see the function `remove`."""
        versions, pieces = self._tables.versions, self._tables.pieces
        self._must_exist()
        with self._transaction() as connection:
            gone = connection.execute(
                versions.delete().where(
                    versions.c.model == model, versions.c.version == version
                )
            )
            if not gone.rowcount:
                raise NotFound(f"{self._shown} has no version {version} of {model}")
            used = versions.select().with_only_columns(versions.c.sha256)
            has_archive = versions.c.sha256.is_not(None)
            connection.execute(
                pieces.delete().where(pieces.c.sha256.not_in(used.where(has_archive)))
            )

    def _add(
        self,
        model: str,
        version: int | None,
        row: dict[str, Any],
        packed: IO[bytes] | None = None,
    ) -> int:
        from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - an extra

        self._tables.metadata.create_all(self._engine)
        for _ in range(_PUBLISH_ATTEMPTS):
            try:
                return self._try_to_add(model, version, row, packed)
            except DBAPIError as exc:
                if not _is_conflict(exc):
                    raise
        raise AlreadyExists(f"{self._shown} is published to by too many at a time")

    def _try_to_add(
        self,
        model: str,
        version: int | None,
        row: dict[str, Any],
        packed: IO[bytes] | None,
    ) -> int:
        versions, pieces = self._tables.versions, self._tables.pieces
        of_model = versions.c.model == model
        with self._transaction() as connection:
            known = {
                found.version
                for found in connection.execute(versions.select().where(of_model))
            }
            number = max(known, default=0) + 1 if version is None else version
            if number in known:
                raise AlreadyExists(
                    f"{self._shown} has version {number} of {model} already"
                )
            connection.execute(
                versions.insert().values(model=model, version=number, **row)
            )
            is_there = (
                packed
                and connection.execute(
                    pieces.select()
                    .with_only_columns(pieces.c.number)
                    .where(pieces.c.sha256 == row["sha256"], pieces.c.number == 0)
                ).first()
            )
            if packed and not is_there:
                packed.seek(0)
                for count, piece in enumerate(iter(_reader(packed), b"")):
                    connection.execute(
                        pieces.insert().values(
                            sha256=row["sha256"], number=count, data=piece
                        )
                    )
        return number

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        """Have one that sees and is seen as if no other ran meanwhile."""
        with self._engine.connect() as connection:
            strict = connection.execution_options(isolation_level="SERIALIZABLE")
            with strict.begin():
                yield strict

    def _must_exist(self) -> None:
        """Raise FileNotFoundError if nobody has published here; make nothing."""
        from sqlalchemy import inspect  # noqa: PLC0415 - an extra

        path = self._engine.url.database
        is_file = self._engine.dialect.name == "sqlite"
        if is_file and not os.path.exists(path or ""):
            raise FileNotFoundError(path)  # also of one that was there: SQLite makes it
        if self._exists:
            return
        if not inspect(self._engine).has_table(self._tables.versions.name):
            raise FileNotFoundError(f"{self._shown} has no models")
        self._exists = True

    def __repr__(self) -> str:
        return f"<ModelDatabase {self._shown}>"


def split(base_path: str) -> tuple[str, str]:
    """Return the URL of the database and the row key, "" for none, of a base path."""
    url, _, key = base_path.partition("#")
    return url, unquote(key)


def check_installed(scheme: str) -> None:
    """Raise FailedPrecondition if what *scheme* needs is missing; import nothing."""
    is_sqlite = scheme == "sqlite"
    extra = "database" if is_sqlite else "postgresql"
    for module in ("sqlalchemy",) if is_sqlite else ("sqlalchemy", "psycopg"):
        if importlib.util.find_spec(module) is None:
            raise FailedPrecondition(
                f"Base paths with {scheme}:// need the package {module}; "
                f"install it with: pip install 'servable[{extra}]'"
            )


def _is_conflict(exc: Any) -> bool:
    """Return whether somebody else wrote just then, and the same may succeed now."""
    from sqlalchemy.exc import IntegrityError  # noqa: PLC0415 - an extra

    state = getattr(exc.orig, "sqlstate", None)
    return isinstance(exc, IntegrityError) or state in {"40001", "40P01"}


def _reader(packed: IO[bytes]) -> Any:
    return functools.partial(packed.read, _PIECE_BYTES)


@dataclass(frozen=True, slots=True)
class _Tables:
    metadata: Any
    versions: Any
    pieces: Any


@functools.cache
def _tables() -> _Tables:
    import sqlalchemy as sa  # noqa: PLC0415 - an extra

    metadata = sa.MetaData()
    versions = sa.Table(
        "servable_versions",
        metadata,
        sa.Column("model", sa.String(255), primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("sha256", sa.String(64)),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("location", sa.Text),
        sa.Column(
            "published_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
        ),
        sa.CheckConstraint(
            "(sha256 IS NULL) != (location IS NULL)", "archive_or_place"
        ),
    )
    pieces = sa.Table(
        "servable_pieces",
        metadata,
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    return _Tables(metadata, versions, pieces)


@functools.cache
def _engine(url: str) -> Any:
    """Return the one engine for *url*, and with it its connections."""
    import sqlalchemy as sa  # noqa: PLC0415 - an extra

    try:
        parsed = sa.make_url(url)
        parsed = parsed.set(drivername=_DIALECTS[parsed.drivername])
    except (sa.exc.ArgumentError, KeyError) as exc:
        raise InvalidArgument(f"{redacted(url)} is no database URL") from exc
    if parsed.drivername == "sqlite":
        return sa.create_engine(
            parsed, poolclass=sa.pool.NullPool, connect_args={"timeout": _TIMEOUT_S}
        )
    return sa.create_engine(
        parsed,
        pool_size=4,
        pool_pre_ping=True,
        pool_timeout=_TIMEOUT_S,
        connect_args={"connect_timeout": _TIMEOUT_S},
    )
