"""
The platform "hashmap": look-up tables, held and asked by the engine.

A version directory has a table (table_files.py says in which formats), whose columns
become outputs: `keys` in, a row of each column for each key out, and `found`.  Once it
is loaded no request needs Python.
"""

import logging
import os
import zlib
from dataclasses import dataclass
from typing import Final

from servable import _engine
from servable.client import dtypes
from servable.core.resources import sum_of_file_sizes
from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.errors import FailedPrecondition, NotFound, Unavailable, from_exception
from servable.platforms.platform import PlatformOptions
from servable.platforms.python.model import (
    Signature,
    TensorSpec,
    to_signature_def_map,
)
from servable.platforms.table_files import (
    FOUND,
    TableFile,
    open_table,
    read_declared,
)

_logger = logging.getLogger(__name__)

KEYS: Final = "keys"
# A table in memory, and its rows on the way there, for each byte of its file.
_MEMORY_PER_FILE_BYTE: Final = 3


def shard_of(key: bytes | str | int, shards: int) -> int:
    """
    Return which of *shards* tables the row of *key* belongs into, from 0 on.

    Composites route keys so: by the CRC-32 of the bytes of a text, in UTF-8, or of the
    eight bytes of an integer, lowest first.
    """
    if isinstance(key, str):
        data = key.encode()
    elif isinstance(key, int):
        data = key.to_bytes(8, "little", signed=True)
    else:
        data = key
    return zlib.crc32(data) % shards


@dataclass(frozen=True, slots=True)
class HashmapPlatform:
    """Makes Loaders of look-up tables; see Platform."""

    name: str = "hashmap"

    def loader(self, servable_id: ServableId, path: StoragePath) -> "HashmapLoader":
        """Return the Loader of the version at *path*."""
        return HashmapLoader(servable_id, path)


class HashmapLoader:
    """One version of a table; see Loader."""

    def __init__(self, servable_id: ServableId, path: StoragePath) -> None:
        self._id = servable_id
        self._path = path
        self._servable: _engine.Servable | None = None

    def estimate_resources(self) -> int:
        """Return three times the bytes of all files."""
        return _MEMORY_PER_FILE_BYTE * sum_of_file_sizes(self._path)

    def load(self) -> None:
        """
        Read the table.

        Raises:
            NotFound: there is none.
            Unavailable: it is still being written.
            ServingError: it is no table.
        """
        if not os.path.isdir(self._path):
            raise NotFound(f"There is no version directory for {self._id}")
        before = _state_of_files(self._path)
        declared = read_declared(self._path)
        servable = self._read(open_table(self._path, declared), declared.is_strict)
        if _state_of_files(self._path) != before:
            servable.close()
            raise Unavailable("The table changed while it was read")
        self._servable = servable

    def servable(self) -> _engine.Servable:
        """Return what the engine runs."""
        if self._servable is None:
            raise FailedPrecondition(f"{self._id} is not loaded")
        return self._servable

    def unload(self) -> None:
        """Wait for the last request, and free the table."""
        if self._servable is not None:
            self._servable.close()
            self._servable = None

    def _read(self, table: TableFile, is_strict: bool) -> _engine.Servable:
        signature = _signature(table)
        try:
            builder = _engine.TableBuilder(
                table.key.dtype.number,
                [(c.name, c.dtype.number, c.shape) for c in table.columns],
            )
            for keys, columns in table.chunks():
                builder.add(keys, columns)
            servable, rows, memory_bytes = builder.finish(
                to_signature_def_map({"serving_default": signature}),
                [column.default_bytes() for column in table.columns],
                is_strict,
            )
        except _engine.EngineError as error:
            raise from_exception(error) from error
        _logger.info(
            "Table of %s: %d rows in %d bytes of memory", self._id, rows, memory_bytes
        )
        return servable


def hashmap_platform(_: PlatformOptions, __: object) -> HashmapPlatform:
    """Make the platform "hashmap"."""
    return HashmapPlatform()


def _signature(table: TableFile) -> Signature:
    outputs = {
        column.name: TensorSpec(column.dtype, (None, *column.shape))
        for column in table.columns
    }
    outputs[FOUND] = TensorSpec(dtypes.parse("bool"), (None,))
    return Signature({KEYS: TensorSpec(table.key.dtype, (None,))}, outputs)


def _state_of_files(path: str) -> list[tuple[str, int, int]]:
    entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    stats = [(entry.name, entry.stat()) for entry in entries]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
