"""``servable bench`` against a small server that answers like a model."""

import json
import os
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner, Result

from servable.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
    types_pb2,
)
from servable.cli.bench import bench


class _HalfPlusTwo(prediction_service_pb2_grpc.PredictionServiceServicer):
    def GetModelMetadata(  # noqa: N802 - the name on the wire
        self,
        request: get_model_metadata_pb2.GetModelMetadataRequest,
        context: grpc.ServicerContext,
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if request.model_spec.name != "half_plus_two":
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found")
        signatures = get_model_metadata_pb2.SignatureDefMap()
        signature = signatures.signature_def["serving_default"]
        signature.inputs["x"].dtype = types_pb2.DT_FLOAT
        signature.inputs["x"].tensor_shape.dim.add(size=-1)
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        answer.metadata["signature_def"].Pack(signatures)
        return answer

    def Predict(  # noqa: N802 - the name on the wire
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        x = np.frombuffer(request.inputs["x"].tensor_content, np.float32)
        if x.size == 0:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "x is empty")
        answer = predict_pb2.PredictResponse()
        answer.outputs["y"].CopyFrom(request.inputs["x"])
        answer.outputs["y"].tensor_content = (x / 2 + 2).tobytes()
        return answer


@pytest.fixture
def address() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _HalfPlusTwo(), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(bench, ["--warmup", "0", *arguments])


def test_prints_a_row_for_every_point_of_a_sweep(address: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = invoke(
        "half_plus_two", "--address", address, "--requests", "20", "--check",
        "--in-flight", "1,2", "--input", "x=[1,2,5]", "--json", str(out),
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    assert "1 in flight" in result.output
    assert "2 in flight" in result.output
    document = json.loads(out.read_text())
    assert [point["load"]["in_flight"] for point in document["points"]] == [1, 2]
    assert [point["ok"] for point in document["points"]] == [20, 20]
    # Found through the port; the server of this test is this process.
    assert document["points"][0]["server"]["pid"] == os.getpid()


def test_random_inputs_come_from_the_signature(address: str) -> None:
    result = invoke(
        "half_plus_two", "--address", address, "--requests", "5", "--batch", "100",
        "--json", "-", "--rate", "500",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["points"][0]["ok"] == 5
    assert document["request_bytes"] > 400
    assert document["points"][0]["response_bytes"] > 400


def test_a_method_and_a_body_need_no_model(address: str, tmp_path: Path) -> None:
    request = predict_pb2.PredictRequest()
    request.inputs["x"].tensor_content = np.float32(3).tobytes()
    body = tmp_path / "body"
    body.write_bytes(request.SerializeToString())
    result = invoke(
        "--path", "/tensorflow.serving.PredictionService/Predict", "--body", str(body),
        "--address", address, "--requests", "5",
    )  # fmt: skip

    assert result.exit_code == 0, result.output


def test_draws_a_picture(address: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for in_flight in ("1", "1,2"):
        picture = tmp_path / "plot.png"
        result = invoke(
            "half_plus_two", "--address", address, "--requests", "20",
            "--in-flight", in_flight, "--plot", str(picture),
        )  # fmt: skip

        assert result.exit_code == 0, result.output
        assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        pytest.param([], ["Give a MODEL"], id="nothing to send"),
        pytest.param(["other"], ["NOT_FOUND", "Servable not found"],
                     id="no such model"),
        pytest.param(["half_plus_two", "--signature", "s"],
                     ["no signature 's'; it has serving_default"],
                     id="no such signature"),
        pytest.param(["half_plus_two", "--input", "y=1"], ["no input 'y'; it has x"],
                     id="no such input"),
        pytest.param(["half_plus_two", "--input", "x=[]"],
                     ["INVALID_ARGUMENT: x is empty", "--input"],
                     id="what the model refuses"),
        pytest.param(["half_plus_two", "--in-flight", "0"], ["positive"],
                     id="nothing in flight"),
        pytest.param(["half_plus_two", "--rate", "many"], ["numbers with commas"],
                     id="no number"),
        pytest.param(["half_plus_two", "--rest"], ["was not answered", "--rest"],
                     id="the other protocol"),
        pytest.param(["half_plus_two", "--address", "127.0.0.1:1"],
                     ["UNAVAILABLE", "Is the server running"],
                     id="nobody there"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_explained(
    address: str, arguments: list[str], texts: list[str]
) -> None:
    result = invoke("--address", address, "--requests", "1", *arguments)

    assert result.exit_code != 0
    for text in texts:
        assert text in result.output
