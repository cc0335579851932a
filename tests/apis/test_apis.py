"""The generated messages: current, complete, and apart from everybody else's."""

import importlib
import importlib.util
import pickle
import re
import subprocess
import sys
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pool, json_format, text_format

from servable.apis import (
    POOL,
    any_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    types_pb2,
    wrappers_pb2,
)

ROOT = Path(__file__).parents[2]
APIS = ROOT / "src" / "servable" / "apis"
MODULES = sorted(path.stem for path in APIS.glob("*_pb2*.py"))


def test_package_is_what_the_generator_writes() -> None:
    pytest.importorskip("grpc_tools", reason="needs grpcio-tools")

    result = subprocess.run(
        [sys.executable, ROOT / "tools" / "generate_apis.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (result.stdout, result.returncode) == ("", 0)


def test_every_proto_file_has_its_module() -> None:
    protos = {f"{path.stem}_pb2" for path in (ROOT / "proto").rglob("*.proto")}

    assert protos <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_module_exposes_what_its_stub_promises(name: str) -> None:
    module = importlib.import_module(f"servable.apis.{name}")
    stub = (APIS / f"{name}.pyi").read_text()
    promised = set(re.findall(r"^(?:class |def )?(\w+)[:(]", stub, re.MULTILINE))

    assert promised
    assert promised <= vars(module).keys()


def test_nothing_enters_the_default_pool() -> None:
    for name in MODULES:
        importlib.import_module(f"servable.apis.{name}")

    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("tensorflow.serving.Metric")


def test_enum_values_stand_at_top_level_and_have_names() -> None:
    assert types_pb2.DT_FLOAT == 1
    assert types_pb2.DataType.Name(types_pb2.DT_BFLOAT16) == "DT_BFLOAT16"
    assert types_pb2.DataType.Value("DT_STRING") == types_pb2.DT_STRING


def test_presence_of_a_wrapper_is_kept() -> None:
    spec = model_pb2.ModelSpec(version=wrappers_pb2.Int64Value(value=0))

    assert spec.WhichOneof("version_choice") == "version"
    assert not model_pb2.ModelSpec.FromString(b"").HasField("version")
    assert model_pb2.ModelSpec.FromString(spec.SerializeToString()) == spec


def test_messages_survive_pickle() -> None:
    request = predict_pb2.PredictRequest(output_filter=["y"])

    assert pickle.loads(pickle.dumps(request)) == request  # noqa: S301 - our own


def test_message_classes_say_where_they_live() -> None:
    options = predict_pb2.PredictRequest.RequestOptions

    assert options.__module__ == "servable.apis.predict_pb2"
    assert options.__qualname__ == "PredictRequest.RequestOptions"


@pytest.fixture
def metadata() -> get_model_metadata_pb2.GetModelMetadataResponse:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    signatures.signature_def["serving_default"].method_name = "m"
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.metadata["signature_def"].Pack(signatures)
    return response


def test_any_packs_and_unpacks(
    metadata: get_model_metadata_pb2.GetModelMetadataResponse,
) -> None:
    packed = metadata.metadata["signature_def"]
    signatures = get_model_metadata_pb2.SignatureDefMap()

    assert isinstance(packed, any_pb2.Any)
    assert packed.Unpack(signatures)
    assert signatures.signature_def["serving_default"].method_name == "m"


def test_any_goes_through_json(
    metadata: get_model_metadata_pb2.GetModelMetadataResponse,
) -> None:
    text = json_format.MessageToJson(metadata, descriptor_pool=POOL)
    back = json_format.Parse(text, type(metadata)(), descriptor_pool=POOL)

    assert '"methodName": "m"' in text
    assert back == metadata


def test_any_goes_through_text_format(
    metadata: get_model_metadata_pb2.GetModelMetadataResponse,
) -> None:
    text = text_format.MessageToString(metadata, descriptor_pool=POOL)
    back = text_format.Parse(text, type(metadata)(), descriptor_pool=POOL)

    assert 'method_name: "m"' in text
    assert back == metadata


class _Models(model_service_pb2_grpc.ModelServiceServicer):
    def GetModelStatus(  # noqa: N802 - the RPC's name
        self,
        request: get_model_status_pb2.GetModelStatusRequest,
        context: grpc.ServicerContext,
    ) -> get_model_status_pb2.GetModelStatusResponse:
        del context
        version = request.model_spec.version.value
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(version=version)
        return response


def test_stub_and_servicer_talk_to_each_other() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Models(), server)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        prediction_service_pb2_grpc.PredictionServiceServicer(), server
    )
    port = server.add_insecure_port("localhost:0")
    server.start()
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.version.value = 7
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        response = models.GetModelStatus(request, timeout=10)
        predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as unimplemented:
            predictions.Predict(predict_pb2.PredictRequest(), timeout=10)
    server.stop(None).wait()

    assert response.model_version_status[0].version == 7
    assert unimplemented.value.code() is grpc.StatusCode.UNIMPLEMENTED


OURS = """
from servable.apis import config_pb2, predict_pb2, types_pb2, model_server_config_pb2
request = predict_pb2.PredictRequest()
request.inputs["x"].float_val.append(1.5)
"""
TENSORFLOW = """
import tensorflow as tf
theirs = tf.make_tensor_proto([1.5])
"""
CHECK = """
assert type(theirs) is not type(request.inputs["x"])
back = type(theirs).FromString(request.inputs["x"].SerializeToString())
assert list(back.float_val) == [1.5]
assert config_pb2.ConfigProto is not tf.compat.v1.ConfigProto
"""


API_PACKAGE = """
from tensorflow_serving.apis import predict_pb2 as their_predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc as their_grpc
"""
CHECK_API_PACKAGE = """
from servable.apis import prediction_service_pb2_grpc
asked = their_predict_pb2.PredictRequest.FromString(request.SerializeToString())
assert list(asked.inputs["x"].float_val) == [1.5]
assert type(asked) is not type(request)
assert their_grpc.PredictionServiceStub is not (
    prediction_service_pb2_grpc.PredictionServiceStub
)
"""


@pytest.mark.tensorflow
@pytest.mark.parametrize("is_first", [True, False], ids=["ours first", "theirs first"])
def test_lives_beside_tensorflow_and_its_api_package(is_first: bool) -> None:
    pytest.importorskip("tensorflow", reason="needs TensorFlow")
    theirs, check = TENSORFLOW, CHECK
    if importlib.util.find_spec("tensorflow_serving") is not None:
        theirs, check = theirs + API_PACKAGE, check + CHECK_API_PACKAGE
    script = (OURS + theirs if is_first else theirs + OURS) + check

    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr


def test_a_module_brings_only_the_files_it_needs() -> None:
    script = (
        "from servable.apis import _modules, model_pb2\n"
        "print(sorted(_modules._added))\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == str(
        ["google/protobuf/wrappers.proto", "tensorflow_serving/apis/model.proto"]
    )
