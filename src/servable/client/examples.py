"""tf.Example from dictionaries, for Classify, Regress and MultiInference."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from servable.apis import example_pb2, feature_pb2
from servable.client.dtypes import TensorError
from servable.client.inputs import columns_of, is_data_frame
from servable.client.tensors import is_array_like, python_array

_EXAMPLE: Final = (
    "an example is a dictionary of features, a tf.Example, or a serialized one"
)


def make_example(features: Mapping[str, Any]) -> example_pb2.Example:
    """
    Return a tf.Example with *features*.

    A value is a number, a boolean, text, bytes, or a list or array of these, which
    is flattened.  Floats become a float list, integers and booleans an int64 list,
    text and bytes a bytes list.  None leaves the feature out.

    Raises:
        TensorError: a value is of another kind, or does not fit 64 bits.
    """
    example = example_pb2.Example()
    example.features.SetInParent()
    for name, value in features.items():
        if value is None:
            continue
        try:
            _fill(example.features.feature[name], value)
        except TensorError as exc:
            raise TensorError(f"feature {name!r}: {exc.message}") from None
    return example


def make_examples(examples: Any) -> Sequence[example_pb2.Example]:
    """
    Return *examples* as messages.

    One example or a sequence of them; each a dictionary, a tf.Example of any
    package, or a serialized one.  A data frame gives one for each row.

    Raises:
        TensorError: there is none, or one of them is something else.
    """
    if is_data_frame(examples):
        columns = columns_of(examples)
        rows = zip(*columns.values(), strict=True)
        examples = [dict(zip(columns, row, strict=True)) for row in rows]
    if isinstance(examples, Mapping | bytes) or hasattr(examples, "DESCRIPTOR"):
        examples = [examples]
    if not isinstance(examples, Iterable):
        raise TensorError(f"{type(examples).__name__} is no examples; {_EXAMPLE}")
    messages = [_example(i, example) for i, example in enumerate(examples)]
    if not messages:
        raise TensorError("no examples were given; the server answers at least one")
    return messages


def _example(index: int, example: Any) -> example_pb2.Example:
    if isinstance(example, Mapping):
        try:
            return make_example(example)
        except TensorError as exc:
            raise TensorError(f"example {index}, {exc.message}") from None
    descriptor = getattr(example, "DESCRIPTOR", None)
    if getattr(descriptor, "full_name", "") == "tensorflow.Example":
        if isinstance(example, example_pb2.Example):
            return example
        example = example.SerializeToString()
    if isinstance(example, bytes):
        try:
            return example_pb2.Example.FromString(example)
        except DecodeError as exc:
            raise TensorError(f"example {index} is no tf.Example: {exc}") from None
    raise TensorError(f"example {index} is {type(example).__name__}; {_EXAMPLE}")


def _fill(feature: feature_pb2.Feature, value: Any) -> None:
    array = np.asarray(value) if is_array_like(value) else python_array(value)
    flat = array.reshape(-1).tolist()
    match array.dtype.kind:
        case _ if not flat:
            feature.SetInParent()  # a feature of no kind, as the server reads []
        case "f":
            feature.float_list.value.extend(flat)
        case "b" | "i":
            feature.int64_list.value.extend(map(int, flat))
        case "u" if max(flat) < 2**63:
            feature.int64_list.value.extend(flat)
        case "U" | "S" | "O" if all(isinstance(v, str | bytes) for v in flat):
            feature.bytes_list.value.extend(
                v.encode() if isinstance(v, str) else v for v in flat
            )
        case _:
            raise TensorError(
                f"{value!r:.80} is none of floats, 64-bit integers, text and bytes"
            )
