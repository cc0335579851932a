"""TensorFlow Lite models, run by the real runtime; the models are made here."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_engine = pytest.importorskip("servable._engine")
schema = pytest.importorskip(
    "ai_edge_litert.schema_py_generated", reason="ai-edge-litert is not installed"
)
flatbuffers = pytest.importorskip("flatbuffers")

from flatbuffers import flexbuffers  # noqa: E402

from servable.apis import (  # noqa: E402
    get_model_metadata_pb2,
    meta_graph_pb2,
    predict_pb2,
    types_pb2,
)
from servable.client import Client, make_tensor_proto  # noqa: E402
from servable.client.tensors import make_ndarray  # noqa: E402
from servable.config.server_options import ServerOptions  # noqa: E402
from servable.core.servable_id import ServableId  # noqa: E402
from servable.core.storage_path import StoragePath  # noqa: E402
from servable.errors import Internal, InvalidArgument, ServingError  # noqa: E402
from servable.platforms.tensorflow import TensorFlowPlatform  # noqa: E402
from servable.platforms.tflite import TfLiteServable  # noqa: E402
from servable.server import Server  # noqa: E402

FLOAT = int(schema.TensorType.FLOAT32)
STRING = int(schema.TensorType.STRING)
PREDICT = 6  # PredictionLog.predict_log


def half_plus_two(
    metadata: Mapping[str, meta_graph_pb2.SignatureDef] | None = None,
    *,
    as_text: bool = True,
) -> bytes:
    """Return a model of y = x / 2 + 2 over [1, 1], with a colon in a name."""
    model = new_model()
    tensor(model, "x:0", FLOAT, [1, 1])
    tensor(model, "half", FLOAT, [1], np.array([0.5], np.float32))
    tensor(model, "two", FLOAT, [1], np.array([2.0], np.float32))
    tensor(model, "halved", FLOAT, [1, 1])
    tensor(model, "y", FLOAT, [1, 1])
    operation(model, "MUL", "MulOptions", [0, 1], [3])
    operation(model, "ADD", "AddOptions", [3, 2], [4])
    return packed(model, [0], [4], metadata, as_text=as_text)


def strings_to_shape() -> bytes:
    """Return a model that takes strings and returns their shape, and themselves."""
    model = new_model()
    tensor(model, "text", STRING, [1])
    tensor(model, "shape", int(schema.TensorType.INT32), [1])
    operation(model, "SHAPE", "ShapeOptions", [0], [1])
    model.operators = model.subgraphs[0].operators
    model.subgraphs[0].operators[0].builtinOptions.outType = schema.TensorType.INT32
    return packed(model, [0], [1, 0], None, as_text=True)


class Serialized(bytes):
    """Bytes that a builder of FlexBuffers takes for text."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        return bytes(self)


def new_model() -> Any:
    model = schema.ModelT()
    model.version = 3
    model.operatorCodes, model.metadata = [], []
    model.buffers = [schema.BufferT()]  # the first is for tensors without values
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [], []
    model.subgraphs = [graph]
    return model


def tensor(
    model: Any, name: str, kind: int, shape: Sequence[int], values: Any = None
) -> None:
    made = schema.TensorT()
    made.name, made.type, made.shape = name, kind, list(shape)
    made.shapeSignature = list(shape)
    if values is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        model.buffers.append(buffer)
        made.buffer = len(model.buffers) - 1
    model.subgraphs[0].tensors.append(made)


def operation(
    model: Any, name: str, options: str, inputs: Sequence[int], outputs: Sequence[int]
) -> None:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(
        schema.BuiltinOperator, name
    )
    code.version = 1
    model.operatorCodes.append(code)
    made = schema.OperatorT()
    made.opcodeIndex = len(model.operatorCodes) - 1
    made.inputs, made.outputs = list(inputs), list(outputs)
    made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
    made.builtinOptions = getattr(schema, f"{options}T")()
    model.subgraphs[0].operators.append(made)


