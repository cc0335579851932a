"""
Arrays to TensorProto and back.

Encoding agrees with `tf.make_tensor_proto`; decoding follows the rules of the server,
which accept more than `tf.make_ndarray` does: the last of too few values is repeated,
no values are zeros, and what exceeds the shape is ignored.
"""

import contextlib
import functools
import math
import numbers
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from servable.apis import tensor_pb2
from servable.client import dtypes
from servable.client.dtypes import STRING, DType, TensorError

_FIELD_NUMBERS: Final = {
    name: field.number
    for name, field in tensor_pb2.TensorProto.DESCRIPTOR.fields_by_name.items()
}
_LENGTH_DELIMITED: Final = 2  # the type on the wire of bytes, messages, packed fields

_FEW: Final = 64  # up to here an array is made faster of a list than of a field
_LARGE: Final = 1 << 16  # bytes, from which a copy costs more than a view
_MAX_CONTENT: Final = 2**31 - 1  # what protobuf can carry in one message
_KEPT: Final = (32 << 20) - (64 << 10)  # bytes, see `keep_freed_memory`


def make_tensor_proto(
    values: Any, dtype: Any = None, shape: Sequence[int] | None = None
) -> tensor_pb2.TensorProto:
    """
    Return *values* as a TensorProto, field by field as TensorFlow would.

    Args:
        values: an array, a scalar, bytes, a string, or lists of these.  Python's
            floats become float32 and its integers int32 where they fit.
        dtype: a DataType number, a name, a NumPy type or a TensorFlow DType; None
            takes the type of the values.
        shape: None takes the shape of the values.  With fewer values than elements
            the server repeats the last one.

    Raises:
        TensorError: the values are ragged, mixed, or of a type no tensor has.
    """
    wanted = None if dtype is None else dtypes.parse(dtype)
    if shape is not None and math.prod(shape) == 0 and not is_array_like(values):
        values = []
        array, wire = np.empty(0, np.float32), wanted or dtypes.parse("float32")
    else:
        array, wire = to_array(values, wanted)
    dims = array.shape if shape is None else tuple(shape)
    size = math.prod(dims)
    if array.size > size:
        raise TensorError(
            f"{array.size} values do not fit a tensor of shape {list(dims)}, "
            f"which takes {size}"
        )
    keep_freed_memory(array.nbytes)
    tensor = tensor_pb2.TensorProto()
    set_shape(tensor, wire, dims)
    if wire.content_by_default and array.size == size > 1:
        tensor.tensor_content = bytes(content_of(array))
    else:
        _set_values(tensor, wire, array)
    return tensor


def encode(
    array: npt.NDArray[Any], wire: DType, tensor: tensor_pb2.TensorProto
) -> None:
    """Put *array*, which is of the type of *wire*, into *tensor* in its short form."""
    set_shape(tensor, wire, array.shape)
    if wire is STRING:
        _set_values(tensor, wire, array)
    elif array.size:
        tensor.tensor_content = bytes(content_of(array))


def set_shape(
    tensor: tensor_pb2.TensorProto, wire: DType, shape: Sequence[int]
) -> None:
    """Write type and shape into *tensor*."""
    tensor.dtype = wire.number  # type: ignore[assignment]
    dims = tensor.tensor_shape
    dims.SetInParent()
    for size in shape:
        dims.dim.add(size=size)


def content_of(array: npt.NDArray[Any]) -> bytes | memoryview:
    """
    Return the values as they lie in a message; a view where *array* is large.

    Raises:
        TensorError: they are more than one message can carry.
    """
    array = _little_endian(array)
    if array.nbytes <= _LARGE:
        return array.tobytes()
    if array.nbytes > _MAX_CONTENT:
        raise TensorError(
            f"a tensor of {array.nbytes} bytes is more than one message can carry "
            f"({_MAX_CONTENT} bytes); send it in parts"
        )
    if array.dtype.kind in "biufc" and array.flags.c_contiguous:
        return array.data.cast("B")
    return array.tobytes()


def keep_freed_memory(nbytes: int) -> None:
    """
    Have the C library use again what messages of so many bytes leave behind.

    A message is made, copied into a request, serialized and forgotten.  glibc hands
    what is freed beyond 128 KiB back to the kernel at once, and to write to fresh
    memory costs several times what copying does: a request of 4 MiB took 9 ms instead
    of 0.7 ms.  It does not once the program has freed a larger block, of 32 MiB at
    most: blocks of up to that size then come from its heap, of which it keeps up to
    twice as much (mallopt(3), M_MMAP_THRESHOLD).  So this takes such a block, writes
    nothing to it, and frees it.  Other C libraries do not mind.
    """
    if nbytes > _LARGE:
        _free_a_block()


