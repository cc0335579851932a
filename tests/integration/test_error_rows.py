"""
Every error that TensorFlow Serving's two APIs specify, one row each, over both
protocols where both have it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

pytest.importorskip("servable._engine")

from servable.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)
from servable.client import make_tensor_proto

Code = grpc.StatusCode
PREDICTION = "/tensorflow.serving.PredictionService"
MODEL = "/tensorflow.serving.ModelService"
HTTP = {
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.NOT_FOUND: 404,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
}
REGRESS = "tensorflow/serving/regress"


@dataclass(frozen=True)
class Row:
    """A mistake, and what it is answered; a protocol that has it not is left out."""

    code: Code
    text: str
    grpc: tuple[str, Any] | None = None
    rest: tuple[str, str, object] | None = None
    # Where REST says it in other words, or with another status.
    rest_text: str = ""
    rest_status: int = 0
    flags: frozenset[str] = field(default_factory=frozenset)


def spec(name: str = "m", signature: str = "", **choice: Any) -> model_pb2.ModelSpec:
    made = model_pb2.ModelSpec(name=name, signature_name=signature)
    if "version" in choice:
        made.version.value = choice["version"]
    if "label" in choice:
        made.version_label = choice["label"]
    return made


def predict(
    model: model_pb2.ModelSpec | None = None,
    outputs: tuple[str, ...] = (),
    **inputs: Any,
) -> tuple[str, Any]:
    request = predict_pb2.PredictRequest(output_filter=outputs)
    if model is not None:
        request.model_spec.CopyFrom(model)
    for name, value in inputs.items():
        if isinstance(value, bytes):
            request.inputs[name].MergeFromString(value)
        else:
            dtype = "string" if isinstance(value[0], str) else "float32"
            tensor = make_tensor_proto(value, dtype)
            request.inputs[name].MergeFromString(tensor.SerializeToString())
    return f"{PREDICTION}/Predict", request


def examples(count: int = 1, *, empty: bool = False) -> input_pb2.Input:
    made = input_pb2.Input()
    for _ in range(count):
        example = made.example_list.examples.add()
        if not empty:
            example.features.feature["x"].float_list.value.append(2.0)
    return made


def classify(signature: str, given: input_pb2.Input | None = None) -> tuple[str, Any]:
    return f"{PREDICTION}/Classify", classification_pb2.ClassificationRequest(
        model_spec=spec(signature=signature), input=given or examples()
    )


def regress(signature: str, given: input_pb2.Input | None = None) -> tuple[str, Any]:
    return f"{PREDICTION}/Regress", regression_pb2.RegressionRequest(
        model_spec=spec(signature=signature), input=given or examples()
    )


def multi(*tasks: tuple[model_pb2.ModelSpec, str]) -> tuple[str, Any]:
    request = inference_pb2.MultiInferenceRequest(input=examples())
    for model, method in tasks:
        request.tasks.add(model_spec=model, method_name=method)
    return f"{PREDICTION}/MultiInference", request


def metadata(*fields: str, model: model_pb2.ModelSpec | None = None) -> tuple[str, Any]:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    if model is not None:
        request.model_spec.CopyFrom(model)
    return f"{PREDICTION}/GetModelMetadata", request


def status(model: model_pb2.ModelSpec | None) -> tuple[str, Any]:
    request = get_model_status_pb2.GetModelStatusRequest()
    if model is not None:
        request.model_spec.CopyFrom(model)
    return f"{MODEL}/GetModelStatus", request


def post(target: str, **body: object) -> tuple[str, str, object]:
    return "POST", f"/v1/models/{target}", body


def heads(verb: str, signature: str, **members: object) -> tuple[str, str, object]:
    members.setdefault("examples", [{"x": 2.0}])
    return post(f"m:{verb}", signature_name=signature, **members)


def raw(body: bytes, target: str = "m:predict") -> tuple[str, str, object]:
    return "POST", f"/v1/models/{target}", body


def get(target: str) -> tuple[str, str, object]:
    return "GET", target, b""


def shown(value: object) -> str:
    """Return a document as messages quote it."""
    return json.dumps(value, indent=4)


INVALID, MISSING = Code.INVALID_ARGUMENT, Code.NOT_FOUND
IN_ROW = "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "

ROWS = {
    # 1.3: which model
    "no model_spec": Row(INVALID, "Missing ModelSpec", predict(x=[1.0])),
    "no name": Row(
        INVALID,
        "ModelSpec has no name specified.",
        predict(spec(""), x=[1.0]),
        get("/v1/models/versions/1"),
        rest_text="Missing model name in request.",
    ),
    "a version that is not loaded": Row(
        MISSING,
        "Servable not found for request: Specific(m, 9)",
        predict(spec(version=9), x=[1.0]),
        post("m/versions/9:predict", instances=[1.0]),
    ),
    "version 0 is a version": Row(
        MISSING,
        "Servable not found for request: Specific(m, 0)",
        predict(spec(version=0), x=[1.0]),
        post("m/versions/0:predict", instances=[1.0]),
    ),
    "a model that is not loaded": Row(
        MISSING,
        "Servable not found for request: Latest(n)",
        predict(spec("n"), x=[1.0]),
        post("n:predict", instances=[1.0]),
    ),
    "an unknown label": Row(
        INVALID,
        "Unrecognized servable version label: l",
        predict(spec(label="l"), x=[1.0]),
        post("m/labels/l:predict", instances=[1.0]),
    ),
    "an unknown label of an unknown model": Row(
        INVALID,
        "Unrecognized servable version label: l",
        predict(spec("n", label="l"), x=[1.0]),
        post("n/labels/l:predict", instances=[1.0]),
    ),
    # 1.4, 2.7: Predict
    "an unknown signature": Row(
        Code.FAILED_PRECONDITION,
        'Serving signature key "z" not found.',
        predict(spec(signature="z"), x=[1.0]),
        post("m:predict", signature_name="z", instances=[1.0]),
        rest_text='Serving signature name: "z" not found in signature def',
    ),
    "an input too many": Row(
        INVALID,
        "input size does not match signature: 2!=1 len({a,x}) != len({x}). Sent "
        "extra: {a}. Missing but required: {}.",
        predict(spec(), x=[1.0], a=[1.0]),
        post("m:predict", instances=[{"x": 1.0, "a": 1.0}]),
        rest_text="Failed to process element: 0 key: a of 'instances' list. Error: "
        "INVALID_ARGUMENT: JSON object: does not have named input: a",
    ),
    "an input too few": Row(
        INVALID,
        "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: "
        "{}. Missing but required: {x}.",
        predict(spec()),
        post("m:predict", inputs={}),
        rest_text="Missing named input: x in 'inputs' object.",
    ),
    "an input of another name": Row(
        INVALID,
        "Signature input alias: x(feed name: x:0) not found in request and no default "
        "value provided. Inputs expected to be in the request {a}, or default input "
        "alias set: ",
        predict(spec(), a=[1.0]),
        post("m:predict", inputs={"a": 1.0}),
        rest_text="Missing named input: x in 'inputs' object.",
    ),
    "a tensor that is none": Row(
        INVALID, "tensor parsing error: x", predict(spec(), x=b"\x08\x00")
    ),
    "an unknown output": Row(
        INVALID,
        "output tensor alias not found in signature: z Outputs expected to be in the "
        "set {y}.",
        predict(spec(), ("z",), x=[1.0]),
    ),
    "an output twice": Row(
        INVALID,
        "duplicate output tensor alias: y",
        predict(spec(), ("y", "y"), x=[1.0]),
    ),
    "another type than the graph's": Row(
        INVALID,
        "Expects arg[0] to be float but string is provided",
        predict(spec(), x=["a"]),
        post("m:predict", instances=["a"]),
        rest_text=f'{IN_ROW}JSON Value: "a" Type: String is not of expected type: '
        "float",
    ),
    "no inputs to give": Row(
        INVALID,
        "",
        rest=post("m:predict", signature_name="constant"),
        rest_text="Failed to get input map for signature: constant",
    ),
    # 2.6: JSON
    "no body": Row(INVALID, "JSON Parse error: The document is empty", rest=raw(b"")),
    "no JSON": Row(
        INVALID, "JSON Parse error: Invalid value. at offset: 0", rest=raw(b"x")
    ),
    "no object": Row(INVALID, "JSON Value: [1] Is not object", rest=raw(b"[1]")),
    "a name that is no string": Row(
        INVALID,
        f"JSON Value: {shown({'signature_name': 5})} not formatted correctly. "
        "'signature_name' key must be a string value.",
        rest=post("m:predict", signature_name=5),
    ),
    "neither instances nor inputs": Row(
        INVALID, "Missing 'inputs' or 'instances' key", rest=post("m:predict")
    ),
    "both instances and inputs": Row(
        INVALID,
        f"JSON Value: {shown({'instances': 1, 'inputs': 1})} Not formatted correctly "
        "expecting only one of 'inputs' or 'instances' keys to exist ",
        rest=post("m:predict", instances=1, inputs=1),
    ),
    "instances that are no list": Row(
        INVALID,
        f"JSON Value: {shown({'instances': 1})} Expecting 'instances' to be an "
        "list/array",
        rest=post("m:predict", instances=1),
    ),
    "no instances": Row(
        INVALID,
        "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array",
        rest=post("m:predict", instances=[]),
    ),
    "an object among values": Row(
        INVALID,
        "Expecting value/list but got object at item 1 of input list",
        rest=post("m:predict", instances=[1.0, {"x": 1.0}]),
    ),
    "a value among objects": Row(
        INVALID,
        "Expecting object but got list at item 1 of input list",
        rest=post("m:predict", instances=[{"x": 1.0}, 1.0]),
    ),
    "rows of several sizes": Row(
        INVALID,
        "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
        "Expecting tensor size: 1 but got: 2",
        rest=post("m:predict", instances=[[1.0], [1.0, 2.0]]),
    ),
    "rows of several shapes": Row(
        INVALID,
        "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
        "Expecting shape [] but got: [1]",
        rest=post("m:predict", instances=[1.0, [1.0]]),
    ),
    "a column of several sizes": Row(
        INVALID,
        "Encountered list at unexpected size: 2 at level: 1 expected size: 1",
        rest=post("m:predict", inputs=[[1.0], [1.0, 2.0]]),
    ),
    "an object without the input": Row(
        INVALID,
        "Failed to process element: 0 of 'instances' list. JSON object: {} keys must "
        "be equal to: x",
        rest=raw(b'{"instances": [{"x": 1.0}, {}]}'),
        rest_text="Failed to process element: 1 of 'instances' list. JSON object: {} "
        "keys must be equal to: x",
    ),
    "a type that JSON has no values for": Row(
        Code.UNIMPLEMENTED,
        "Conversion of JSON Value: 1.5 to type: half",
        rest=post("m:predict", signature_name="echo_HALF", inputs=1.5),
    ),
    "bad base64": Row(
        INVALID,
        f"{IN_ROW}Unable to base64 decode",
        rest=post("m:predict", signature_name="echo_STRING", instances=[{"b64": "*"}]),
    ),
    "a scalar among rows": Row(
        INVALID,
        "Tensor name: half has no shape information ",
        rest=post("m:predict", signature_name="scalar", instances=[1.0]),
    ),
    # 1.5 to 1.7, 2.10: Classify, Regress
    "no examples": Row(
        INVALID,
        "Input is empty.",
        regress("regress", input_pb2.Input()),
        heads("regress", "regress", examples=[]),
        rest_text='JSON Value: {\n    "signature_name": "regress",\n    "examples": '
        "[]\n} 'examples' value is an empty array",
    ),
    "a context and no examples": Row(
        INVALID,
        "Input is empty.",
        regress(
            "regress",
            input_pb2.Input(
                example_list_with_context=input_pb2.ExampleListWithContext(
                    context=examples().example_list.examples[0]
                )
            ),
        ),
    ),
    "no signature to classify with": Row(
        INVALID,
        "No signature was found with the name: z",
        classify("z"),
        heads("classify", "z"),
    ),
    "no signature to regress with": Row(
        INVALID,
        "No signature was found with the name: z",
        regress("z"),
        heads("regress", "z"),
    ),
    "a signature without inputs cannot classify": Row(
        INVALID,
        "Expected one input Tensor.",
        classify("constant"),
        heads("classify", "constant"),
    ),
    "a signature without inputs cannot regress": Row(
        INVALID,
        "Expected one input Tensor.",
        regress("constant"),
        heads("regress", "constant"),
    ),
    "a feature that is missing": Row(
        INVALID,
        "Name: <unknown>, Feature: x (data type: float) is required but could not be "
        "found.",
        regress("regress", examples(empty=True)),
        heads("regress", "regress", examples=[{}]),
    ),
    "an example that is no object": Row(
        INVALID,
        "Example must be JSON object but got JSON Number",
        rest=heads("regress", "regress", examples=[1]),
    ),
    "a feature of several kinds": Row(
        INVALID,
        "Unexpected element type in feature: x expecting type: int64",
        rest=heads("regress", "regress", examples=[{"x": [1, 2.0]}]),
    ),
    "a feature of no kind": Row(
        INVALID,
        "Feature: x has element with unexpected JSON type: Null",
        rest=heads("regress", "regress", examples=[{"x": None}]),
    ),
    "an integer that is too large": Row(
        INVALID,
        "Feature: x has uint64_t element. Only int64_t is supported.",
        rest=heads("regress", "regress", examples=[{"x": 1 << 63}]),
    ),
    # 1.8: MultiInference
    "no tasks": Row(INVALID, "ModelSpec has no name specified.", multi()),
    "a task without a name": Row(
        INVALID,
        "Found ModelSpec with an empty model name.",
        multi((spec(signature="regress"), REGRESS), (spec(""), REGRESS)),
    ),
    "tasks for two models": Row(
        INVALID,
        "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        multi((spec(signature="regress"), REGRESS), (spec("n"), REGRESS)),
    ),
    "one signature twice": Row(
        INVALID,
        "Duplicate evaluation of signature: regress",
        multi(*[(spec(signature="regress"), REGRESS)] * 2),
    ),
    "a task for no signature": Row(
        INVALID,
        "Requested signature not found in model graph: z",
        multi((spec(signature="z"), REGRESS)),
    ),
    "a task of another method": Row(
        Code.UNIMPLEMENTED,
        "Unsupported signature method_name: tensorflow/serving/predict",
        multi((spec(signature="regress"), "tensorflow/serving/predict")),
    ),
    # 1.9, 2.5: metadata
    "metadata without a model_spec": Row(
        INVALID, "Missing ModelSpec", metadata("signature_def")
    ),
    "no metadata asked for": Row(
        INVALID,
        "GetModelMetadataRequest must specify at least one metadata_field",
        metadata(model=spec("n")),
    ),
    "unknown metadata": Row(
        INVALID,
        "Metadata field z is not supported",
        metadata("z", model=spec("n")),
    ),
    "metadata of no model": Row(
        MISSING,
        "Servable not found for request: Latest(n)",
        metadata("signature_def", model=spec("n")),
        get("/v1/models/n/metadata"),
    ),
    "metadata under no label": Row(
        INVALID,
        "Unrecognized servable version label: l",
        metadata("signature_def", model=spec(label="l")),
        get("/v1/models/m/labels/l/metadata"),
    ),
    # 1.10, 2.4: status
    "status without a model_spec": Row(INVALID, "Missing ModelSpec", status(None)),
    "status of no model": Row(
        MISSING,
        "Could not find any versions of model n",
        status(spec("n")),
        get("/v1/models/n"),
    ),
    "status of no version": Row(
        MISSING,
        "Could not find version 9 of model m",
        status(spec(version=9)),
        get("/v1/models/m/versions/9"),
    ),
    # 1.11
    "a reload of nothing": Row(
        INVALID,
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
        "ModelConfigList is currently supported",
        (
            f"{MODEL}/HandleReloadConfigRequest",
            model_management_pb2.ReloadConfigRequest(),
        ),
    ),
    # 2.2: targets
    "a verb that there is not": Row(
        INVALID,
        "Malformed request: POST /v1/models/m:train",
        rest=post("m:train", instances=[1.0]),
    ),
    "a verb in capitals": Row(
        INVALID,
        "Malformed request: POST /v1/models/m:PREDICT",
        rest=post("m:PREDICT", instances=[1.0]),
    ),
    "predict with the wrong method": Row(
        INVALID,
        "Malformed request: GET /v1/models/m:predict",
        rest=get("/v1/models/m:predict"),
    ),
    "a version that is no number": Row(
        INVALID,
        "Malformed request: POST /v1/models/m/versions/x:predict",
        rest=post("m/versions/x:predict", instances=[1.0]),
    ),
    "a query": Row(
        INVALID,
        "Malformed request: POST /v1/models/m:predict?a=1",
        rest=post("m:predict?a=1", instances=[1.0]),
    ),
    "no name at all": Row(
        INVALID, "Missing model name in request.", rest=get("/v1/models")
    ),
    # With --enable_signature_method_name_check
    "a method to classify with, checked": Row(
        INVALID,
        "Expected classification signature method_name to be "
        "tensorflow/serving/classify. Was: tensorflow/serving/regress",
        classify("regress"),
        heads("classify", "regress"),
        flags=frozenset({"--enable_signature_method_name_check"}),
    ),
    "a method to regress with, checked": Row(
        INVALID,
        "Expected regression signature method_name to be tensorflow/serving/regress. "
        "Was: tensorflow/serving/classify",
        regress("classify"),
        heads("regress", "classify"),
        flags=frozenset({"--enable_signature_method_name_check"}),
    ),
    "a method to predict with, checked": Row(
        Code.INTERNAL,
        "Expected prediction signature method_name to be one of "
        "{tensorflow/serving/predict, tensorflow/serving/classify, "
        "tensorflow/serving/regress}. Was: other",
        predict(spec(signature="scalar"), x=[1.0]),
        post("m:predict", signature_name="scalar", inputs=1.0),
        flags=frozenset({"--enable_signature_method_name_check"}),
    ),
}
OVER_GRPC = {name: row for name, row in ROWS.items() if row.grpc}
OVER_REST = {name: row for name, row in ROWS.items() if row.rest}


@pytest.fixture(scope="module")
def server_with(
    start: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    write_version: Callable[..., Path],
) -> Callable[[frozenset[str]], Any]:
    base_path = write_version(tmp_path_factory.mktemp("models") / "m" / "1").parent
    running: dict[frozenset[str], Any] = {}

    def server_with(flags: frozenset[str]) -> Any:
        if flags not in running:
            running[flags] = start(
                *(f"--model_base_path={base_path}", "--model_name=m", *flags),
                *("--wait_for_models=true", "--rest_api_extensions=false"),
            )
        return running[flags]

    return server_with


@pytest.mark.parametrize("row", OVER_GRPC.values(), ids=OVER_GRPC)
def test_over_grpc(row: Row, server_with: Callable[[frozenset[str]], Any]) -> None:
    assert row.grpc is not None
    method, request = row.grpc
    with grpc.insecure_channel(server_with(row.flags).grpc) as channel:
        call: Any = channel.unary_unary(method)
        with pytest.raises(grpc.RpcError) as error:
            call(request.SerializeToString(), timeout=30)

    refused: Any = error.value
    assert refused.code() is row.code
    assert said(refused.details(), row.text)


@pytest.mark.parametrize("row", OVER_REST.values(), ids=OVER_REST)
def test_over_rest(row: Row, server_with: Callable[[frozenset[str]], Any]) -> None:
    assert row.rest is not None
    method, target, body = row.rest
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = f"{server_with(row.flags).rest}{target}"
    answer = httpx.request(method, url, content=content)

    assert answer.status_code == (row.rest_status or HTTP[row.code])
    assert answer.headers["Content-Type"] == "application/json"
    (error,) = answer.json().values()
    assert said(error, row.rest_text or row.text)


def said(text: str, expected: str) -> bool:
    """Return whether *text* is *expected*; TensorFlow adds the node to its own."""
    return text == expected or text.startswith(f"{expected}\n\t [[")


def test_every_code_has_a_status() -> None:
    assert {row.code for row in ROWS.values()} <= HTTP.keys()
