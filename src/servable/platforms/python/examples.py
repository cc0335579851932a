"""Serialized tf.Example to arrays, for models that classify and regress."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from servable.apis import example_pb2
from servable.client import dtypes
from servable.client.dtypes import STRING
from servable.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class FixedLenFeature:
    """
    A feature with as many values in every example.

    Attributes:
        dtype: as in TensorSpec; what a list of floats, of integers or of bytes holds.
        shape: of one example's values.
        default: the value of examples that leave it out; None: they are refused.
    """

    dtype: Any
    shape: Sequence[int] = ()
    default: Any = None


def parse_examples(
    serialized: npt.NDArray[Any], features: Mapping[str, FixedLenFeature]
) -> dict[str, npt.NDArray[Any]]:
    """
    Return an array of shape [n, *shape] for each of *features*.

    Args:
        serialized: n strings, as the input `inputs` of CLASSIFY and REGRESS has them.
        features: by name.

    Raises:
        InvalidArgument: an example is none, lacks a feature, or has another number
            or kind of values.
    """
    examples = [_parse(at, data) for at, data in enumerate(serialized.reshape(-1))]
    return {
        name: _column(name, feature, examples) for name, feature in features.items()
    }


def _parse(at: int, serialized: bytes) -> example_pb2.Example:
    try:
        return example_pb2.Example.FromString(serialized)
    except DecodeError:
        raise InvalidArgument(f"Example {at} is no tf.Example") from None


def _column(
    name: str, feature: FixedLenFeature, examples: Sequence[example_pb2.Example]
) -> npt.NDArray[Any]:
    dtype = dtypes.parse(feature.dtype)
    column = np.empty((len(examples), *feature.shape), dtypes.to_numpy(dtype))
    field = (
        "bytes_list"
        if dtype is STRING
        else "float_list"
        if column.dtype.kind == "f"
        else "int64_list"
    )
    for at, example in enumerate(examples):
        given = example.features.feature.get(name)
        kind = given.WhichOneof("kind") if given is not None else None
        if given is None or kind is None:
            if feature.default is None:
                raise InvalidArgument(f"Example {at} has no feature {name!r}")
            column[at] = feature.default
            continue
        values = getattr(given, field).value
        if kind != field or len(values) != column[at : at + 1].size:
            raise InvalidArgument(
                f"Feature {name!r} of example {at} has "
                f"{len(getattr(given, kind).value)} values in a {kind}; "
                f"{column[at : at + 1].size} in a {field} were expected"
            )
        row = np.empty(len(values), column.dtype)
        row[:] = list(values)
        column[at] = row.reshape(feature.shape) if feature.shape else row[0]
    return column
