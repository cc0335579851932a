"""
Tables in files: CSV, JSON, JSON lines and Parquet, as rows of typed columns.

What a column holds is declared in a file `table.toml` beside the table, or told from
the table: from Parquet's own types, or from the first rows.  Nothing here knows
servables.
"""

import csv
import itertools
import json
import os
import re
import tomllib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np

from servable.client import dtypes
from servable.client.dtypes import STRING, DType, TensorError
from servable.errors import FailedPrecondition, InvalidArgument, NotFound

SCHEMA_FILE: Final = "table.toml"
FOUND: Final = "found"

_CHUNK_ROWS: Final = 50_000
_ROWS_TO_INFER: Final = 1000
_INTEGER: Final = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_FLOAT: Final = re.compile(
    r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"
)
_BOOLS: Final = {"true": True, "false": False, "1": True, "0": False}
_KEY_DTYPES: Final = ("string", "int64")


@dataclass(frozen=True, slots=True)
class Column:
    """
    One column of a table.

    Attributes:
        name: of the column, and of the output that it becomes.
        dtype: of its elements.
        shape: of one row's value; () for one element.
        default: the value of keys and cells that are not there; None: zeros or "" for
            keys, and an error for cells.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...] = ()
    default: Any = None

    def default_bytes(self) -> bytes:
        """
        Return the row of a key that is not there.

        Raises:
            InvalidArgument: the default is no value of this column.
        """
        if self.dtype is STRING:
            return _as_bytes(self.default or b"")
        value = 0 if self.default is None else self.default
        try:
            row = np.broadcast_to(np.asarray(value), self.shape)
            return row.astype(dtypes.to_numpy(self.dtype)).tobytes()
        except (TypeError, ValueError) as error:
            raise InvalidArgument(
                f"The default of column {self.name} is no {self.dtype}"
                f"{list(self.shape)}: {error}"
            ) from None

    def to_rows(self, values: Sequence[Any], first_row: int) -> "Rows":
        """
        Return *values*, the first of them in row *first_row*, as a table takes them.

        Raises:
            InvalidArgument: one is no value of this column; it says in which row.
        """
        try:
            return self._to_rows(values)
        except (TypeError, ValueError, OverflowError):
            for row, value in enumerate(values, first_row):
                self._check(row, value)
            raise

    def _to_rows(self, values: Sequence[Any]) -> "Rows":
        if self.dtype is STRING:
            return [_as_bytes(self._filled(value)) for value in values]
        numpy_dtype = dtypes.to_numpy(self.dtype)
        filled = [self._filled(value) for value in values]
        if numpy_dtype.kind == "b":
            filled = [_to_bool(value) for value in filled]
        array = np.array(filled, None if numpy_dtype.kind == "b" else numpy_dtype)
        if array.shape != (len(values), *self.shape):
            raise ValueError(array.shape)
        return array.astype(numpy_dtype).tobytes()

    def _filled(self, value: Any) -> Any:
        if value is None or (value == "" and self.dtype is not STRING):
            if self.default is None:
                raise ValueError("nothing")
            return self.default
        return value

    def _check(self, row: int, value: Any) -> None:
        try:
            self._to_rows([value])
        except (TypeError, ValueError, OverflowError):
            shown = "nothing" if value in (None, "") else f"{value!r:.80}"
            raise InvalidArgument(
                f"Row {row}, column {self.name}: {shown} is no {self.dtype}"
                f"{list(self.shape) if self.shape else ''}; {SCHEMA_FILE} can declare "
                "another type, or a default"
            ) from None


Rows: TypeAlias = bytes | list[bytes]
"""Rows of one column, as servable._engine.TableBuilder takes them."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What `table.toml` says."""

    key: str = ""
    key_dtype: str = ""
    is_strict: bool = False
    columns: Mapping[str, Column] = field(default_factory=dict)
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableFile:
    """
    A table that was opened.

    Attributes:
        key: the column of the keys.
        columns: those that are looked up.
        chunks: yields keys and columns, some rows at a time; raises InvalidArgument
            for what is wrong in them.
    """

    key: Column
    columns: tuple[Column, ...]
    chunks: Callable[[], Iterator[tuple[Rows, list[Rows]]]]


