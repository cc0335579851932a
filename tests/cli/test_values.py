"""What `--input` takes: JSON, text, files by suffix, stdin by how it begins."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from servable.cli.values import by_name, read_inputs
from servable.client import Signature, TensorSpec
from servable.client.dtypes import parse
from servable.errors import InvalidArgument


def signature(shape: tuple[int | None, ...] | None, **inputs: str) -> Signature:
    specs = {n: TensorSpec(f"{n}:0", parse(d), shape) for n, d in inputs.items()}
    return Signature("s", "", specs, {})


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: listed(v) for name, v in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.usefixtures("there")
def test_arrays_come_from_npy_and_npz() -> None:
    np.save("a.npy", np.array([1.5], np.float32))
    np.savez("ab.npz", a=[1], b=[2])
    np.savez("one.npz", [3])

    def read(argument: str) -> Any:
        return listed(read_inputs(by_name([argument])))

    assert read("x=@a.npy") == {"x": [1.5]}
    assert read("@ab.npz") == {"a": [1], "b": [2]}
    assert read("b=@ab.npz") == {"b": [2]}
    assert read("x=@one.npz") == {"x": [3]}
    with pytest.raises(InvalidArgument, match=r"ab.npz: no array 'x'; there are a, b"):
        read("x=@ab.npz")


@pytest.mark.parametrize(
    ("text", "argument", "takes", "expected"),
    [
        pytest.param(
            "a,b\n1,x\n2,y\n",
            "@t.csv",
            signature((None,), a="int64", b="string"),
            {"a": [1, 2], "b": ["x", "y"]},
            id="columns are inputs",
        ),
        pytest.param(
            "a,b\n1,x\n2,y\n",
            "@t.csv",
            signature((None, 1), a="int64", b="string"),
            {"a": [[1], [2]], "b": [["x"], ["y"]]},
            id="columns stand upright where the signature wants it",
        ),
        pytest.param(
            "a,b\n1,2.5\n3,4\n",
            "@t.csv",
            signature((None, 2), x="float32"),
            [[1, 2.5], [3, 4]],
            id="rows are the values of one input of another name",
        ),
        pytest.param("a,b\n1,2\n", "b=@t.csv", None, {"b": [2]}, id="a column by name"),
        pytest.param(
            "1,2\n3,4\n", "x=@t.csv", None, {"x": [[1, 2], [3, 4]]}, id="no heading"
        ),
        pytest.param(
            "a,b\n1,2\n", "x=@t.csv", None, {"x": [[1, 2]]}, id="a name of no column"
        ),
        pytest.param(
            'a\n"x, y"\n', "a=@t.csv", None, {"a": ["x, y"]}, id="a comma in quotes"
        ),
    ],
)
def test_tables(
    there: Path, text: str, argument: str, takes: Signature | None, expected: Any
) -> None:
    (there / "t.csv").write_text(text)

    assert read_inputs(by_name([argument]), lambda: takes) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"[1, 2]", [1, 2], id="JSON"),
        pytest.param(b"1,2\n3,4\n", [[1, 2], [3, 4]], id="CSV"),
        pytest.param(b"\xef\xbb\xbf[1]", [1], id="JSON with a mark of byte order"),
    ],
)
def test_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes, expected: Any) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    assert read_inputs(by_name(["-"])) == expected


def test_stdin_may_be_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    np.save(file, np.array([1.5]))
    file.seek(0)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))

    assert listed(read_inputs(by_name(["x=-"]))) == {"x": [1.5]}


@pytest.fixture
def picture(there: Path) -> bytes:
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    image.new("RGB", (4, 2), (255, 0, 10)).save("p.png")
    return (there / "p.png").read_bytes()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        pytest.param((None, None, None, 3), (1, 2, 4, 3), id="a batch of any size"),
        pytest.param((None, 6, 5, 3), (1, 6, 5, 3), id="a batch of one size"),
        pytest.param((None, None, 1), (2, 4, 1), id="one picture in shades of grey"),
        pytest.param((None, 2, 4, 4), (1, 2, 4, 4), id="with transparency"),
    ],
)
@pytest.mark.usefixtures("picture")
def test_pictures_are_the_pixels_that_the_model_takes(
    shape: tuple[int | None, ...], expected: tuple[int, ...]
) -> None:
    takes = signature(shape, x="float32")

    pixels = read_inputs(by_name(["@p.png"]), lambda: takes)

    assert pixels.shape == expected
    if expected[-1] == 3:
        assert pixels.reshape(-1, 3)[0].tolist() == [255, 0, 10]


@pytest.mark.parametrize(("shape", "is_batch"), [((None,), True), ((), False)])
def test_pictures_are_bytes_where_the_model_takes_text(
    picture: bytes, shape: tuple[int | None, ...], is_batch: bool
) -> None:
    takes = signature(shape, x="string")

    value = read_inputs(by_name(["x=@p.png"]), lambda: takes)["x"]

    assert value == ([picture] if is_batch else picture)


@pytest.mark.usefixtures("picture")
def test_a_picture_for_another_input_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"p.png: a picture is no input float32"):
        read_inputs(by_name(["@p.png"]), lambda: signature((None, 7), x="float32"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"nonsense", "cannot read a.npy"),
        ("a.json", b"1,2", "a.json: this is no JSON"),
        ("a.csv", b"", "this CSV has no rows"),
        ("a.csv", b"a,b\n", "a heading and no rows"),
        ("a.csv", b"a,b\n1\n", "row 2 has 1 values, the first one 2"),
        ("a.txt", b"\xff\xfe", "cannot read a.txt"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "cannot read a.png"),
    ],
)
def test_what_cannot_be_read_is_named(
    there: Path, name: str, content: bytes, message: str
) -> None:
    (there / name).write_bytes(content)
    takes: Callable[[], Signature] = lambda: signature((None, None, 3), x="int32")  # noqa: E731

    with pytest.raises(InvalidArgument) as refused:
        read_inputs(by_name([f"x=@{name}"]), takes)

    assert message in refused.value.message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x=1", "x=2"], "--input x is given twice"),
        (["1", "x=2"], "stands alone"),
    ],
)
def test_inputs_have_names_of_their_own(arguments: list[str], message: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        by_name(arguments)

    assert message in refused.value.message
