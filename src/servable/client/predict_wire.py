"""
PredictRequest and PredictResponse as bytes, with no message in between.

Arrays are most of what a client sends and gets, and protobuf copies each of them twice.
Here they are copied once on the way out, and on the way in only where they lie in the
response at an address that their type cannot have.  What is not numbers, or not laid
out as servers do it, is left to protobuf.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from servable.apis import model_pb2, predict_pb2, tensor_pb2
from servable.client import dtypes
from servable.client.dtypes import STRING, DType, TensorError
from servable.client.operations import ModelRef, Outputs, Predict
from servable.client.tensors import (
    content_of,
    encode,
    keep_freed_memory,
    make_ndarray,
    read_only,
    set_shape,
    to_varint,
)
from servable.errors import Internal

_OUTPUTS: Final = 0x0A  # of PredictResponse; so is the key of an entry of a map
_MODEL_SPEC: Final = 0x12  # of PredictResponse; so is the value of an entry
_DTYPE: Final = 0x08
_SHAPE: Final = 0x12
_CONTENT: Final = 0x22

# Packed fields that lie in a message as they lie in memory, and the types they are of.
_PACKED: Final = {
    0x2A: dtypes.parse("float32"),
    0x32: dtypes.parse("float64"),
    0x4A: dtypes.parse("complex64"),
    0x62: dtypes.parse("complex128"),
}
_SMALL: Final = 4096  # bytes, up to which a copy costs less than to hold the response
_ONE_BYTE: Final = 0x80  # from here on a varint takes more than one


def encode_request(operation: Predict) -> bytes:
    """
    Return the PredictRequest for *operation*, serialized.

    Raises:
        TensorError: a tensor is more than one message can carry.
    """
    parts: list[Any] = [
        _request_head(
            operation.model, operation.signature_name, tuple(operation.outputs)
        )
    ]
    for name, (array, dtype) in operation.inputs.items():
        if dtype is STRING:
            message = tensor_pb2.TensorProto()
            encode(array, dtype, message)
            tensor = message.SerializeToString()
            parts += (_entry_head(name, len(tensor)), tensor)
        else:
            keep_freed_memory(array.nbytes)
            content = content_of(array)
            parts += (_head(name, dtype, array.shape, len(content)), content)
    return b"".join(parts)


def decode_response(data: bytes, *, writable: bool) -> Outputs:
    """
    Return the outputs in a serialized PredictResponse, sorted by name.

    Unless they are to be *writable*, arrays of numbers are read-only and, where they
    are aligned in *data*, part of it.

    Raises:
        Internal: the bytes are none.
        TensorError: a tensor has no values, or not those that its shape asks for.
    """
    keep_freed_memory(len(data))
    try:
        found = _outputs(data, writable)
    except (IndexError, UnicodeDecodeError, DecodeError):  # protobuf says it better
        found = None
    return _decoded_by_protobuf(data, writable) if found is None else found


@functools.lru_cache(maxsize=256)
def _request_head(
    model: ModelRef, signature_name: str, outputs: Sequence[str]
) -> bytes:
    request = predict_pb2.PredictRequest(output_filter=outputs)
    fill_spec(request.model_spec, model, signature_name)
    return request.SerializeToString()


def fill_spec(
    spec: model_pb2.ModelSpec, model: ModelRef, signature_name: str = ""
) -> None:
    """Write into *spec* which model is asked, and for what."""
    spec.name = model.name
    if model.version is not None:
        spec.version.value = model.version
    elif model.label is not None:
        spec.version_label = model.label
    if signature_name:
        spec.signature_name = signature_name


@functools.lru_cache(maxsize=1024)
def _head(name: str, dtype: DType, shape: tuple[int, ...], nbytes: int) -> bytes:
    """Return what stands before the values of an input: its name, type and shape."""
    message = tensor_pb2.TensorProto()
    set_shape(message, dtype, shape)
    head = message.SerializeToString()
    if nbytes:
        head += b"\x22" + to_varint(nbytes)
    return _entry_head(name, len(head) + nbytes) + head


def _entry_head(name: str, size: int) -> bytes:
    """Return what stands before a tensor of *size* bytes in the map of inputs."""
    key = name.encode()
    inner = b"\x0a" + to_varint(len(key)) + key + b"\x12" + to_varint(size)
    return b"\x12" + to_varint(len(inner) + size) + inner


def _outputs(data: bytes, writable: bool) -> Outputs | None:
    """Return the outputs, or None for what this does not know to read."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    version: int | None = 0
    at, end = 0, len(data)
    while at < end:
        field = data[at]
        size, at = _length(data, at + 1)
        after = at + size
        if after > end:
            return None
        if field == _MODEL_SPEC:
            version = _version(data[at:after])
        elif field == _OUTPUTS and data[at] == _OUTPUTS:
            size, at = _length(data, at + 1)
            name, at = data[at : at + size].decode(), at + size
            if data[at] != _MODEL_SPEC:
                return None
            size, at = _length(data, at + 1)
            if at + size != after:
                return None
            arrays[name] = _array(data, at, after, writable)
        else:
            return None
        at = after
    if len(arrays) > 1:
        arrays = dict(sorted(arrays.items()))
    return Outputs(arrays, version)


