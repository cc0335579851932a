"""What a model says of itself: its signatures, their inputs and outputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from servable.apis import get_model_metadata_pb2, meta_graph_pb2, tensor_shape_pb2
from servable.client import dtypes
from servable.client.dtypes import DType, TensorError

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """
    Type and shape that a signature declares for one input or output.

    Attributes:
        name: the tensor in the graph, as `x:0`.
        dtype: None where the signature does not say.
        shape: None for a dimension of any size, None for any rank.
    """

    name: str
    dtype: DType | None
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        return f"{self.dtype or 'any type'}{shape_text(self.shape)}"


@dataclass(frozen=True, slots=True)
class Signature:
    """
    Named inputs, named outputs and the method of a signature.

    Attributes:
        defaults: names of the inputs that need not be given over gRPC.
    """

    name: str
    method_name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    defaults: frozenset[str] = field(default=frozenset())

    def __str__(self) -> str:
        return f"{self.name}({specs_text(self.inputs)}) -> {specs_text(self.outputs)}"


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What one version of a model can be asked."""

    name: str
    version: int
    signatures: Mapping[str, Signature]


def shape_text(shape: tuple[int | None, ...] | None) -> str:
    """Return a shape as people write it: `[?, 3]`, `[]`, `[...]` for any rank."""
    if shape is None:
        return "[...]"
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def specs_text(specs: Mapping[str, TensorSpec]) -> str:
    """Return inputs or outputs on one line, sorted by name."""
    return ", ".join(f"{name}: {specs[name]}" for name in sorted(specs))


def signatures_from(
    signature_defs: Mapping[str, meta_graph_pb2.SignatureDef],
) -> Mapping[str, Signature]:
    """Return all signatures of a map, sorted by name."""
    return {
        name: signature_from(name, signature_defs[name])
        for name in sorted(signature_defs)
    }


def signature_from(name: str, proto: meta_graph_pb2.SignatureDef) -> Signature:
    """Return one SignatureDef."""
    return Signature(
        name,
        proto.method_name,
        {key: _spec_from(proto.inputs[key]) for key in sorted(proto.inputs)},
        {key: _spec_from(proto.outputs[key]) for key in sorted(proto.outputs)},
        frozenset(proto.defaults),
    )


def metadata_from(
    response: get_model_metadata_pb2.GetModelMetadataResponse,
) -> ModelMetadata:
    """Return the signatures of a GetModelMetadataResponse."""
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    return ModelMetadata(
        response.model_spec.name,
        response.model_spec.version.value,
        signatures_from(signatures.signature_def),
    )


def _spec_from(info: meta_graph_pb2.TensorInfo) -> TensorSpec:
    try:
        dtype = dtypes.from_number(info.dtype) if info.dtype else None
    except TensorError:  # a type newer than this client
        dtype = None
    return TensorSpec(info.name, dtype, _shape_from(info.tensor_shape))


def _shape_from(
    shape: tensor_shape_pb2.TensorShapeProto,
) -> tuple[int | None, ...] | None:
    if shape.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else dim.size for dim in shape.dim)
