"""
What `--input` takes, made into values: JSON and text, files and stdin.

A file is read by its suffix, stdin by how it begins.  Pictures are the only values that
depend on the model: as bytes where it takes text, as pixels where it takes numbers.
"""

import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from servable.errors import InvalidArgument

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from servable.client import Signature, TensorSpec

WHOLE: Final = ""  # the name of a value that was given without one

_NPY: Final = b"\x93NUMPY"
_NPZ: Final = b"PK\x03\x04"
_PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF")
_PICTURE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")
_STDIN: Final = "-"
_MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by how many channels


def split_input(argument: str) -> tuple[str, str]:
    """Return name and value; JSON and files may have a = of their own."""
    name, equals, value = argument.partition("=")
    if not equals or argument[0] in '[{"@-':
        return WHOLE, argument
    return name, value


def by_name(arguments: Sequence[str]) -> Mapping[str, str]:
    """
    Return --input options by name.

    Raises:
        UsageError: One has no name and is not alone, or a name is given twice.
    """
    pairs = list(map(split_input, arguments))
    named = dict(pairs)
    if WHOLE in named and len(pairs) > 1:
        raise click.UsageError("--input without a name stands alone.")
    if len(named) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise click.UsageError(f"--input {twice} is given twice.")
    return named


def read_inputs(
    named: Mapping[str, str],
    signature: "Callable[[], Signature | None]" = lambda: None,
) -> Any:
    """
    Return the values of --input options by name, or the one that has no name.

    *signature* is asked for only if what is read depends on it: for pictures.

    Raises:
        InvalidArgument: A file cannot be read, or is not what the model takes.
    """
    values = {name: _read(name, text, signature) for name, text in named.items()}
    return values.get(WHOLE, values)