def read_declared(directory: str) -> Declared:
    """
    Return what the `table.toml` of a version directory says; defaults without one.

    Raises:
        InvalidArgument: it is no TOML, or has a field with the wrong value.
    """
    try:
        with open(os.path.join(directory, SCHEMA_FILE), "rb") as file:
            text = tomllib.load(file)
    except FileNotFoundError:
        return Declared()
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"{SCHEMA_FILE}: {error}") from None
    unknown = text.keys() - {"key", "key_dtype", "missing", "columns"}
    if unknown:
        raise InvalidArgument(f"{SCHEMA_FILE}: unknown field {min(unknown)}")
    missing = text.get("missing", "default")
    if missing not in ("default", "error"):
        raise InvalidArgument(
            f'{SCHEMA_FILE}: missing is {missing!r}; "default" or "error" is right'
        )
    key_dtype = text.get("key_dtype", "")
    if key_dtype not in ("", *_KEY_DTYPES):
        raise InvalidArgument(
            f"{SCHEMA_FILE}: key_dtype is {key_dtype!r}; one of "
            f"{', '.join(_KEY_DTYPES)} is right"
        )
    columns = {
        name: _declared_column(name, fields)
        for name, fields in text.get("columns", {}).items()
    }
    return Declared(
        str(text.get("key", "")),
        key_dtype,
        missing == "error",
        columns,
        tuple(columns),
    )


def open_table(directory: str, declared: Declared) -> TableFile:
    """
    Open the table of a version directory: `table.csv`, `.json`, `.jsonl`, `.parquet`.

    Raises:
        NotFound: there is none.
        InvalidArgument: there are several, or it is not what its name says.
        FailedPrecondition: a package is missing to read it.
    """
    present = [
        ending
        for ending in _READERS
        if os.path.isfile(os.path.join(directory, f"table.{ending}"))
    ]
    if len(present) != 1:
        names = ", ".join(f"table.{ending}" for ending in present or _READERS)
        if present:
            raise InvalidArgument(f"There are several tables: {names}")
        raise NotFound(f"There is no table in the version directory, none of {names}")
    return _READERS[present[0]](
        os.path.join(directory, f"table.{present[0]}"), declared
    )


def _declared_column(name: str, fields: Any) -> Column:
    where = f"{SCHEMA_FILE}: columns.{name}"
    if not isinstance(fields, dict) or "dtype" not in fields:
        raise InvalidArgument(f"{where} has no dtype")
    unknown = fields.keys() - {"dtype", "shape", "default"}
    if unknown:
        raise InvalidArgument(f"{where}: unknown field {min(unknown)}")
    try:
        dtype = dtypes.parse(fields["dtype"])
        dtypes.to_numpy(dtype)
    except TensorError as error:
        raise InvalidArgument(f"{where}: {error.message}") from None
    shape = fields.get("shape", [])
    if not isinstance(shape, list) or not all(
        isinstance(size, int) and size > 0 for size in shape
    ):
        raise InvalidArgument(f"{where}: shape is {shape!r}; positive sizes are right")
    column = Column(name, dtype, tuple(shape), fields.get("default"))
    column.default_bytes()
    return column


def _open_csv(path: str, declared: Declared) -> TableFile:
    def records() -> Generator[list[str], None, None]:
        with open(path, newline="", encoding="utf-8-sig") as file:
            try:
                yield from csv.reader(file, strict=True)
            except (csv.Error, UnicodeDecodeError) as error:
                raise InvalidArgument(f"table.csv: {error}") from None

    rows = records()
    names = next(rows, [])
    if not names:
        raise InvalidArgument("table.csv has no line with the names of its columns")
    head = list(itertools.islice(rows, _ROWS_TO_INFER))
    rows.close()
    samples = {
        name: [row[at] for row in head if at < len(row)]
        for at, name in enumerate(names)
    }
    key, columns = _columns(names, names[0], declared, samples, _inferred_of_text)

    def complete() -> Iterator[list[str]]:
        for number, row in enumerate(itertools.islice(records(), 1, None), 1):
            if len(row) != len(names) and row:
                raise InvalidArgument(
                    f"Row {number} has {len(row)} cells; there are {len(names)} columns"
                )
            if row:
                yield row

    at = [names.index(column.name) for column in (key, *columns)]
    return TableFile(key, columns, lambda: _chunked(complete(), at, key, columns))


