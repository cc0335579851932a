"""JSON as TensorFlow Serving reads and writes it."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from servable.client import dtypes
from servable.client.examples import make_example
from servable.client.operations import (
    Classify,
    Metadata,
    ModelRef,
    Outputs,
    Predict,
    Status,
    Tensor,
)
from servable.client.rest_codec import HttpRequest, decode, encode
from servable.client.signatures import Signature, TensorSpec
from servable.errors import Code, Internal, ServingError, Unimplemented


def predict(outputs: dict[str, str], **inputs: tuple[Any, str]) -> Predict:
    tensors = {}
    for name, (value, dtype) in inputs.items():
        wire = dtypes.parse(dtype)
        tensors[name] = Tensor(np.array(value, dtypes.to_numpy(wire)), wire)
    specs = {
        name: TensorSpec(name, dtypes.parse(dtype), None)
        for name, dtype in outputs.items()
    }
    signature = Signature("s", "", {}, specs)
    return Predict(ModelRef("m"), "s", tensors, (), signature)


def encoded(operation: Any) -> HttpRequest:
    steps = encode(operation)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            request: HttpRequest = done.value
            return request


def body(operation: Any) -> str:
    data = encoded(operation).body
    assert data is not None
    return data.decode()


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        pytest.param([1.5, -0.0], "float32", "[1.5,-0.0]", id="floats"),
        pytest.param(
            [np.nan, np.inf, -np.inf],
            "float64",
            "[NaN,Infinity,-Infinity]",
            id="tokens",
        ),
        pytest.param([[1], [2]], "int64", "[[1],[2]]", id="integers"),
        pytest.param(2**64 - 1, "uint64", "18446744073709551615", id="a large scalar"),
        pytest.param([True, False], "bool", "[true,false]", id="booleans"),
        pytest.param(["é".encode()], "string", '["é"]', id="bytes that are text"),
        pytest.param([b"\xff\0"], "string", '[{"b64":"/wA="}]', id="other bytes"),
        pytest.param([], "float32", "[]", id="nothing"),
    ],
)
def test_values_are_written(value: Any, dtype: str, text: str) -> None:
    assert body(predict({}, x=(value, dtype))) == (
        '{"signature_name":"s","inputs":{"x":' + text + "}}"
    )


BITS = np.random.default_rng(0).integers(0, 2**32, 99_000, np.uint32)
ANY = np.where(np.isnan(BITS.view("f4")), np.float32(np.nan), BITS.view("f4"))
FINITE = np.nan_to_num(ANY)


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(FINITE.reshape(99, 10, 100), id="every sort of float"),
        pytest.param(FINITE.reshape(1, -1, 1), id="many in one row"),
        pytest.param(FINITE.reshape(2, -1), id="two long rows"),
        pytest.param(ANY, id="with some that are no numbers"),
        pytest.param(np.zeros((50_000, 0), np.float32), id="none"),
        pytest.param(-np.zeros(2_000, np.float32), id="negative zeros"),
        pytest.param(FINITE.astype(np.float64), id="float64"),
        pytest.param(BITS.astype(np.int64).reshape(-1, 3), id="integers"),
        pytest.param(BITS > 1 << 31, id="booleans"),
    ],
)
def test_large_arrays_are_written_to_the_last_bit(array: npt.NDArray[Any]) -> None:
    written = body(predict({}, a=([1], "int32"), x=(array, array.dtype.name)))
    inputs = json.loads(written)["inputs"]
    read = np.array(inputs["x"], array.dtype)

    assert inputs["a"] == [1]
    assert (read.shape, read.tobytes()) == (array.shape, array.tobytes())


@pytest.mark.parametrize(
    ("count", "pauses"),
    [pytest.param(1 << 15, False, id="few"), pytest.param(1 << 16, True, id="many")],
)
def test_there_are_pauses_while_a_large_array_is_written(
    count: int, pauses: bool
) -> None:
    steps = encode(predict({}, x=(FINITE[:count], "float32")))

    assert bool(list(steps)) is pauses


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "uint16", "complex64"])
def test_what_rest_has_no_form_for_is_refused(dtype: str) -> None:
    with pytest.raises(Unimplemented, match=f"no {dtype} values; use a gRPC"):
        encoded(predict({}, x=([1], dtype)))


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (ModelRef("m"), "/v1/models/m"),
        (ModelRef("m", version=0), "/v1/models/m/versions/0"),
        (
            ModelRef("a/b:c é", label="x "),
            "/v1/models/a%2Fb%3Ac%20%C3%A9/labels/x%20",
        ),
    ],
    ids=str,
)
def test_names_are_percent_encoded(model: ModelRef, path: str) -> None:
    assert encoded(Status(model)).path == path
    assert encoded(Metadata(model)).path == f"{path}/metadata"


def answered(operation: Predict, text: str) -> dict[str, Any]:
    outputs: Outputs = decode(operation, 200, text.encode("utf-8", "surrogateescape"))
    return {name: array.tolist() for name, array in outputs.items()}


@pytest.mark.parametrize(
    ("outputs", "text", "expected"),
    [
        pytest.param({"y": "float32"}, "[2.5, 3.0]", {"y": [2.5, 3.0]}, id="one"),
        pytest.param({"y": "float32"}, "2.5", {"y": 2.5}, id="a scalar"),
        pytest.param(
            {"a": "int64", "b": "bool"},
            '{"b": [true], "a": [9007199254740993]}',
            {"a": [9007199254740993], "b": [True]},
            id="several",
        ),
        pytest.param(
            {"y": "float32"},
            "[Infinity, -Infinity]",
            {"y": [np.inf, -np.inf]},
            id="inf",
        ),
        pytest.param({"y": "string"}, '["é"]', {"y": ["é".encode()]}, id="text"),
        pytest.param(
            {"y": "string"}, '["\udcff"]', {"y": [b"\xff"]}, id="bytes that are no text"
        ),
        pytest.param(
            {"y_bytes": "string"},
            '[{"b64": "/wA="}]',
            {"y_bytes": [b"\xff\0"]},
            id="base 64",
        ),
        pytest.param({"y": "float32"}, "[]", {"y": []}, id="nothing"),
    ],
)
def test_values_are_read(
    outputs: dict[str, str], text: str, expected: dict[str, Any]
) -> None:
    assert answered(predict(outputs), '{"outputs": ' + text + "}") == expected


def test_nan_is_read() -> None:
    assert np.isnan(answered(predict({"y": "float32"}), '{"outputs": NaN}')["y"])


def test_types_come_from_the_signature() -> None:
    outputs = decode(predict({"y": "float64"}), 200, b'{"outputs": [1]}')

    assert outputs["y"].dtype == np.float64


def test_only_the_wanted_outputs_are_given() -> None:
    operation = predict({"a": "int32", "b": "int32"})
    wanted = Predict(operation.model, "s", {}, ["b"], operation.signature)

    assert answered(wanted, '{"outputs": {"a": 1, "b": 2}}') == {"b": 2}


def test_examples_are_written_with_the_kinds_of_their_features() -> None:
    examples = [make_example({"i": 8, "f": 8.0, "l": [1, 2], "b": b"\xff", "e": []})]
    classify = Classify(ModelRef("m"), "", examples, make_example({"c": "x"}))

    assert json.loads(body(classify)) == {
        "context": {"c": "x"},
        "examples": [{"i": 8, "f": 8.0, "l": [1, 2], "b": {"b64": "/w=="}, "e": []}],
    }
    assert '"f":8.0' in body(classify)


@pytest.mark.parametrize(
    ("status", "reply", "code", "message"),
    [
        (400, b'{"error": "a\\nb"}', Code.INVALID_ARGUMENT, "a\nb"),
        (404, b'{"error": "gone"}', Code.NOT_FOUND, "gone"),
        (404, b"<html>", Code.NOT_FOUND, "HTTP status 404: <html>"),
        (429, b"", Code.RESOURCE_EXHAUSTED, "HTTP status 429"),
        (502, b"", Code.UNAVAILABLE, "HTTP status 502"),
        (504, b'{"error": "late"}', Code.DEADLINE_EXCEEDED, "late"),
        (418, b'["error"]', Code.UNKNOWN, 'HTTP status 418: ["error"]'),
    ],
    ids=str,
)
def test_errors_have_code_and_text(
    status: int, reply: bytes, code: Code, message: str
) -> None:
    with pytest.raises(ServingError) as raised:
        decode(Status(ModelRef("m")), status, reply)

    assert (raised.value.code, raised.value.message) == (code, message)


@pytest.mark.parametrize("reply", [b"", b"<html>", b"[]", b'{"predictions": [1]}'])
def test_a_reply_of_something_else_is_said_to_be_one(reply: bytes) -> None:
    with pytest.raises(Internal, match="not one of the TensorFlow Serving REST API"):
        decode(predict({"y": "float32"}), 200, reply)
