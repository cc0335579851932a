"""
What a model written in Python is, and how its signatures become messages.

These are the types that model authors see.  What runs such a model is hosting.py, in
a process of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from servable.apis import get_model_metadata_pb2, meta_graph_pb2
from servable.client import dtypes
from servable.client.dtypes import STRING, DType
from servable.client.signatures import shape_text
from servable.errors import Internal, InvalidArgument

PREDICT: Final = "tensorflow/serving/predict"
CLASSIFY: Final = "tensorflow/serving/classify"
REGRESS: Final = "tensorflow/serving/regress"

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""Arrays by alias; those of type string hold `bytes` objects."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """
    Type and shape of one input or output.

    Attributes:
        dtype: a name ("float32", "string"), a NumPy type or a DataType number; kept
            as the DType that it names.
        shape: a size for each dimension, None where any size will do; shape=None for
            any rank.  For models that take batches the first one is None.

    Raises:
        TensorError: dtype names no type.
    """

    dtype: Any
    shape: Sequence[int | None] | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", dtypes.parse(self.dtype))
        if self.shape is not None:
            sizes = tuple(
                None if size is None or size < 0 else int(size) for size in self.shape
            )
            object.__setattr__(self, "shape", sizes)

    def to_array(self, name: str, value: Any) -> npt.NDArray[Any]:
        """
        Return *value*, which a model gave for *name*, as an array of this spec.

        Lists and numbers of Python become arrays of its type; arrays have to be of
        that type already.

        Raises:
            Internal: it is of another type or shape.
        """
        dtype: DType = self.dtype
        array = _to_array(name, value, dtype)
        if not self._fits(array.shape):
            raise Internal(
                f"Output {name} has shape {list(array.shape)}; the signature says "
                f"{shape_text(self._sizes())}"
            )
        return array

    def to_proto(self, name: str) -> meta_graph_pb2.TensorInfo:
        """Return the message of this spec, of a tensor called *name*."""
        info = meta_graph_pb2.TensorInfo(name=name)
        info.dtype = self.dtype.number
        if self.shape is None:
            info.tensor_shape.unknown_rank = True
        else:
            info.tensor_shape.SetInParent()
            for size in self.shape:
                info.tensor_shape.dim.add(size=-1 if size is None else size)
        return info

    def _sizes(self) -> tuple[int | None, ...] | None:
        return None if self.shape is None else tuple(self.shape)

    def _fits(self, shape: tuple[int, ...]) -> bool:
        return self.shape is None or (
            len(shape) == len(self.shape)
            and all(
                size in (None, given)
                for size, given in zip(self.shape, shape, strict=True)
            )
        )


@dataclass(frozen=True, slots=True)
class Signature:
    """
    Named inputs and outputs, and which API they are meant for.

    Attributes:
        method_name: PREDICT; CLASSIFY has one input `inputs` (strings: serialized
            tf.Example, see parse_examples) and outputs `classes` (strings [n, k])
            and/or `scores` (float32 [n, k]); REGRESS has the same input and one
            output `outputs` (float32 [n] or [n, 1]).
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str = field(default=PREDICT)


class PythonModel(Protocol):
    """
    What the class `Model` in a version's `model.py` has to have.

    It is made without arguments, once in each process that runs the version.  A class
    attribute `threads` (an int, 1 if there is none) says how many calls of `run` may
    be made at a time, each on a thread of its own; with 1 nothing is ever called
    concurrently.

    A ServingError (servable.errors) that is raised keeps its code and text on the way
    to the client; any other exception becomes INTERNAL with its class and text, and
    its traceback goes to the log.
    """

    def load(self, path: str) -> None:
        """Read what is needed from the version directory *path*; may take long."""

    def signatures(self) -> Mapping[str, Signature]:
        """Return the signatures by name; called once, after load."""

    def run(self, signature_name: str, inputs: Arrays) -> Mapping[str, Any]:
        """
        Return the outputs of one signature by alias.

        Args:
            signature_name: one of signatures().
            inputs: has every input of the signature, and no other; types and shapes
                were checked.  The arrays are read-only and C-contiguous, those of
                type string hold `bytes` objects.

        The outputs are arrays of the declared type and shape, or lists that become
        such; more outputs than declared are left out.
        """