def _open_json(path: str, declared: Declared) -> TableFile:
    with open(path, encoding="utf-8") as file:
        try:
            table = json.load(file)
        except ValueError as error:
            raise InvalidArgument(f"table.json: {error}") from None
    if not isinstance(table, dict):
        raise InvalidArgument("table.json is no object with a member for each key")
    key = declared.key or "key"
    rows = (
        {key: name, **(row if isinstance(row, dict) else {"value": row})}
        for name, row in table.items()
    )
    return _of_objects(list(rows), key, declared)


def _open_json_lines(path: str, declared: Declared) -> TableFile:
    rows: list[dict[str, Any]] = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InvalidArgument(f"table.jsonl, line {number}: {error}") from None
            if not isinstance(row, dict):
                raise InvalidArgument(f"table.jsonl, line {number} is no object")
            rows.append(row)
    return _of_objects(rows, next(iter(rows[0]), "") if rows else "", declared)


def _of_objects(
    rows: list[dict[str, Any]], first: str, declared: Declared
) -> TableFile:
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows[:_ROWS_TO_INFER])))
    names += [name for name in declared.names if name not in names]
    if not names:
        raise InvalidArgument("The table has no rows to tell its columns from")
    samples = {name: [row.get(name) for row in rows[:_ROWS_TO_INFER]] for name in names}
    key, columns = _columns(names, first, declared, samples, _inferred_of_json)
    order = [key.name, *(column.name for column in columns)]

    def records() -> Iterator[list[Any]]:
        for row in rows:
            yield [row.get(name) for name in order]

    at = range(len(order))
    return TableFile(key, columns, lambda: _chunked(records(), at, key, columns))


def _open_parquet(path: str, declared: Declared) -> TableFile:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415 - optional
    except ImportError:
        raise FailedPrecondition(
            "table.parquet needs pyarrow: pip install 'servable[parquet]'"
        ) from None
    try:
        file = parquet.ParquetFile(path)
    except ArrowException as error:
        raise InvalidArgument(f"table.parquet: {error}") from None
    names = list(file.schema_arrow.names)
    types = {name: [file.schema_arrow.field(name).type] for name in names}
    key, columns = _columns(names, names[0], declared, types, _inferred_of_arrow)

    def chunks() -> Iterator[tuple[Rows, list[Rows]]]:
        wanted = (key, *columns)
        first_row = 1
        for batch in file.iter_batches(_CHUNK_ROWS, columns=[c.name for c in wanted]):
            rows = [
                _arrow_rows(column, batch.column(column.name), first_row)
                for column in wanted
            ]
            first_row += batch.num_rows
            yield rows[0], rows[1:]

    return TableFile(key, columns, chunks)


_READERS: Final[Mapping[str, Callable[[str, Declared], TableFile]]] = {
    "csv": _open_csv,
    "json": _open_json,
    "jsonl": _open_json_lines,
    "parquet": _open_parquet,
}


def _columns(
    names: Sequence[str],
    first: str,
    declared: Declared,
    samples: Mapping[str, Sequence[Any]],
    infer: Callable[[str, Sequence[Any]], Column],
) -> tuple[Column, tuple[Column, ...]]:
    """Return the column of the keys, and those that are looked up."""
    key_name = declared.key or first
    for name in (key_name, *declared.columns):
        if name not in names:
            raise InvalidArgument(
                f"There is no column {name}; the table has {', '.join(names)}"
            )
    if len(set(names)) != len(names):
        raise InvalidArgument("Two columns of the table have the same name")
    wanted = [name for name in declared.names or names if name != key_name]
    if FOUND in wanted:
        raise InvalidArgument(
            f"A column is called {FOUND}, as the output that tells which keys there are"
        )
    if not wanted:
        raise InvalidArgument(f"There is no column beside {key_name}")
    key = infer(key_name, samples[key_name])
    if declared.key_dtype or infer is _inferred_of_text:
        # Digits may be names: 007 is not 7.
        key = Column(key_name, dtypes.parse(declared.key_dtype or "string"))
    if str(key.dtype) in ("int32", "uint32", "int16", "uint16", "int8", "uint8"):
        key = Column(key_name, dtypes.parse("int64"))
    if str(key.dtype) not in _KEY_DTYPES or key.shape:
        raise InvalidArgument(f"Keys are of type string or int64, and not {key.dtype}")
    columns = tuple(
        declared.columns.get(name) or infer(name, samples[name]) for name in wanted
    )
    return key, columns