@functools.cache
def _free_a_block() -> None:
    with contextlib.suppress(MemoryError):
        np.empty(_KEPT, np.uint8)


def make_ndarray(
    tensor: tensor_pb2.TensorProto, *, writable: bool = True
) -> npt.NDArray[Any]:
    """
    Return the values of a TensorProto as an array of its own.

    Strings become an array of `bytes` objects.

    Args:
        tensor: The message.
        writable: False gives an array that cannot be changed, and copies large ones
            once less.

    Raises:
        TensorError: the message is no tensor: no type, a negative dimension, content
            of the wrong length, or a shape that asks for more memory than there is.
    """
    if not tensor.dtype or tensor.dtype >= dtypes.REF_OFFSET:
        raise TensorError(f"a tensor of DataType {tensor.dtype} has no values")
    wire = dtypes.from_number(tensor.dtype)
    numpy_dtype = dtypes.to_numpy(wire)
    shape = tuple([dim.size for dim in tensor.tensor_shape.dim])
    if min(shape, default=0) < 0:
        raise TensorError(f"a tensor cannot have the shape {list(shape)}")
    size = math.prod(shape)
    try:
        if not size:
            values = np.empty(shape, numpy_dtype)
            return values if writable else read_only(values)
        keep_freed_memory(size * numpy_dtype.itemsize)
        if content := tensor.tensor_content:
            values = _from_content(content, wire, numpy_dtype, size)
        else:
            values = _from_field(tensor, wire, numpy_dtype, size)
        if writable and not values.flags.writeable:
            values = values.copy()
        values = values.reshape(shape)
        return values if writable else read_only(values)
    except TensorError:
        raise
    except (MemoryError, ValueError, OverflowError) as exc:
        raise TensorError(
            f"a tensor of type {wire} and shape {list(shape)} does not fit into the "
            f"memory here: {exc}"
        ) from None


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return *array* itself, which from now on cannot be changed."""
    array.flags.writeable = False
    return array


def to_varint(value: int) -> bytes:
    """Return a length as protobuf writes it."""
    digits = bytearray()
    while value >= 0x80:  # noqa: PLR2004 - the bit that says "more"
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def is_array_like(values: Any) -> bool:
    """Return whether *values* brings a type and shape of its own."""
    return isinstance(values, np.ndarray | np.generic) or hasattr(values, "__array__")


def to_array(
    values: Any, wanted: DType | None = None
) -> tuple[npt.NDArray[Any], DType]:
    """
    Return *values* as an array that can be encoded, and the type to send it as.

    With *wanted* the values are cast as TensorFlow casts them, whether or not
    something is lost.

    Raises:
        TensorError: as make_tensor_proto.
    """
    if is_array_like(values):
        array = np.asarray(values)
        wire = dtypes.from_numpy(array.dtype)
    else:
        array, wire = _from_python(values, wanted)
    if wanted is None or wanted.number == wire.number:
        if wire is STRING:
            array = _strings(array)
        return array, wire
    if wanted is STRING and not array.size:
        return array.astype(object), wanted
    if STRING in (wanted, wire):
        raise TensorError(f"values of type {wire} cannot be sent as {wanted}")
    plain = np.dtype(wanted.numpy_name) if _is_quantized(wanted) else None
    return array.astype(plain or dtypes.to_numpy(wanted)), wanted


def _from_python(values: Any, wanted: DType | None) -> tuple[npt.NDArray[Any], DType]:
    array = python_array(values, wanted)
    wire = dtypes.from_numpy(array.dtype)
    if wanted is not None:
        if array.size and not _may_become(_kind(array), wanted):
            raise TensorError(f"{_first(values)!r} is no {wanted}")
        return array, wire
    if array.dtype == np.float64:
        with np.errstate(over="ignore"):
            return array.astype(np.float32), dtypes.parse("float32")
    if array.dtype == np.int64:
        narrow = array.astype(np.int32)
        if np.array_equal(narrow, array):
            return narrow, dtypes.parse("int32")
    return array, wire


def python_array(values: Any, wanted: DType | None = None) -> npt.NDArray[Any]:
    """
    Return Python's numbers, texts, or lists of these as an array.

    Text and bytes are left as objects, so that neither encoding nor trailing NULs
    are touched.  Integers of which some need all 64 bits stay integers where they are
    *wanted*; NumPy alone makes floats of them.

    Raises:
        TensorError: the lists are ragged, or what is in them is mixed or no value.
    """
    if isinstance(values, bytes | str):
        return _object_scalar(values)
    if isinstance(values, range):
        values = list(values)
    is_text = isinstance(_first(values), bytes | str)
    try:
        array = np.array(values, dtype=object if is_text else None)
    except ValueError:
        raise TensorError(_why_ragged(values)) from None
    except (OverflowError, TypeError) as exc:
        raise TensorError(f"these values are no tensor: {exc}") from None
    if array.dtype.kind == "f" and wanted is not None and _is_integral(wanted):
        exact = np.array(values, dtype=object)
        if all(isinstance(v, int) and 0 <= v < 2**64 for v in exact.flat):
            return exact.astype(np.uint64)
    if array.dtype.kind in "US":
        array = np.array(values, dtype=object)
    if array.dtype.kind == "O":
        _refuse_objects(array, values)
    return array


def _refuse_objects(array: npt.NDArray[Any], values: Any) -> None:
    kinds = set(map(type, array.reshape(-1).tolist()))
    if kinds <= {str, bytes}:
        return
    if not kinds.isdisjoint((list, tuple)):
        raise TensorError(_why_ragged(values))
    strange = [
        (isinstance(value, numbers.Number), index, value)
        for index, value in np.ndenumerate(array)
        if not isinstance(value, bytes | str)
    ]
    if strange:
        _, index, value = min(strange, key=lambda item: item[0])
        where = "".join(f"[{i}]" for i in index)
        raise TensorError(
            f"{f'element {where}' if where else 'this'} is {value!r:.80} of type "
            f"{type(value).__name__}; a tensor holds numbers of at most 64 bits, "
            "booleans, or text and bytes, all of one kind"
        )


def _why_ragged(values: Any) -> str:
    for path, level in _walk(values, ""):
        sizes = [len(v) if _is_list(v) else None for v in level]
        for i, size in enumerate(sizes):
            if size != sizes[0]:
                return (
                    "the lists are ragged: "
                    f"element {path}[0] {_says_size(sizes[0])}, "
                    f"element {path}[{i}] {_says_size(size)}; pad them to one length"
                )
    return "the arrays in the list have different shapes; pad them to one shape"


def _walk(values: Any, path: str) -> Iterator[tuple[str, Sequence[Any]]]:
    if _is_list(values):
        yield path, values
        for i, value in enumerate(values):
            yield from _walk(value, f"{path}[{i}]")


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _says_size(size: int | None) -> str:
    return "is no list" if size is None else f"has {size} values"


def _first(values: Any) -> Any:
    while _is_list(values) and values:
        values = values[0]
    return values


def _object_scalar(value: object) -> npt.NDArray[Any]:
    array = np.empty((), object)
    array[()] = value
    return array


def _kind(array: npt.NDArray[Any]) -> str:
    return array.dtype.kind


def _may_become(kind: str, wanted: DType) -> bool:
    """Return whether TensorFlow takes Python's values of NumPy's *kind* for these."""
    if wanted.name == "bool":
        return kind not in "iufc"
    if kind == "c":
        return wanted.field in ("scomplex_val", "dcomplex_val") or wanted is STRING
    return kind != "f" or not _is_integral(wanted)


def _is_integral(wire: DType) -> bool:
    return wire.field in ("int_val", "int64_val", "uint32_val", "uint64_val")


def _is_quantized(wire: DType) -> bool:
    return wire.name.startswith(("qint", "quint"))


def _strings(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the array as objects, each of them bytes."""
    if array.dtype.kind == "S":
        return array.astype(object)
    flat = array.reshape(-1).tolist()
    kinds = set(map(type, flat))
    if kinds == {str}:
        flat = [value.encode("utf-8", "surrogateescape") for value in flat]
    elif kinds != {bytes}:
        flat = [_as_bytes(value) for value in flat]
    result = np.empty(len(flat), object)
    result[:] = flat
    return result.reshape(array.shape)


