"""What files of tables say, and which of them are refused."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servable.client.dtypes import to_numpy
from servable.errors import InvalidArgument, NotFound, ServingError
from servable.platforms.table_files import Rows, open_table, read_declared

needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow"
)


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")


def read(directory: Path) -> dict[str, Any]:
    """Return type, shape and values of every column, the key first."""
    table = open_table(str(directory), read_declared(str(directory)))
    columns = (table.key, *table.columns)
    chunks = [(keys, *rows) for keys, rows in table.chunks()]
    found: dict[str, Any] = {}
    for at, column in enumerate(columns):
        values: list[Any] = []
        for chunk in chunks:
            values += _values(chunk[at], column)
        found[column.name] = (f"{column.dtype}{list(column.shape)}", values)
    return found


def _values(rows: Rows, column: Any) -> list[Any]:
    if isinstance(rows, list):
        return [text.decode() for text in rows]
    array = np.frombuffer(rows, to_numpy(column.dtype))
    return list(array.reshape(-1, *column.shape).tolist())


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            {"table.csv": 'k,n,f,t\n007,1,1.5,x\n8,-2,2,"a,\n""b"""\n'},
            {
                "k": ("string[]", ["007", "8"]),
                "n": ("int64[]", [1, -2]),
                "f": ("float64[]", [1.5, 2.0]),
                "t": ("string[]", ["x", 'a,\n"b"']),
            },
            id="types of CSV are told from its cells, keys are texts",
        ),
        pytest.param(
            {"table.csv": "\ufeffk,v\r\na,01\r\n\r\nb,2\r\n"},
            {"k": ("string[]", ["a", "b"]), "v": ("string[]", ["01", "2"])},
            id="a byte order mark, empty lines, and digits that are no number",
        ),
        pytest.param(
            {
                "table.csv": "a,b,c\n1,,yes\n2,3,no\n",
                "table.toml": 'key = "b"\nkey_dtype = "int64"\n[columns.a]\n'
                'dtype = "float32"\n',
            },
            None,
            id="a key that is empty",
        ),
        pytest.param(
            {
                "table.csv": "a,b,c\n1,5,true\n,3,0\n",
                "table.toml": 'key = "b"\nkey_dtype = "int64"\n[columns.c]\n'
                'dtype = "bool"\n[columns.a]\ndtype = "float32"\ndefault = -1\n',
            },
            {
                "b": ("int64[]", [5, 3]),
                "c": ("bool[]", [True, False]),
                "a": ("float32[]", [1.0, -1.0]),
            },
            id="what is declared holds, and defaults fill empty cells",
        ),
        pytest.param(
            {"table.json": json.dumps({"a": [1, 2.5], "b": [3, 4]})},
            {
                "key": ("string[]", ["a", "b"]),
                "value": ("float64[2]", [[1.0, 2.5], [3.0, 4.0]]),
            },
            id="an object of vectors",
        ),
        pytest.param(
            {"table.json": json.dumps({"a": {"x": 1, "y": "p"}})},
            {
                "key": ("string[]", ["a"]),
                "x": ("int64[]", [1]),
                "y": ("string[]", ["p"]),
            },
            id="an object of objects",
        ),
        pytest.param(
            {"table.jsonl": '{"id": 7, "ok": true}\n\n{"id": -8, "ok": false}\n'},
            {"id": ("int64[]", [7, -8]), "ok": ("bool[]", [True, False])},
            id="an object on each line",
        ),
    ],
)
def test_what_a_table_says(
    files: dict[str, str], expected: dict[str, Any] | None, tmp_path: Path
) -> None:
    write(tmp_path, files)

    if expected is None:
        with pytest.raises(InvalidArgument):
            read(tmp_path)
    else:
        assert read(tmp_path) == expected