def _inferred_of_text(name: str, cells: Sequence[str]) -> Column:
    given = [cell for cell in cells if cell]
    if given and all(_INTEGER.fullmatch(cell) for cell in given):
        return Column(name, dtypes.parse("int64"))
    if given and all(_FLOAT.fullmatch(cell) for cell in given):
        return Column(name, dtypes.parse("float64"))
    return Column(name, STRING)


def _inferred_of_json(name: str, values: Sequence[Any]) -> Column:
    given = [value for value in values if value is not None]
    if not given or isinstance(given[0], str):
        return Column(name, STRING)
    try:
        array = np.array(given)
    except ValueError:
        array = np.array(given, object)
    if array.dtype.kind not in "bif":
        raise InvalidArgument(
            f"Column {name} holds values of several kinds or lengths; one of numbers, "
            "booleans, texts, and lists of numbers of one length is right"
        )
    kind = {"b": "bool", "i": "int64", "f": "float64"}[array.dtype.kind]
    return Column(name, dtypes.parse(kind), array.shape[1:])


def _inferred_of_arrow(name: str, arrow_types: Sequence[Any]) -> Column:
    from pyarrow import types  # noqa: PLC0415 - optional

    (arrow_type,) = arrow_types
    shape: tuple[int, ...] = ()
    while types.is_fixed_size_list(arrow_type):
        shape = (*shape, arrow_type.list_size)
        arrow_type = arrow_type.value_type
    if (
        types.is_string(arrow_type)
        or types.is_large_string(arrow_type)
        or types.is_binary(arrow_type)
        or types.is_large_binary(arrow_type)
    ) and not shape:
        return Column(name, STRING)
    try:
        return Column(
            name, dtypes.from_numpy(np.dtype(arrow_type.to_pandas_dtype())), shape
        )
    except (NotImplementedError, TypeError, TensorError):
        raise InvalidArgument(
            f"Column {name} is of Parquet's type {arrow_type}, which no tensor has"
        ) from None


def _arrow_rows(column: Column, array: Any, first_row: int) -> Rows:
    if column.dtype is STRING or array.null_count or column.dtype.name == "bool":
        return column.to_rows(array.to_pylist(), first_row)
    flat = array
    for _ in column.shape:
        flat = flat.flatten()
    values = flat.to_numpy(zero_copy_only=False)
    if values.size != len(array) * int(np.prod(column.shape, dtype=np.int64)):
        return column.to_rows(array.to_pylist(), first_row)
    wanted: np.dtype[Any] = dtypes.to_numpy(column.dtype)
    rows: bytes = values.astype(wanted, casting="same_kind", copy=False).tobytes()
    return rows


def _chunked(
    records: Iterable[Sequence[Any]],
    at: Sequence[int],
    key: Column,
    columns: Sequence[Column],
) -> Iterator[tuple[Rows, list[Rows]]]:
    rows = iter(records)
    first_row = 1
    while chunk := list(itertools.islice(rows, _CHUNK_ROWS)):
        cells = [
            column.to_rows([row[index] for row in chunk], first_row)
            for index, column in zip(at, (key, *columns), strict=True)
        ]
        first_row += len(chunk)
        yield cells[0], cells[1:]


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise TypeError(type(value).__name__)


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    try:
        return _BOOLS[str(value).lower()]
    except KeyError:
        raise ValueError(value) from None