def _length(data: bytes, at: int) -> tuple[int, int]:
    value = data[at]
    if value < _ONE_BYTE:
        return value, at + 1
    value, shift = value & 0x7F, 7
    while True:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < _ONE_BYTE:
            return value, at + 1
        shift += 7


def _array(data: bytes, at: int, end: int, writable: bool) -> npt.NDArray[Any]:
    """Return the tensor that is *data* from *at* to *end*."""
    values = _plain_array(data, at, end)
    if values is None:
        message = tensor_pb2.TensorProto.FromString(data[at:end])
        return make_ndarray(message, writable=writable)
    if writable:
        return values.copy()
    return values if values.flags.aligned else read_only(values.copy())


def _plain_array(data: bytes, at: int, end: int) -> npt.NDArray[Any] | None:
    """Return a view of the values, None where they do not simply lie there."""
    if end - at < 4 or data[at] != _DTYPE or data[at + 2] != _SHAPE:  # noqa: PLR2004
        return None
    head, at = at, at + 4 + data[at + 3]
    if at >= end or data[head + 1] >= _ONE_BYTE or data[head + 3] >= _ONE_BYTE:
        return None
    dtype, numpy_dtype, shape, nbytes = _described(data[head:at])
    field = data[at]
    if field != _CONTENT and _PACKED.get(field) is not dtype:
        return None
    size, at = _length(data, at + 1)
    if numpy_dtype is None or size != nbytes or at + size != end:
        return None
    if size <= _SMALL:
        return np.frombuffer(data[at:end], numpy_dtype).reshape(shape)
    count = size // numpy_dtype.itemsize
    return np.frombuffer(data, numpy_dtype, count, at).reshape(shape)


@functools.lru_cache(maxsize=1024)
def _described(
    head: bytes,
) -> tuple[DType | None, np.dtype[Any] | None, tuple[int, ...], int]:
    """Return type, NumPy's type, shape and size of what the head of a tensor says."""
    unknown = None, None, (), 0
    try:
        message = tensor_pb2.TensorProto.FromString(head)
        dtype = dtypes.from_number(message.dtype)
        numpy_dtype = dtypes.to_numpy(dtype)
    except (DecodeError, TensorError):
        return unknown
    shape = tuple([dim.size for dim in message.tensor_shape.dim])
    is_plain = numpy_dtype.kind in "iufc" and message.dtype == dtype.number
    if not is_plain or not numpy_dtype.isnative or min(shape, default=1) <= 0:
        return unknown
    return dtype, numpy_dtype, shape, math.prod(shape) * numpy_dtype.itemsize


@functools.lru_cache(maxsize=64)
def _version(spec: bytes) -> int:
    return model_pb2.ModelSpec.FromString(spec).version.value


def _decoded_by_protobuf(data: bytes, writable: bool) -> Outputs:
    try:
        response = predict_pb2.PredictResponse.FromString(data)
    except DecodeError as exc:
        raise Internal(f"the answer is no PredictResponse: {exc}") from None
    arrays = {
        name: make_ndarray(tensor, writable=writable)
        for name, tensor in sorted(response.outputs.items())
    }
    return Outputs(arrays, response.model_spec.version.value)