def plain(value: Any) -> Any:
    """Return what JSON has for a value: arrays as lists, bytes as text or base 64."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, complex):
        return [value.real, value.imag]
    if isinstance(value, bytes):
        from servable.client.rest_codec import json_string  # noqa: PLC0415

        return json_string(value)
    return value


def is_picture(text: str) -> bool:
    """Return whether a value is a file with a picture, by its name."""
    return text.startswith("@") and text.lower().endswith(_PICTURE_SUFFIXES)


def _read(name: str, text: str, signature: "Callable[[], Signature | None]") -> Any:
    if text == _STDIN:
        return _parse(name, sys.stdin.buffer.read(), "stdin", signature)
    if not text.startswith("@"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    path = Path(text[1:])
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise InvalidArgument(f"cannot read {path}: {exc}") from None
    return _parse(name, data, str(path), signature)


def _parse(
    name: str,
    data: bytes,
    where: str,
    signature: "Callable[[], Signature | None]",
) -> Any:
    suffix = Path(where).suffix.lower()
    try:
        if data.startswith(_NPY) or suffix == ".npy":
            return _load(data)
        if data.startswith(_NPZ) or suffix == ".npz":
            return _from_archive(name, _load(data))
        if data.startswith(_PICTURES) or suffix in _PICTURE_SUFFIXES:
            return _picture(name, data, signature())
        text = data.decode("utf-8-sig")
        if suffix != ".csv" and not _is_table(text, suffix):
            return _json(text)
        return _table(name, text, signature)
    except InvalidArgument as exc:
        raise InvalidArgument(f"{where}: {exc.message}") from None
    except (OSError, ValueError) as exc:
        raise InvalidArgument(f"cannot read {where}: {exc}") from None


def _load(data: bytes) -> Any:
    import numpy as np  # noqa: PLC0415 - only for files

    return np.load(io.BytesIO(data), allow_pickle=False)


def _from_archive(name: str, archive: Any) -> Any:
    """Return all arrays by name; for an input the one of its name, or the only one."""
    arrays = {key: archive[key] for key in archive.files}
    if name == WHOLE:
        return arrays
    if name in arrays:
        return arrays[name]
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    raise InvalidArgument(f"no array {name!r}; there are {', '.join(sorted(arrays))}")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise InvalidArgument(f"this is no JSON: {exc}") from None


def _is_table(text: str, suffix: str) -> bool:
    first_line = text.partition("\n")[0].strip()
    return suffix != ".json" and "," in first_line and first_line[0] not in '[{"'


def _table(name: str, text: str, signature: "Callable[[], Signature | None]") -> Any:
    """
    Return a CSV: the column of an input, all columns by name, or rows as a matrix.

    A first line of numbers only is no heading; columns then have no names.  Without a
    *name* the signature decides: for one input that is no column they are the rows.
    """
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if not rows:
        raise InvalidArgument("this CSV has no rows")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise InvalidArgument(
                f"row {number} has {len(row)} values, the first one {len(rows[0])}"
            )
    has_heading = not all(isinstance(_number(cell), int | float) for cell in rows[0])
    heading = rows.pop(0) if has_heading else None
    columns = [_column(column) for column in zip(*rows, strict=True)]
    if not columns:
        raise InvalidArgument("this CSV has a heading and no rows")
    named = dict(zip(heading or (), columns, strict=False))
    if name in named:
        return named[name]
    matrix = [list(row) for row in zip(*columns, strict=True)]
    known = signature() if name == WHOLE and named else None
    if not named or name != WHOLE:
        return matrix
    if known is None:
        return named
    if len(known.inputs) == 1 and not named.keys() & known.inputs.keys():
        return matrix
    return {key: _upright(named[key], known.inputs.get(key)) for key in named}


def _upright(column: list[Any], spec: "TensorSpec | None") -> list[Any]:
    """Return a column as [rows, 1] where the signature wants a matrix."""
    wants_matrix = spec is not None and spec.shape and spec.shape[1:] in {(1,), (None,)}
    return [[value] for value in column] if wants_matrix else column


def _column(cells: Sequence[str]) -> list[Any]:
    """Return the cells of a column as numbers, if all of them are, or as text."""
    numbers = [_number(cell) for cell in cells]
    return list(cells) if any(isinstance(n, str) for n in numbers) else numbers


def _number(cell: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


@dataclass(frozen=True, slots=True)
class PictureForm:
    """
    What a picture becomes for an input.

    Attributes:
        mode: Pillow's, of the pixels; "" for the bytes of the file instead.
        height: None for that of the picture; so the width.
        is_row: it is the one row of a batch.
    """

    mode: str
    height: int | None
    width: int | None
    is_row: bool


def picture_form(name: str, signature: "Signature | None") -> PictureForm:
    """
    Return the form in which an input takes a picture.

    Raises:
        InvalidArgument: it takes none.
    """
    spec = _spec(name, signature)
    if spec is None or str(spec.dtype) == "string":
        return PictureForm("", None, None, spec is None or spec.shape != ())
    shape = spec.shape or (None, None, None, 3)
    height, width, channels = shape[-3:] if len(shape) in (3, 4) else (None, None, 0)
    mode = _MODES.get(3 if channels is None else channels)
    if mode is None:
        raise InvalidArgument(
            f"a picture is no input {spec}; it is one of [height, width, channels], "
            "with one, three or four channels, or a batch of these"
        )
    return PictureForm(mode, height, width, len(shape) == 4)  # noqa: PLR2004


def _picture(name: str, data: bytes, signature: "Signature | None") -> Any:
    form = picture_form(name, signature)
    if not form.mode:
        return [data] if form.is_row else data
    pixels = _pixels(data, form.mode, form.height, form.width)
    return pixels[None] if form.is_row else pixels


def _spec(name: str, signature: "Signature | None") -> "TensorSpec | None":
    if signature is None:
        return None
    if name == WHOLE and len(signature.inputs) == 1:
        return next(iter(signature.inputs.values()))
    return signature.inputs.get(name)


def _pixels(
    data: bytes, mode: str, height: int | None, width: int | None
) -> "npt.NDArray[np.uint8]":
    """Return pixels as [height, width, channels], in the size that is wanted."""
    try:
        from PIL import Image  # noqa: PLC0415 - optional
    except ModuleNotFoundError:
        raise InvalidArgument(
            "this model takes pixels, and to read pictures needs Pillow: "
            "pip install pillow"
        ) from None
    import numpy as np  # noqa: PLC0415 - only for files

    image = Image.open(io.BytesIO(data)).convert(mode)
    size = (width or image.width, height or image.height)
    if image.size != size:
        image = image.resize(size)
    pixels = np.asarray(image, np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels  # noqa: PLR2004
