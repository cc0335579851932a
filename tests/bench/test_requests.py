"""Predict requests made from signatures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servable.apis import predict_pb2, types_pb2
from servable.apis.meta_graph_pb2 import SignatureDef
from servable.bench.requests import (
    NUMPY_TYPES,
    Input,
    ModelSpec,
    grpc_body,
    make_inputs,
    parse_input,
    rest_body,
)

MODEL = ModelSpec("m", "serving_default")


def signature(**inputs: tuple[int, Sequence[int] | None]) -> SignatureDef:
    result = SignatureDef()
    for name, (dtype, shape) in inputs.items():
        info = result.inputs[name]
        info.dtype = dtype  # type: ignore[assignment] # enums are ints at run time
        if shape is None:
            info.tensor_shape.unknown_rank = True
        else:
            for size in shape:
                info.tensor_shape.dim.add(size=size)
    return result


@pytest.mark.parametrize("dtype", sorted(NUMPY_TYPES))
def test_random_data_has_the_type_and_the_shape_asked_for(dtype: int) -> None:
    made = make_inputs(signature(x=(dtype, [-1, 2, -1])), {}, batch_size=3)
    request = predict_pb2.PredictRequest.FromString(grpc_body(MODEL, made))

    tensor = request.inputs["x"]
    assert tensor.dtype == dtype
    assert [dim.size for dim in tensor.tensor_shape.dim] == [3, 2, 1]
    if dtype == types_pb2.DT_STRING:
        assert len(tensor.string_val) == 6
    else:
        assert len(tensor.tensor_content) == 6 * np.dtype(NUMPY_TYPES[dtype]).itemsize


def test_of_unknown_rank_random_data_is_one_batch() -> None:
    made = make_inputs(signature(x=(types_pb2.DT_FLOAT, None)), {}, batch_size=3)

    assert made["x"].value.shape == (3,)


def test_a_seed_makes_random_data_repeatable() -> None:
    wanted = signature(x=(types_pb2.DT_FLOAT, [4]))

    assert grpc_body(MODEL, make_inputs(wanted, {}, seed=1)) == grpc_body(
        MODEL, make_inputs(wanted, {}, seed=1)
    )
    assert grpc_body(MODEL, make_inputs(wanted, {}, seed=1)) != grpc_body(
        MODEL, make_inputs(wanted, {}, seed=2)
    )


def test_given_values_are_sent_as_the_type_of_the_input(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.array([[7]], dtype=np.int64))
    made = make_inputs(
        signature(
            x=(types_pb2.DT_FLOAT, [-1]),
            y=(types_pb2.DT_INT32, [-1, 1]),
            z=(types_pb2.DT_STRING, [-1]),
        ),
        {"x": "[1, 2.5]", "y": f"@{tmp_path}/y.npy", "z": '["a", "é"]'},
    )
    request = predict_pb2.PredictRequest.FromString(grpc_body(MODEL, made))

    assert request.inputs["x"].tensor_content == np.array([1, 2.5], "<f4").tobytes()
    assert request.inputs["y"].tensor_content == np.array([[7]], "<i4").tobytes()
    assert list(request.inputs["z"].string_val) == [b"a", "é".encode()]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        pytest.param({"y": "1"}, "no input 'y'; it has x", id="an unknown input"),
        pytest.param({"x": "[1"}, "not JSON", id="broken JSON"),
        pytest.param({"x": '["a"]'}, "input 'x'", id="a value of another type"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make_inputs(signature(x=(types_pb2.DT_FLOAT, [-1])), given)


@pytest.mark.parametrize("text", ["x", "=1", ""])
def test_an_input_is_a_name_and_a_value(text: str) -> None:
    with pytest.raises(ValueError, match="NAME="):
        parse_input(text)


def floats(*values: Any) -> Input:
    return Input(types_pb2.DT_FLOAT, np.asarray(values, dtype=np.float32))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        pytest.param(
            {"x": floats(0.1, 2)},
            {"instances": [0.1, 2.0]},
            id="one input needs no name",
        ),
        pytest.param(
            {"x": floats(1, 2), "y": floats([3], [4])},
            {"instances": [{"x": 1, "y": [3]}, {"x": 2, "y": [4]}]},
            id="several have one in each row",
        ),
        pytest.param(
            {"x": floats(1, 2), "y": floats(3)},
            {"inputs": {"x": [1, 2], "y": [3]}},
            id="columns may differ in length",
        ),
        pytest.param(
            {"x": Input(types_pb2.DT_FLOAT, np.array(3, dtype=np.float32))},
            {"inputs": {"x": 3}},
            id="a scalar has no rows",
        ),
        pytest.param(
            {"x": Input(types_pb2.DT_STRING, np.array([b"a", b"\xff"], dtype=object))},
            {"instances": ["a", {"b64": "/w=="}]},
            id="bytes that are no text are base64",
        ),
    ],
)
def test_json_is_by_rows_where_it_can_be(
    inputs: dict[str, Input], expected: dict[str, Any]
) -> None:
    body = json.loads(rest_body(MODEL, inputs))

    assert body == {"signature_name": "serving_default", **expected}


@pytest.mark.parametrize(
    ("model", "url"),
    [
        (ModelSpec("m", "s"), "/v1/models/m"),
        (ModelSpec("m", "s", version=3), "/v1/models/m/versions/3"),
        (ModelSpec("m", "s", label="new"), "/v1/models/m/labels/new"),
    ],
)
def test_version_and_label_are_in_the_request_and_in_the_url(
    model: ModelSpec, url: str
) -> None:
    spec = predict_pb2.PredictRequest.FromString(grpc_body(model, {})).model_spec

    assert model.url == url
    assert spec.HasField("version") == (model.version is not None)
    assert spec.version_label == (model.label or "")