@pytest.mark.parametrize(
    ("files", "text"),
    [
        pytest.param(
            {"table.csv": "k,v\n" + "a,1\n" * 1200 + "b,x\n"},
            "Row 1201, column v: 'x' is no int64; table.toml can declare another type, "
            "or a default",
            id="a cell of another type than those before it",
        ),
        pytest.param(
            {"table.csv": "k,v\na,1\nb\n"},
            "Row 2 has 1 cells; there are 2 columns",
            id="a row that is too short",
        ),
        pytest.param(
            {"table.csv": "k,v\na,1\nb,\n"},
            "Row 2, column v: nothing is no int64; table.toml can declare another "
            "type, or a default",
            id="an empty cell without a default",
        ),
        pytest.param(
            {"table.csv": 'k,v\na,"1\n'},
            "table.csv: unexpected end of data",
            id="a quote that is not closed",
        ),
        pytest.param({"table.csv": ""}, None, id="an empty file"),
        pytest.param({"table.csv": "k\na\n"}, "There is no column beside k", id="keys"),
        pytest.param({"table.csv": "k,v,v\na,1,2\n"}, None, id="two of one name"),
        pytest.param({"table.csv": "k,found\na,1\n"}, None, id="a column called found"),
        pytest.param({"table.json": "[1]"}, None, id="JSON that is no object"),
        pytest.param({"table.json": '{"a": '}, None, id="JSON that is cut off"),
        pytest.param({"table.json": '{"a": [1], "b": [1, 2]}'}, None, id="ragged"),
        pytest.param(
            {"table.jsonl": '{"k": "a", "v": 1}\n{"k": "b"}\n'},
            "Row 2, column v: nothing is no int64; table.toml can declare another "
            "type, or a default",
            id="a line without a column",
        ),
        pytest.param({"table.jsonl": "{}\n"}, None, id="lines without columns"),
        pytest.param(
            {"table.jsonl": '{"k": 1.5, "v": 1}'},
            "Keys are of type string or int64, and not float64",
            id="keys that are no keys",
        ),
        pytest.param(
            {"table.csv": "k,v\n", "table.json": "{}"},
            "There are several tables: table.csv, table.json",
            id="two tables",
        ),
        pytest.param(
            {"table.csv": "k,v\na,1\n", "table.toml": "keys = 1"},
            "table.toml: unknown field keys",
            id="a field that is none",
        ),
        pytest.param(
            {"table.csv": "k,v\na,1\n", "table.toml": 'missing = "what"'},
            'table.toml: missing is \'what\'; "default" or "error" is right',
            id="a value that is none",
        ),
        pytest.param(
            {"table.csv": "k,v\na,1\n", "table.toml": '[columns.w]\ndtype="int8"'},
            "There is no column w; the table has k, v",
            id="a column that is not there",
        ),
        pytest.param(
            {"table.csv": "k,v\na,1\n", "table.toml": '[columns.v]\ndtype="int9"'},
            "table.toml: columns.v: 'int9' names no type of tensor",
            id="a type that is none",
        ),
        pytest.param(
            {
                "table.csv": "k,v\na,1\n",
                "table.toml": '[columns.v]\ndtype="int8"\ndefault="x"',
            },
            None,
            id="a default that does not fit",
        ),
        pytest.param(
            {"table.csv": "k,v\na,1\n", "table.toml": "="}, None, id="no TOML"
        ),
    ],
)
def test_what_is_refused(
    files: dict[str, str], text: str | None, tmp_path: Path
) -> None:
    write(tmp_path, files)

    with pytest.raises(InvalidArgument) as caught:
        read(tmp_path)

    assert text is None or caught.value.message == text


def test_a_directory_without_a_table_is_told_which_there_may_be(tmp_path: Path) -> None:
    with pytest.raises(
        NotFound, match=r"none of table\.csv, table\.json, table\.jsonl, "
    ):
        read(tmp_path)


@needs_pyarrow
def test_parquet_has_types_of_its_own(tmp_path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    columns = {
        "id": pa.array([3, 4], pa.int32()),
        "f": pa.array([0.5, 1.5], pa.float32()),
        "t": pa.array(["x", "ü"]),
        "ok": pa.array([True, False]),
        "vector": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
    }
    parquet.write_table(pa.table(columns), tmp_path / "table.parquet")

    assert read(tmp_path) == {
        "id": ("int64[]", [3, 4]),
        "f": ("float32[]", [0.5, 1.5]),
        "t": ("string[]", ["x", "ü"]),
        "ok": ("bool[]", [True, False]),
        "vector": ("float32[2]", [[1.0, 2.0], [3.0, 4.0]]),
    }


@needs_pyarrow
def test_parquet_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.parquet").write_bytes(b"PAR1")

    with pytest.raises(ServingError, match=r"table\.parquet"):
        read(tmp_path)