def packed(
    model: Any,
    inputs: Sequence[int],
    outputs: Sequence[int],
    signatures: Mapping[str, meta_graph_pb2.SignatureDef] | None,
    *,
    as_text: bool,
) -> bytes:
    model.subgraphs[0].inputs, model.subgraphs[0].outputs = list(inputs), list(outputs)
    if signatures is not None:
        builder = flexbuffers.Builder()
        with builder.Map():
            for name, signature in signatures.items():
                builder.Key(name)
                # The converter stores messages as if they were text.
                serialized = Serialized(signature.SerializeToString())
                store = builder.String if as_text else builder.Blob
                store(serialized)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(bytes(builder.Finish()), np.uint8)
        model.buffers.append(buffer)
        entry = schema.MetadataT()
        entry.name, entry.buffer = "signature_defs_metadata", len(model.buffers) - 1
        model.metadata.append(entry)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def signature(input_name: str, output_name: str) -> meta_graph_pb2.SignatureDef:
    made = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    for infos, alias, name in (
        (made.inputs, "in", input_name),
        (made.outputs, "out", output_name),
    ):
        infos[alias].name, infos[alias].dtype = name, types_pb2.DT_FLOAT
    return made


def write(path: Path, model: bytes) -> Path:
    path.mkdir(parents=True)
    (path / "model.tflite").write_bytes(model)
    return path


def loaded(path: Path, num_interpreters: int = 2) -> Any:
    platform = TensorFlowPlatform(
        b"", ["serve"], num_tflite_interpreters=num_interpreters
    )
    loader = platform.loader(ServableId("m", 1), StoragePath(str(path)))
    loader.load()
    return loader.servable()


def predict(
    servable: Any, inputs: Mapping[str, Any], dtype: str = "float32"
) -> dict[str, Any]:
    request = predict_pb2.PredictRequest()
    for alias, value in inputs.items():
        proto = make_tensor_proto(value, dtype)
        request.inputs[alias].MergeFromString(proto.SerializeToString())
    answer = servable.replay(PREDICT, request.SerializeToString())
    response = predict_pb2.PredictResponse.FromString(answer)
    return {name: make_ndarray(t).tolist() for name, t in response.outputs.items()}


def test_a_model_without_signatures_has_one_of_all_its_tensors(tmp_path: Path) -> None:
    servable = loaded(write(tmp_path / "1", half_plus_two()))
    signatures = get_model_metadata_pb2.SignatureDefMap.FromString(
        servable.signature_def_map
    ).signature_def

    assert list(signatures) == ["serving_default"]
    x = signatures["serving_default"].inputs["x"]
    assert (x.name, x.dtype) == ("x:0", types_pb2.DT_FLOAT)
    assert [dim.size for dim in x.tensor_shape.dim] == [1, 1]
    assert list(signatures["serving_default"].outputs) == ["y"]


@pytest.mark.parametrize(
    ("x", "y"),
    [
        pytest.param([[3.0]], [[3.5]], id="as the model has it"),
        pytest.param([[1.0], [2.0], [3.0]], [[2.5], [3.0], [3.5]], id="more rows"),
        pytest.param([1.0, 2.0], [2.5, 3.0], id="another rank"),
    ],
)
def test_a_model_takes_the_shape_of_the_request(
    x: list[Any], y: list[Any], tmp_path: Path
) -> None:
    servable = loaded(write(tmp_path / "1", half_plus_two()), num_interpreters=1)

    assert predict(servable, {"x": x}) == {"y": y}
    assert predict(servable, {"x": [[0.0]]}) == {"y": [[2.0]]}
    assert predict(servable, {"x": x}) == {"y": y}


@pytest.mark.parametrize("as_text", [True, False])
def test_signatures_in_the_metadata_name_tensors_with_and_without_an_index(
    as_text: bool,
    tmp_path: Path,
) -> None:
    signatures = {
        "serving_default": signature("x:0", "y:0"),
        "halved": signature("x:0", "y"),
    }
    servable = loaded(write(tmp_path / "1", half_plus_two(signatures, as_text=as_text)))

    assert predict(servable, {"in": [[1.0]]}) == {"out": [[2.5]]}


