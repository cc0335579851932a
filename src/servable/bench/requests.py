"""
Predict requests made from a signature: from values somebody gave, or from random ones.

Nothing here talks to a server.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from servable.apis import predict_pb2, tensor_pb2, types_pb2
from servable.apis.meta_graph_pb2 import SignatureDef

NUMPY_TYPES: Final[Mapping[int, npt.DTypeLike]] = {
    types_pb2.DT_FLOAT: np.float32,
    types_pb2.DT_DOUBLE: np.float64,
    types_pb2.DT_HALF: np.float16,
    types_pb2.DT_INT8: np.int8,
    types_pb2.DT_INT16: np.int16,
    types_pb2.DT_INT32: np.int32,
    types_pb2.DT_INT64: np.int64,
    types_pb2.DT_UINT8: np.uint8,
    types_pb2.DT_UINT16: np.uint16,
    types_pb2.DT_UINT32: np.uint32,
    types_pb2.DT_UINT64: np.uint64,
    types_pb2.DT_BOOL: np.bool_,
    types_pb2.DT_COMPLEX64: np.complex64,
    types_pb2.DT_COMPLEX128: np.complex128,
    types_pb2.DT_STRING: np.object_,
}


@dataclass(frozen=True, slots=True)
class Input:
    """The value of one input and its type on the wire."""

    dtype: int
    value: npt.NDArray[Any]


def parse_input(text: str) -> tuple[str, str]:
    """
    Split ``name=value``.

    Raises:
        ValueError: there is no ``=`` or no name before it.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"{text!r} should be NAME=JSON or NAME=@FILE.npy")
    return name, value


def read_value(text: str, dtype: int) -> npt.NDArray[Any]:
    """
    Return the value that *text* stands for: JSON, or ``@`` and a file of NumPy's.

    Raises:
        ValueError: it is neither, or does not fit *dtype*.
        OSError: the file cannot be read.
    """
    if text.startswith("@"):
        value = np.load(Path(text.removeprefix("@")), allow_pickle=False)
        return np.asarray(value, dtype=_numpy_type(dtype))
    try:
        parsed = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{text!r} is not JSON: {error}") from None
    if dtype == types_pb2.DT_STRING:
        return _strings(parsed)
    return np.asarray(parsed, dtype=_numpy_type(dtype))


def _strings(parsed: object) -> npt.NDArray[Any]:
    array = np.asarray(parsed, dtype=np.object_)
    encoded = [str(item).encode() for item in array.ravel()]
    result = np.empty(len(encoded), dtype=np.object_)
    result[:] = encoded
    return result.reshape(array.shape)


def make_inputs(
    signature: SignatureDef,
    given: Mapping[str, str],
    batch_size: int = 1,
    seed: int = 0,
) -> dict[str, Input]:
    """
    Return a value for every input of *signature*: the *given* one or random data.

    Of random data the first dimension is *batch_size* and any other of unknown size
    is one, unless the signature fixes them.

    Raises:
        ValueError: *given* names an input that there is not, a value does not fit,
            or random data of a type cannot be made.
        OSError: a file cannot be read.
    """
    if unknown := sorted(set(given) - set(signature.inputs)):
        raise ValueError(
            f"the signature has no input {unknown[0]!r}; "
            f"it has {', '.join(sorted(signature.inputs))}"
        )
    random = np.random.default_rng(seed)
    inputs = {}
    for name, info in sorted(signature.inputs.items()):
        if name in given:
            try:
                value = read_value(given[name], info.dtype)
            except (ValueError, TypeError, OverflowError) as error:
                raise ValueError(f"input {name!r}: {error}") from None
        else:
            sizes = [dim.size for dim in info.tensor_shape.dim]
            unknown_rank = info.tensor_shape.unknown_rank
            shape = [batch_size] if unknown_rank else _fill(sizes, batch_size)
            value = _random(random, info.dtype, shape)
        inputs[name] = Input(info.dtype, value)
    return inputs


