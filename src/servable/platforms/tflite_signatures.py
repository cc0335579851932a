"""
The signatures of a TensorFlow Lite model: those in its metadata, or one made up.

A model tells of its signatures in a metadata buffer that holds a FlexBuffer map of
names to SignatureDef messages.  One that tells nothing has `serving_default`, with
all of its inputs and outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError

from servable.apis import get_model_metadata_pb2, meta_graph_pb2, types_pb2
from servable.errors import InvalidArgument, Unimplemented

METADATA_NAME: Final = b"signature_defs_metadata"
_PREDICT: Final = "tensorflow/serving/predict"

DTYPES: Final = {
    "float32": types_pb2.DT_FLOAT,
    "float16": types_pb2.DT_HALF,
    "float64": types_pb2.DT_DOUBLE,
    "int8": types_pb2.DT_INT8,
    "uint8": types_pb2.DT_UINT8,
    "int16": types_pb2.DT_INT16,
    "uint16": types_pb2.DT_UINT16,
    "int32": types_pb2.DT_INT32,
    "uint32": types_pb2.DT_UINT32,
    "int64": types_pb2.DT_INT64,
    "uint64": types_pb2.DT_UINT64,
    "bool": types_pb2.DT_BOOL,
    "complex64": types_pb2.DT_COMPLEX64,
    "complex128": types_pb2.DT_COMPLEX128,
    "bytes": types_pb2.DT_STRING,
    "bytes_": types_pb2.DT_STRING,
    "object": types_pb2.DT_STRING,
}


@dataclass(frozen=True, slots=True)
class TensorDetails:
    """What the interpreter says of an input or output; -1 is a size that may vary."""

    index: int
    name: str
    dtype: int
    shape: tuple[int, ...]


def tensor_details(details: Sequence[Mapping[str, Any]]) -> list[TensorDetails]:
    """
    Return what an interpreter's details say.

    Raises:
        Unimplemented: A tensor is of a type that cannot be served.
    """
    found = []
    for detail in details:
        type_name = detail["dtype"].__name__
        if type_name not in DTYPES:
            raise Unimplemented(f"Tensor {detail['name']} is of type {type_name}")
        shape = detail.get("shape_signature", ())
        if not len(shape):
            shape = detail["shape"]
        found.append(
            TensorDetails(
                int(detail["index"]),
                detail["name"],
                DTYPES[type_name],
                tuple(int(size) for size in shape),
            )
        )
    return found


def read_signatures(
    model: bytes,
    schema: Any,
    inputs: Sequence[TensorDetails],
    outputs: Sequence[TensorDetails],
) -> get_model_metadata_pb2.SignatureDefMap:
    """
    Return the signatures of the serialized *model*.

    *schema* is the runtime's module for the format.

    Raises:
        InvalidArgument: The metadata cannot be read.
    """
    metadata = _metadata_buffer(model, schema)
    if metadata is None:
        return _generated(inputs, outputs)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    try:
        for name, serialized in _flexbuffer_map(metadata).items():
            signatures.signature_def[name].ParseFromString(bytes(serialized))
    except (DecodeError, TypeError, ValueError, IndexError) as error:
        raise InvalidArgument(
            f"The signatures in the model's metadata cannot be read: {error}"
        ) from None
    return signatures


def tensors_by_alias(
    infos: Mapping[str, meta_graph_pb2.TensorInfo],
    tensors: Sequence[TensorDetails],
    signature_name: str,
) -> dict[str, TensorDetails]:
    """
    Return the tensor of the model that each alias of a signature means.

    Names are tried whole, and then without what follows a colon.

    Raises:
        InvalidArgument: The model has no such tensor.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    found = {}
    for alias, info in infos.items():
        tensor = by_name.get(info.name) or by_name.get(info.name.partition(":")[0])
        if tensor is None:
            raise InvalidArgument(
                f"Unknown tensor '{info.name}'. (alias {alias} of signature "
                f"{signature_name})"
            )
        found[alias] = tensor
    return found


def _generated(
    inputs: Sequence[TensorDetails], outputs: Sequence[TensorDetails]
) -> get_model_metadata_pb2.SignatureDefMap:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    signature = signatures.signature_def["serving_default"]
    signature.method_name = _PREDICT
    for infos, tensors in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for tensor in tensors:
            info = infos[tensor.name.partition(":")[0]]
            info.name, info.dtype = tensor.name, tensor.dtype  # type: ignore[assignment]
            info.tensor_shape.SetInParent()
            for size in tensor.shape:
                info.tensor_shape.dim.add(size=size)
    return signatures


def _metadata_buffer(model: bytes, schema: Any) -> bytes | None:
    root = schema.Model.GetRootAs(model, 0)
    for position in range(root.MetadataLength()):
        metadata = root.Metadata(position)
        if metadata.Name() == METADATA_NAME:
            return bytes(root.Buffers(metadata.Buffer()).DataAsNumpy().tobytes())
    return None


def _flexbuffer_map(data: bytes) -> dict[str, bytes]:
    from flatbuffers import flexbuffers  # noqa: PLC0415 - comes with the runtime

    entries = flexbuffers.GetRoot(data).AsMap
    keys = [entries.Keys[position].AsKey for position in range(len(entries))]
    # A message is stored as text, which it is not, or as what it is.
    return {
        key: (
            entries[key].AsBlob if entries[key].IsBlob else entries[key].AsStringBytes
        )
        for key in keys
    }