def _as_bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise TensorError(
        f"{value!r:.80} of type {type(value).__name__} in an object array is neither "
        "text nor bytes; give numbers as an array of a numeric type"
    )


def _little_endian(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    order = array.dtype.byteorder
    if order == ">" or (order == "=" and sys.byteorder == "big"):
        return array.astype(array.dtype.newbyteorder("<"))
    return array


def _set_values(
    tensor: tensor_pb2.TensorProto, wire: DType, array: npt.NDArray[Any]
) -> None:
    if not array.size:
        return
    flat = array.reshape(-1)
    if flat.dtype.names:
        flat = flat[flat.dtype.names[0]]
    match wire.field:
        case "scomplex_val" | "dcomplex_val" | "bool_val":
            # These lie in a message as they lie in memory.
            packed = _little_endian(flat).tobytes()
            tag = (_FIELD_NUMBERS[wire.field] << 3 | _LENGTH_DELIMITED).to_bytes()
            tensor.MergeFromString(tag + to_varint(len(packed)) + packed)
        case "half_val":
            tensor.half_val.extend(flat.view(np.uint16).tolist())
        case "float8_val":
            tensor.float8_val = flat.tobytes()
        case "int_val":
            tensor.int_val.extend(flat.astype(np.int32).tolist())
        case field:
            getattr(tensor, field).extend(flat.tolist())


def _from_content(
    content: bytes, wire: DType, numpy_dtype: np.dtype[Any], size: int
) -> npt.NDArray[Any]:
    if wire is STRING:
        return _strings_from_content(content, size)
    if len(content) != size * numpy_dtype.itemsize:
        raise TensorError(
            f"the content of a tensor of {size} {wire} values has {len(content)} "
            f"bytes, not {size * numpy_dtype.itemsize}"
        )
    if wire.name == "bool" and max(content) > 1:
        raise TensorError("the content of a bool tensor has bytes other than 0 and 1")
    return np.frombuffer(content, _stored(numpy_dtype)).astype(numpy_dtype, copy=False)


def _stored(numpy_dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type as it lies in a message: little-endian."""
    if sys.byteorder == "big" and numpy_dtype.kind in "iufc":
        return numpy_dtype.newbyteorder("<")
    return numpy_dtype


def _strings_from_content(content: bytes, size: int) -> npt.NDArray[Any]:
    """Read *size* lengths, and then the strings, which must use up the content."""
    lengths, at = [], 0
    try:
        for _ in range(size):
            length, at = _varint(content, at)
            lengths.append(length)
    except IndexError:
        raise TensorError("the content of a string tensor ends in a length") from None
    if at + sum(lengths) != len(content):
        raise TensorError(
            f"the content of a string tensor has {len(content) - at} bytes of text, "
            f"not {sum(lengths)}"
        )
    result = np.empty(size, object)
    for i, length in enumerate(lengths):
        result[i] = content[at : at + length]
        at += length
    return result


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the bit that says "more"
            return value, at
        shift += 7


def _from_field(
    tensor: tensor_pb2.TensorProto,
    wire: DType,
    numpy_dtype: np.dtype[Any],
    size: int,
) -> npt.NDArray[Any]:
    field = getattr(tensor, wire.field)
    if wire is STRING:
        given = np.empty(min(len(field), size), object)
        given[:] = field[:size]
        return _filled(given, size, b"")
    match wire.field:
        case "float8_val":
            values = np.frombuffer(field, np.uint8).view(numpy_dtype)
        case "half_val":
            values = _numbers(tensor, wire.field).astype(np.uint16).view(numpy_dtype)
        case "scomplex_val" | "dcomplex_val":
            parts = _numbers(tensor, wire.field)
            values = parts[: len(parts) // 2 * 2].view(numpy_dtype)
        case _:
            plain = np.dtype(wire.numpy_name) if _is_quantized(wire) else numpy_dtype
            values = _numbers(tensor, wire.field).astype(plain, copy=False)
            values = values.view(numpy_dtype)
    return _filled(values[:size], size, np.zeros((), numpy_dtype)[()])


def _filled(given: npt.NDArray[Any], size: int, zero: Any) -> npt.NDArray[Any]:
    """Return *given* with its last value repeated up to *size*."""
    if len(given) == size:
        return given
    result = np.empty(size, given.dtype)
    result[: len(given)] = given
    result[len(given) :] = given[-1] if len(given) else zero
    return result


_FIELD_TYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "float_val": np.dtype(np.float32),
    "double_val": np.dtype(np.float64),
    "scomplex_val": np.dtype(np.float32),
    "dcomplex_val": np.dtype(np.float64),
    "int_val": np.dtype(np.int32),
    "int64_val": np.dtype(np.int64),
    "bool_val": np.dtype(np.bool_),
    "half_val": np.dtype(np.int32),
    "uint32_val": np.dtype(np.uint32),
    "uint64_val": np.dtype(np.uint64),
}


def _numbers(tensor: tensor_pb2.TensorProto, field: str) -> npt.NDArray[Any]:
    values = getattr(tensor, field)
    if len(values) <= _FEW:
        values = values[:]
    array: npt.NDArray[Any] = np.array(values, _FIELD_TYPES[field])
    return array