class Transform(Protocol):
    """
    What the class `Transform` in a `transform.py` beside a SavedModel has to have.

    Made, loaded and called as a PythonModel is.  A method `signatures` (as there, with
    the signatures of the SavedModel by name for its argument) is needed where the
    inputs or outputs that clients see are others than the SavedModel's; the names of
    signatures are the SavedModel's.
    """

    def load(self, path: str) -> None:
        """Read what is needed from the version directory *path*."""

    def preprocess(self, signature_name: str, inputs: Arrays) -> Mapping[str, Any]:
        """Return the inputs of the SavedModel's signature for a client's."""

    def postprocess(self, signature_name: str, outputs: Arrays) -> Mapping[str, Any]:
        """Return the outputs that the client gets for all of the SavedModel's."""


def to_signature_def_map(signatures: Mapping[str, Signature]) -> bytes:
    """
    Return the serialized SignatureDefMap of *signatures*.

    Raises:
        InvalidArgument: there is none, or one is no Signature.
    """
    if not signatures:
        raise InvalidArgument("A model has at least one signature")
    made = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in signatures.items():
        if not isinstance(signature, Signature):
            raise InvalidArgument(
                f"Signature {name!r} is of type {type(signature).__name__}; "
                "servable.platforms.python.Signature was expected"
            )
        definition = made.signature_def[name]
        definition.method_name = signature.method_name
        for specs, infos in (
            (signature.inputs, definition.inputs),
            (signature.outputs, definition.outputs),
        ):
            for alias, spec in specs.items():
                infos[alias].CopyFrom(spec.to_proto(f"{name}_{alias}:0"))
    return made.SerializeToString(deterministic=True)


def from_signature_def_map(serialized: bytes) -> dict[str, Signature]:
    """Return the signatures of a serialized SignatureDefMap, those with types."""
    message = get_model_metadata_pb2.SignatureDefMap.FromString(serialized)

    def specs(
        infos: Mapping[str, meta_graph_pb2.TensorInfo],
    ) -> dict[str, TensorSpec]:
        return {
            alias: TensorSpec(
                info.dtype,
                None
                if info.tensor_shape.unknown_rank
                else [dim.size for dim in info.tensor_shape.dim],
            )
            for alias, info in infos.items()
        }

    return {
        name: Signature(
            specs(definition.inputs),
            specs(definition.outputs),
            definition.method_name,
        )
        for name, definition in message.signature_def.items()
        if all(
            info.dtype
            for infos in (definition.inputs, definition.outputs)
            for info in infos.values()
        )
    }


def _to_array(name: str, value: Any, dtype: DType) -> npt.NDArray[Any]:
    if value is None:  # which NumPy takes for NaN
        raise Internal(f"Output {name} is no tensor of type {dtype}: it is None")
    is_array = isinstance(value, np.ndarray | np.generic)
    try:
        if dtype is STRING:
            return _strings(value)
        array = np.asarray(value, None if is_array else dtypes.to_numpy(dtype))
        given = dtypes.from_numpy(array.dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise Internal(f"Output {name} is no tensor of type {dtype}: {error}") from None
    if given.number != dtype.number:
        raise Internal(
            f"Output {name} is of type {given}; the signature says {dtype}: convert it "
            f'with .astype("{dtype}"), or change the signature'
        )
    return array


def _strings(value: Any) -> npt.NDArray[Any]:
    is_array = isinstance(value, np.ndarray | np.generic)
    array = np.asarray(value) if is_array else np.array(value, object)
    texts = np.empty(array.size, object)
    for at, element in enumerate(array.reshape(-1).tolist()):
        if isinstance(element, str):
            texts[at] = element.encode()
        elif isinstance(element, bytes):
            texts[at] = element
        else:
            raise TypeError(f"an element is of type {type(element).__name__}")
    return texts.reshape(array.shape)
