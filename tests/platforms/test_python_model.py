"""What models written in Python say and give, apart from processes."""

from typing import Any

import numpy as np
import pytest

from servable.apis import get_model_metadata_pb2
from servable.client import make_example
from servable.errors import Internal, InvalidArgument
from servable.platforms.python import (
    CLASSIFY,
    FixedLenFeature,
    Signature,
    TensorSpec,
    frames,
    parse_examples,
)
from servable.platforms.python.model import (
    from_signature_def_map,
    to_signature_def_map,
)


@pytest.mark.parametrize(
    ("spec", "value", "expected"),
    [
        (TensorSpec("float32", [2]), [1, 2.5], np.array([1, 2.5], np.float32)),
        (TensorSpec("int64", []), 3, np.array(3)),
        (TensorSpec("bool", [None]), [True, False], np.array([True, False])),
        (
            TensorSpec("string", [None]),
            ["ü", b"b"],
            np.array(["ü".encode(), b"b"], "O"),
        ),
        (TensorSpec("string", [0]), [], np.empty(0, object)),
        (TensorSpec("float32", None), np.ones((1, 2), "f"), np.ones((1, 2), "f")),
    ],
)
def test_what_fits_becomes_an_array(
    spec: TensorSpec, value: Any, expected: np.ndarray[Any, Any]
) -> None:
    array = spec.to_array("y", value)

    assert array.dtype == expected.dtype
    assert array.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("spec", "value", "text"),
    [
        (TensorSpec("float32", [2]), [1.0], "has shape [1]; the signature says [2]"),
        (TensorSpec("float32", [2]), [[1], [2, 3]], "is no tensor of type float32"),
        (TensorSpec("float32", [1]), ["a"], "is no tensor of type float32"),
        (TensorSpec("float32", [1]), np.ones(1), "is of type float64"),
        (TensorSpec("float32", [1]), None, "is no tensor of type float32"),
        (TensorSpec("string", [1]), [1], "is no tensor of type string"),
        (TensorSpec("string", [2]), ["a", 1.5j], "is no tensor of type string"),
        (TensorSpec("int8", [1]), [300], "is no tensor of type int8"),
    ],
)
def test_what_does_not_fit_is_told(spec: TensorSpec, value: Any, text: str) -> None:
    with pytest.raises(Internal) as caught:
        spec.to_array("y", value)

    assert caught.value.message.startswith(f"Output y {text}")


def test_signatures_survive_their_message() -> None:
    signatures = {
        "serving_default": Signature(
            {"x": TensorSpec("float32", [None, 3]), "any": TensorSpec("int8", None)},
            {"y": TensorSpec("string", [])},
        ),
        "c": Signature({}, {"s": TensorSpec("float16", [1])}, CLASSIFY),
    }

    serialized = to_signature_def_map(signatures)

    assert from_signature_def_map(serialized) == signatures


def test_signatures_without_types_are_left_out() -> None:
    message = get_model_metadata_pb2.SignatureDefMap()
    message.signature_def["init"].outputs["op"].name = "NoOp"

    assert from_signature_def_map(message.SerializeToString()) == {}


def test_a_model_without_signatures_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="at least one signature"):
        to_signature_def_map({})


def serialized(*examples: dict[str, Any]) -> np.ndarray[Any, Any]:
    texts = np.empty(len(examples), object)
    texts[:] = [make_example(example).SerializeToString() for example in examples]
    return texts


def test_examples_become_arrays() -> None:
    given = serialized({"x": [1.0, 2.0], "t": "a", "n": 1}, {"x": [3.0, 4.0], "t": "b"})

    found = parse_examples(
        given,
        {
            "x": FixedLenFeature("float32", (2,)),
            "t": FixedLenFeature("string"),
            "n": FixedLenFeature("int64", default=-1),
        },
    )

    assert {name: array.tolist() for name, array in found.items()} == {
        "x": [[1, 2], [3, 4]],
        "t": [b"a", b"b"],
        "n": [1, -1],
    }


@pytest.mark.parametrize(
    ("example", "text"),
    [
        ({}, "Example 0 has no feature 'x'"),
        (
            {"x": [1.0]},
            "Feature 'x' of example 0 has 1 values in a float_list; 2 in a float_list "
            "were expected",
        ),
        (
            {"x": [1, 2]},
            "Feature 'x' of example 0 has 2 values in a int64_list; 2 in a float_list "
            "were expected",
        ),
    ],
)
def test_examples_that_do_not_fit_are_refused(
    example: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_examples(serialized(example), {"x": FixedLenFeature("float32", (2,))})

    assert caught.value.message == text


def test_bytes_that_are_no_example_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"Example 1 is no tf\.Example"):
        parse_examples(
            np.array([b"", b"\xff"], object), {"x": FixedLenFeature("float32", (), 0.0)}
        )


def test_dense_elements_stand_where_a_processor_can_read_them() -> None:
    texts = np.array([b""], object)
    arrays: Any = {"a": np.ones(3, np.int8), "longer": np.ones(2), "s": texts}

    head, *pieces = frames.answer(7, arrays)

    body = b"".join(bytes(piece) for piece in pieces)
    assert int.from_bytes(head, "little") == len(body)
    assert body.find(np.ones(2).tobytes()) % 16 == 0
