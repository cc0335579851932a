"""What REST offers beyond TensorFlow Serving, out of old clients' way."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("servable._engine")

from servable.apis import (
    classification_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)
from servable.client import make_ndarray, make_tensor_proto

PROTOBUF = {"Content-Type": "application/x-protobuf"}
NPY = {"Content-Type": "application/x-npy"}


@pytest.fixture(scope="module")
def base_path(
    tmp_path_factory: pytest.TempPathFactory, write_version: Callable[..., Path]
) -> Path:
    return write_version(tmp_path_factory.mktemp("models") / "m" / "1").parent


@pytest.fixture(scope="module")
def extended(start: Callable[..., Any], base_path: Path) -> Any:
    flags = (f"--model_base_path={base_path}", "--model_name=m")
    return start(*flags, "--wait_for_models=true", "--rest_compression_min_bytes=300")


@pytest.fixture(scope="module")
def plain(start: Callable[..., Any], base_path: Path) -> Any:
    flags = (f"--model_base_path={base_path}", "--model_name=m")
    return start(*flags, "--wait_for_models=true", "--rest_api_extensions=false")


def post(server: Any, target: str, body: object, **headers: str) -> httpx.Response:
    url = f"{server.rest}{target}"
    if isinstance(body, bytes):
        return httpx.post(url, content=body, headers=headers)
    return httpx.post(url, json=body, headers=headers)


def predict(server: Any, **body: object) -> httpx.Response:
    return post(server, "/v1/models/m:predict", body)


def npy(array: "np.ndarray[Any, Any]") -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


EXTENSIONS = {
    "a half": ({"signature_name": "echo_HALF", "inputs": [1.5]}, 501),
    "a complex number": ({"signature_name": "echo_COMPLEX64", "instances": [1]}, 400),
    "no input": ({"signature_name": "constant"}, 400),
}


@pytest.mark.parametrize(("body", "status"), EXTENSIONS.values(), ids=EXTENSIONS)
def test_without_the_flag_everything_is_refused_as_there(
    plain: Any, body: dict[str, object], status: int
) -> None:
    assert predict(plain, **body).status_code == status


def test_without_the_flag_there_is_no_list(plain: Any) -> None:
    answer = httpx.get(f"{plain.rest}/v1/models")

    assert answer.status_code == 400
    assert answer.json() == {"error": "Missing model name in request."}


def test_without_the_flag_an_output_filter_is_ignored(
    plain: Any,
) -> None:
    answer = predict(plain, inputs=[1.0], output_filter=["no such"])

    assert answer.json() == {"outputs": [2.5]}


VALUES = {
    "halves": ("HALF", [1.5, -2.0], [1.5, -2.0]),
    "a half that is rounded": ("HALF", [0.1], [0.0999755859]),
    "bfloat16": ("BFLOAT16", [[1.0], [0.5]], [[1.0], [0.5]]),
    "the ends of uint16": ("UINT16", [0, 65535], [0, 65535]),
    "complex64": ("COMPLEX64", [[1.0, 2.0], [3, -1]], [[1.0, 2.0], [3.0, -1.0]]),
    "one complex128": ("COMPLEX128", [[0.1, 0.2]], [[0.1, 0.2]]),
}


@pytest.mark.parametrize(("name", "values", "expected"), VALUES.values(), ids=VALUES)
def test_more_types_have_values(
    extended: Any, name: str, values: object, expected: object
) -> None:
    by_column = predict(extended, signature_name=f"echo_{name}", inputs=values)
    by_row = predict(extended, signature_name=f"echo_{name}", instances=values)

    assert by_column.json() == {"outputs": expected}
    assert by_row.json() == {"predictions": expected}


def test_a_value_that_does_not_fit_is_refused(extended: Any) -> None:
    answer = predict(extended, signature_name="echo_UINT16", instances=[65536])

    assert answer.status_code == 400
    assert "out of the range of type: uint16" in answer.json()["error"]


def test_a_signature_without_inputs_is_called(extended: Any) -> None:
    bodies: list[dict[str, object]] = [{}, {"inputs": {}}]
    for body in bodies:
        answer = predict(extended, signature_name="constant", **body)
        assert answer.json() == {"outputs": 2.0}


FILTERS = {
    "one output is a plain value": (["two"], 200, {"outputs": 2.0}),
    "two are an object": (
        ["two", "half"],
        200,
        {"outputs": {"two": 2.0, "half": 0.5}},
    ),
    "an empty list is all": ([], 200, {"outputs": {"two": 2.0, "half": 0.5}}),
    "an unknown one is refused": (
        ["z"],
        400,
        {
            "error": "output tensor alias not found in signature: z Outputs expected "
            "to be in the set {half,two}."
        },
    ),
    "what is no list is refused": (
        "two",
        400,
        {"error": "'output_filter' must be a list of strings"},
    ),
}


@pytest.mark.parametrize(("chosen", "code", "expected"), FILTERS.values(), ids=FILTERS)
def test_outputs_are_chosen(
    extended: Any, chosen: object, code: int, expected: object
) -> None:
    answer = predict(extended, signature_name="both", output_filter=chosen)

    assert (answer.status_code, answer.json()) == (code, expected)


def test_models_are_listed(extended: Any) -> None:
    answer = httpx.get(f"{extended.rest}/v1/models")

    status = {"error_code": "OK", "error_message": ""}
    version = {"version": "1", "state": "AVAILABLE", "status": status}
    model = {"name": "m", "version_labels": {}, "model_version_status": [version]}
    assert answer.json() == {"models": [model]}


def test_several_heads_are_asked_at_once(extended: Any) -> None:
    tasks = [
        {"signature_name": "regress", "method_name": "regress"},
        {"signature_name": "classify", "method_name": "tensorflow/serving/classify"},
    ]
    body = {"tasks": tasks, "examples": [{"x": 2.0}, {"x": 4.0}]}
    answer = post(extended, "/v1/models/m:multi_inference", body)

    assert answer.json() == {
        "results": [
            {"signature_name": "regress", "regressions": [3.0, 4.0]},
            {
                "signature_name": "classify",
                "classifications": [[["", 3.0]], [["", 4.0]]],
            },
        ]
    }


TASKS = {
    "none at all": (None, "'tasks' must be a list of objects with 'method_name'"),
    "no method": ([{"signature_name": "regress"}], "'tasks' must be a list of"),
    "another method": (
        [{"signature_name": "regress", "method_name": "x"}],
        "Unsupported signature method_name: x",
    ),
    "one signature twice": (
        [{"signature_name": "regress", "method_name": "regress"}] * 2,
        "Duplicate evaluation of signature: regress",
    ),
}


@pytest.mark.parametrize(("tasks", "expected"), TASKS.values(), ids=TASKS)
def test_tasks_that_make_no_sense_are_refused(
    extended: Any, tasks: object, expected: str
) -> None:
    body = {"examples": [{"x": 2.0}]} | ({} if tasks is None else {"tasks": tasks})
    answer = post(extended, "/v1/models/m:multi_inference", body)

    assert answer.status_code in {400, 501}
    assert answer.json()["error"].startswith(expected)


def predict_request(name: str = "") -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    x = make_tensor_proto([1.0, 2.0], "float32").SerializeToString()
    request.inputs["x"].MergeFromString(x)
    return request


def test_messages_are_answered_in_kind(plain: Any) -> None:
    target = "/v1/models/m/versions/1:predict"
    message = predict_request("another").SerializeToString()
    answer = post(plain, target, message, **PROTOBUF)

    assert answer.headers["Content-Type"] == "application/x-protobuf"
    response = predict_pb2.PredictResponse.FromString(answer.content)
    assert make_ndarray(response.outputs["y"]).tolist() == [2.5, 3.0]
    assert (response.model_spec.name, response.model_spec.version.value) == ("m", 1)


@pytest.mark.parametrize("verb", ["regress", "classify"])
def test_messages_of_examples_are_answered_in_kind(plain: Any, verb: str) -> None:
    request: regression_pb2.RegressionRequest | classification_pb2.ClassificationRequest
    if verb == "regress":
        request = regression_pb2.RegressionRequest()
    else:
        request = classification_pb2.ClassificationRequest()
    request.model_spec.signature_name = verb
    example = request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(2.0)
    target = f"/v1/models/m:{verb}"
    answer = post(plain, target, request.SerializeToString(), **PROTOBUF)

    if verb == "regress":
        regression = regression_pb2.RegressionResponse.FromString(answer.content)
        assert regression.result.regressions[0].value == 3.0
    else:
        classes = classification_pb2.ClassificationResponse.FromString(answer.content)
        assert classes.result.classifications[0].classes[0].score == 3.0


def test_accept_chooses_the_answer(plain: Any) -> None:
    message = predict_request().SerializeToString()
    target = "/v1/models/m:predict"
    in_json = post(plain, target, message, **PROTOBUF, Accept="application/json")
    document = {"instances": [1.0]}
    in_npy = post(plain, target, document, Accept="application/x-npy")

    assert in_json.json() == {"outputs": [2.5, 3.0]}
    assert np.load(io.BytesIO(in_npy.content)).tolist() == [2.5]


ARRAYS = {
    "floats": ("echo_FLOAT", np.array([[1.5, 2.0]], np.float32)),
    "in Fortran order": (
        "echo_FLOAT",
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    ),
    "big-endian": ("echo_UINT16", np.array([1, 65535], ">u2")),
    "halves": ("echo_HALF", np.array([0.5], np.float16)),
    "booleans": ("echo_BOOL", np.array([True, False])),
    "complex numbers": ("echo_COMPLEX128", np.array([1 + 2j])),
    "bytes": ("echo_STRING", np.array([b"a", b"bcd"])),
    "a scalar": ("echo_INT8", np.array(-3, np.int8)),
}


@pytest.mark.parametrize(("signature", "array"), ARRAYS.values(), ids=ARRAYS)
def test_arrays_are_answered_in_kind(
    plain: Any, signature: str, array: "np.ndarray[Any, Any]"
) -> None:
    headers = NPY | {"Servable-Signature-Name": signature}
    answer = post(plain, "/v1/models/m:predict", npy(array), **headers)

    assert answer.headers["Content-Type"] == "application/x-npy", answer.text
    echo = np.load(io.BytesIO(answer.content))
    assert echo.dtype == array.dtype.newbyteorder("<")
    assert echo.shape == array.shape
    assert np.array_equal(echo, array)


def test_text_is_answered_as_bytes(plain: Any) -> None:
    headers = {"Servable-Signature-Name": "echo_STRING"}
    array = npy(np.array(["ä", "bc"]))
    answer = post(plain, "/v1/models/m:predict", array, **headers)

    expected = [b"\xc3\xa4", b"bc"]
    assert np.load(io.BytesIO(answer.content)).tolist() == expected


BAD_BODIES = {
    "no file": (b"x", NPY, 400, "does not begin with"),
    "an array of another type": (
        npy(np.zeros(1)),
        NPY,
        400,
        "Expects arg[0] to be float but double is provided",
    ),
    "an array for no input": (
        npy(np.zeros(1, np.float32)),
        NPY | {"Servable-Signature-Name": "constant"},
        400,
        "has 0 inputs",
    ),
    "no such signature": (
        npy(np.zeros(1, np.float32)),
        NPY | {"Servable-Signature-Name": "z"},
        400,
        'Serving signature key "z" not found.',
    ),
    "no message": (b"\xff", PROTOBUF, 400, "cannot be parsed"),
    "several outputs in one array": (
        b"\x0a\x06\x1a\x04both",
        PROTOBUF | {"Accept": "application/x-npy"},
        400,
        "the outputs are {half,two}",
    ),
}


@pytest.mark.parametrize(
    ("body", "headers", "code", "expected"), BAD_BODIES.values(), ids=BAD_BODIES
)
def test_a_bad_body_is_refused_in_json(
    plain: Any,
    body: bytes,
    headers: dict[str, str],
    code: int,
    expected: str,
) -> None:
    answer = post(plain, "/v1/models/m:predict", body, **headers)

    assert answer.status_code == code
    assert expected in answer.json()["error"]


COMPRESSIBLE = {
    "a large answer": (100, "gzip", True),
    "one below the limit": (1, "gzip", False),
    "a client that does not ask": (100, "identity", False),
    "a client that declines": (100, "gzip;q=0", False),
}


@pytest.mark.parametrize(
    ("rows", "accept", "expected"), COMPRESSIBLE.values(), ids=COMPRESSIBLE
)
def test_large_answers_are_compressed_for_who_asks(
    extended: Any, rows: int, accept: str, *, expected: bool
) -> None:
    url = f"{extended.rest}/v1/models/m:predict"
    body = {"instances": [1.0] * rows}
    headers = {"Accept-Encoding": accept}
    with httpx.stream("POST", url, json=body, headers=headers) as answer:
        raw = b"".join(answer.iter_raw())

    assert ("Content-Encoding" in answer.headers) == expected
    assert ("Vary" in answer.headers) == expected
    text = gzip.decompress(raw) if expected else raw
    assert text.startswith(b'{\n    "predictions": [2.5')


def test_errors_are_not_compressed(extended: Any) -> None:
    answer = predict(extended, instances=["x" * 1000])

    assert answer.status_code == 400
    assert "Content-Encoding" not in answer.headers


def test_the_configuration_is_replaced(
    start: Callable[..., Any],
    write_version: Callable[..., Path],
    tmp_path: Path,
) -> None:
    one, other = (write_version(tmp_path / name / "1").parent for name in ("a", "b"))
    server = start(f"--model_base_path={one}", "--model_name=a")
    model = {"name": "b", "base_path": str(other), "model_platform": "tensorflow"}
    config = {"model_config_list": {"config": [model]}}
    answer = post(server, "/v1/config:reload", {"config": config})

    assert answer.json() == {
        "status": {"error_code": "OK", "error_message": ""},
        "metric": [],
    }
    assert server.is_serving("b")

    request = model_management_pb2.ReloadConfigRequest()
    again = request.config.model_config_list.config.add(name="a")
    again.base_path, again.model_platform = str(one), "tensorflow"
    message = request.SerializeToString()
    answered = post(server, "/v1/config:reload", message, **PROTOBUF)
    response = model_management_pb2.ReloadConfigResponse.FromString(answered.content)
    assert response.status.error_code == 0
    assert server.is_serving("a")


CONFIGURATIONS = {
    "no JSON": (b"x", "The body is no ReloadConfigRequest"),
    "an unknown field": (b'{"config": {"x": 1}}', "unrecognized field name 'x'"),
    "no list": (b"{}", "ServerModelConfig type not supported"),
    "a model without a name": (
        b'{"config": {"model_config_list": {"config": [{}]}}}',
        "",
    ),
}


@pytest.mark.parametrize(
    ("body", "expected"), CONFIGURATIONS.values(), ids=CONFIGURATIONS
)
def test_a_configuration_that_makes_no_sense_changes_nothing(
    extended: Any, body: bytes, expected: str
) -> None:
    answer = post(extended, "/v1/config:reload", body)

    assert answer.status_code == 400
    assert expected in answer.json()["error"]
    assert extended.is_serving("m")


def test_pages_in_a_browser_may_not_reload(extended: Any) -> None:
    answer = post(extended, "/v1/config:reload", b"{}", Origin="http://localhost")

    assert answer.status_code == 403
