"""
The client against everything that TensorFlow Serving was recorded to answer over gRPC.

The recordings lie beside the repository; where they do not, `exchanges.json` has some.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

from servable.apis import POOL
from servable.client import Classification, Client, TensorError, make_ndarray
from servable.client.grpc_codec import RPCS
from servable.errors import Code, ServingError

CASES = Path(__file__).parents[3] / "shared" / "conformance" / "cases"
AREAS = (
    *("predict", "predict_tensors", "tensor_content", "model_spec"),
    *("classify", "regress", "multi_inference", "metadata", "status"),
)
PATHS = {rpc.path: rpc for rpc in RPCS.values()}


def recorded() -> Iterator[dict[str, Any]]:
    """Give each exchange with a request that can be made of arrays."""
    files = [CASES / f"{area}.jsonl" for area in AREAS]
    texts = [file.read_text() for file in files if file.exists()]
    lines = "".join(texts).splitlines()
    for case in map(json.loads, lines):
        request, expected = case.get("request", {}), case.get("expect", {})
        rpc = PATHS.get(request.get("method", ""))
        is_whole = "json" in request and "deadline_ms" not in request
        if rpc is None or not is_whole or case["server"] != "main":
            continue
        message: Any = parsed(request["json"], rpc.request)
        try:
            for tensor in getattr(message, "inputs", {}).values():
                make_ndarray(tensor)
            parsed(expected.get("response", {}), rpc.response)
        except (TensorError, json_format.ParseError):
            continue  # no array, or a number that Python's JSON takes for infinite
        if not is_possible(message):
            continue
        yield {
            "id": case["id"],
            "method": request["method"],
            "message": message,
            "request": request["json"],
            "code": expected["code"],
            "text": expected.get("message", ""),
            "response": expected.get("response"),
        }


def is_possible(message: Any) -> bool:
    """Return whether this client has a call that sends such a message."""
    specs = [task.model_spec for task in getattr(message, "tasks", [])]
    if not hasattr(message, "tasks"):
        specs = [message.model_spec]
    elif len({(spec.name, spec.signature_name) for spec in specs}) < len(specs):
        return False
    fields = list(getattr(message, "metadata_field", ["signature_def"]))
    has_empty_label = any(
        spec.WhichOneof("version_choice") == "version_label" and not spec.version_label
        for spec in specs
    )
    models = {(spec.name, spec.version.value, spec.version_label) for spec in specs}
    return len(models) == 1 and fields == ["signature_def"] and not has_empty_label


def parsed(document: Any, kind: type[Any]) -> Any:
    return json_format.ParseDict(document, kind(), descriptor_pool=POOL)


EXCHANGES = list(recorded())


@pytest.fixture(scope="module")
def server(answering: Callable[..., Iterator[Any]]) -> Iterator[Any]:
    yield from answering({"grpc": EXCHANGES, "rest": []})


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Client]:
    with Client(server.grpc_address, attempts=1) as client:
        yield client


def which(spec: Any) -> dict[str, Any]:
    """Return the arguments that say which version is asked."""
    given: dict[str, Any] = {}
    if spec.HasField("version"):
        given["version"] = spec.version.value
    elif spec.version_label:
        given["label"] = spec.version_label
    return given


def ask(client: Client, exchange: Mapping[str, Any]) -> Any:
    """Make the call that was recorded, with the client."""
    message = exchange["message"]
    method = exchange["method"].rpartition("/")[2]
    if method == "MultiInference":
        spec = message.tasks[0].model_spec
        tasks = {
            task.model_spec.signature_name: task.method_name.rpartition("/")[2]
            for task in message.tasks
        }
        examples, context = examples_of(message)
        return client.multi_inference(
            spec.name, examples, tasks, context=context, **which(spec)
        )
    spec = message.model_spec
    signature = {"signature": spec.signature_name}
    match method:
        case "Predict":
            # As messages: what the recorded client sent passes as it is.
            return client.predict(
                spec.name,
                dict(message.inputs),
                outputs=list(message.output_filter),
                **signature,
                **which(spec),
            )
        case "Classify" | "Regress":
            examples, context = examples_of(message)
            call = getattr(client, method.lower())
            return call(
                spec.name, examples, context=context, **signature, **which(spec)
            )
        case "GetModelMetadata":
            return client.metadata(spec.name, **which(spec))
        case _:
            return client.status(spec.name, version=which(spec).get("version"))


def examples_of(message: Any) -> tuple[Any, Any]:
    """Return examples and context; another kind of input cannot be made."""
    kind = message.input.WhichOneof("kind")
    if kind == "example_list_with_context":
        found = message.input.example_list_with_context
        return list(found.examples), found.context
    return list(message.input.example_list.examples), None


def plain(result: Any) -> Any:
    """Return a result as what can be compared."""
    match result:
        case Classification():
            return [result.labels.tolist(), result.scores.tolist()]
        case Mapping():
            return {name: plain(value) for name, value in result.items()}
        case np.ndarray():
            return [str(result.dtype), result.shape, str(result.tolist())]
        case _:
            return result


@pytest.mark.skipif(not EXCHANGES, reason="the recordings are not here")
@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange["id"])
def test_an_answer_is_read_as_it_was_recorded(
    client: Client, server: Any, exchange: dict[str, Any]
) -> None:
    server.calls.clear()
    rpc = PATHS[exchange["method"]]
    method = exchange["method"].rpartition("/")[2]
    failure: ServingError | None = None
    result: Any = None
    try:
        result = ask(client, exchange)
    except ServingError as error:
        failure = error
    if failure is not None and method not in server.calls:
        assert exchange["code"] != "OK"  # it was refused before it was sent
        return
    if failure is not None and "not recorded" in failure.message:
        pytest.skip("this client sends it otherwise")
    if failure is not None:
        said = failure.code.name, failure.message
        assert said == (exchange["code"], exchange["text"])
        return

    assert exchange["code"] == Code.OK.name
    response = parsed(exchange["response"], rpc.response)
    if method == "Predict":
        outputs = {name: make_ndarray(t) for name, t in response.outputs.items()}
        assert plain(result) == plain(dict(sorted(outputs.items())))
        assert result.version == response.model_spec.version.value
    elif method == "Classify":
        assert plain(result)[0] == [
            [c.label for c in row.classes] for row in response.result.classifications
        ]
    elif method == "Regress":
        values = [row.value for row in response.result.regressions]
        assert result.tolist() == values
    elif method == "GetModelStatus":
        found = [(v.version, v.state) for v in response.model_version_status]
        names = response.model_version_status[0].State.Name
        assert [(s.version, s.state) for s in result] == [
            (version, names(state)) for version, state in found
        ]