def test_a_signature_with_an_unknown_tensor_fails_the_load(tmp_path: Path) -> None:
    path = write(tmp_path / "1", half_plus_two({"s": signature("z:0", "y")}))

    with pytest.raises(InvalidArgument, match=r"^Unknown tensor 'z:0'\."):
        loaded(path)


def test_strings_go_in(tmp_path: Path) -> None:
    servable = loaded(write(tmp_path / "1", strings_to_shape()))

    assert predict(servable, {"text": [b"a\0", b"", b"\xff"]}, "string")["shape"] == [3]


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        pytest.param(b"", "model.tflite cannot be opened", id="an empty file"),
        pytest.param(b"no model" * 9, "model.tflite cannot be opened", id="no model"),
    ],
)
def test_a_file_that_is_no_model_fails_the_load(
    model: bytes, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        loaded(write(tmp_path / "1", model))


@pytest.mark.parametrize(
    ("inputs", "error", "problem"),
    [
        pytest.param({}, InvalidArgument, "Missing input TFLite tensor: x", id="none"),
        pytest.param(
            {"x": (types_pb2.DT_STRING, (1,), [b"a"])},
            InvalidArgument,
            r"Expects arg\[0\] to be float but string is provided",
            id="another type",
        ),
        pytest.param(
            {"x": (types_pb2.DT_FLOAT, (2, 3), np.zeros(24, np.uint8))},
            None,
            "",
            id="any shape that the operations take",
        ),
    ],
)
def test_what_a_run_is_refused_for(
    inputs: Mapping[str, Any],
    error: type[ServingError] | None,
    problem: str,
    tmp_path: Path,
) -> None:
    servable = TfLiteServable(str(write(tmp_path / "1", half_plus_two())), 1)
    if error is None:
        assert servable.run("serving_default", inputs, ["y"])[0][1] == (2, 3)
        return
    with pytest.raises(error, match=problem):
        servable.run("serving_default", inputs, ["y"])


def test_an_interpreter_that_failed_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servable = TfLiteServable(str(write(tmp_path / "1", half_plus_two())), 1)
    x = {"x": (types_pb2.DT_FLOAT, (1, 1), np.zeros(4, np.uint8))}
    interpreters = servable._interpreters.Interpreter
    with monkeypatch.context() as broken:

        def fail(_: object) -> None:
            raise RuntimeError("no memory")

        broken.setattr(interpreters, "invoke", fail)
        with pytest.raises(Internal, match="Failed to invoke TfLite interpreter"):
            servable.run("serving_default", x, ["y"])

    assert servable.run("serving_default", x, ["y"])[0][1] == (1, 1)


def test_as_many_requests_run_at_a_time_as_there_are_interpreters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servable = TfLiteServable(str(write(tmp_path / "1", half_plus_two())), 2)
    x = {"x": (types_pb2.DT_FLOAT, (1, 1), np.zeros(4, np.uint8))}
    both = threading.Barrier(2, timeout=20)
    interpreters = servable._interpreters.Interpreter
    invoke = interpreters.invoke

    def wait_for_the_other(interpreter: Any) -> None:
        both.wait()
        invoke(interpreter)

    monkeypatch.setattr(interpreters, "invoke", wait_for_the_other)
    answers: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(servable.run("serving_default", x, ["y"]))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(answers) == 4


def test_without_the_flag_a_saved_model_is_looked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "1", half_plus_two())

    with pytest.raises(ServingError, match="does not appear to contain a SavedModel"):
        loaded(path, num_interpreters=0)


def test_a_server_serves_it_without_tensorflow(tmp_path: Path) -> None:
    write(tmp_path / "m" / "1", half_plus_two())
    options = ServerOptions(
        model_name="m",
        model_base_path=str(tmp_path / "m"),
        grpc_port=0,
        prefer_tflite_model=True,
        num_tflite_pools=2,
    )

    with Server(options) as server, Client(f"127.0.0.1:{server.grpc_port}") as client:
        y = client.predict("m", {"x": np.array([[1.0], [2.0]], np.float32)})["y"]

    assert y.tolist() == [[2.5], [3.0]]