def _fill(sizes: Sequence[int], batch_size: int) -> list[int]:
    unknown = [batch_size] + [1] * len(sizes)
    return [size if size >= 0 else unknown[axis] for axis, size in enumerate(sizes)]


def _random(
    random: np.random.Generator, dtype: int, shape: Sequence[int]
) -> npt.NDArray[Any]:
    numpy_type = _numpy_type(dtype)
    if dtype == types_pb2.DT_STRING:
        words = [f"{number:08x}" for number in random.integers(0, 2**32, shape).flat]
        return _strings(words).reshape(shape)
    if np.issubdtype(numpy_type, np.inexact):
        return random.random(shape).astype(numpy_type)
    # Small enough to be an index into most vocabularies.
    return random.integers(0, 2, shape).astype(numpy_type)


def _numpy_type(dtype: int) -> npt.DTypeLike:
    try:
        return NUMPY_TYPES[dtype]
    except KeyError:
        name = types_pb2.DataType.Name(dtype)
        raise ValueError(
            f"{name} cannot be written as JSON or made at random"
        ) from None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model, which of its versions, and which of its signatures."""

    name: str
    signature_name: str
    version: int | None = None
    label: str | None = None

    @property
    def url(self) -> str:
        """The path of the model's URL."""
        if self.version is not None:
            return f"/v1/models/{self.name}/versions/{self.version}"
        if self.label is not None:
            return f"/v1/models/{self.name}/labels/{self.label}"
        return f"/v1/models/{self.name}"


def grpc_body(model: ModelSpec, inputs: Mapping[str, Input]) -> bytes:
    """Return a serialized PredictRequest."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model.name
    request.model_spec.signature_name = model.signature_name
    if model.version is not None:
        request.model_spec.version.value = model.version
    elif model.label is not None:
        request.model_spec.version_label = model.label
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(_tensor_proto(value))
    return request.SerializeToString(deterministic=True)


def _tensor_proto(tensor: Input) -> tensor_pb2.TensorProto:
    proto = tensor_pb2.TensorProto()
    proto.dtype = tensor.dtype  # type: ignore[assignment] # enums are ints at run time
    for size in tensor.value.shape:
        proto.tensor_shape.dim.add(size=size)
    if tensor.dtype == types_pb2.DT_STRING:
        proto.string_val.extend(tensor.value.ravel().tolist())
    else:
        little_endian = tensor.value.astype(tensor.value.dtype.newbyteorder("<"))
        proto.tensor_content = little_endian.tobytes()
    return proto


def rest_body(model: ModelSpec, inputs: Mapping[str, Input]) -> bytes:
    """Return the JSON of a Predict: by rows if all inputs have as many, or columns."""
    values = {name: _json_value(tensor) for name, tensor in inputs.items()}
    rows = {t.value.shape[0] if t.value.ndim else None for t in inputs.values()}
    document: dict[str, Any] = {"signature_name": model.signature_name}
    if len(rows) != 1 or rows == {None}:
        document["inputs"] = values
    elif len(values) == 1:
        (document["instances"],) = values.values()
    else:
        document["instances"] = [
            dict(zip(values, row, strict=True))
            for row in zip(*values.values(), strict=True)
        ]
    return json.dumps(document, separators=(",", ":")).encode()


def _json_value(tensor: Input) -> Any:
    if tensor.dtype != types_pb2.DT_STRING:
        if np.issubdtype(tensor.value.dtype, np.complexfloating):
            raise ValueError("complex numbers cannot be sent as JSON")
        # The shortest text that reads back as the same number of the narrower type.
        if tensor.value.dtype in (np.float32, np.float16):
            shortest = [float(str(item)) for item in tensor.value.ravel()]
            return np.asarray(shortest).reshape(tensor.value.shape).tolist()
        return tensor.value.tolist()
    encoded = np.empty(tensor.value.size, dtype=np.object_)
    encoded[:] = [_json_string(item) for item in tensor.value.ravel()]
    return encoded.reshape(tensor.value.shape).tolist()


def _json_string(item: bytes) -> Any:
    try:
        return item.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(item).decode("ascii")}
