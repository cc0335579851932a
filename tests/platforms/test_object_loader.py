"""Models of Keras 3 as two ways of saving write them, and the two roads they take."""

import importlib.util
import json
import logging
import re
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_engine = pytest.importorskip("servable._engine")
if importlib.util.find_spec("keras") is None:
    pytest.skip("needs TensorFlow and Keras", allow_module_level=True)

import grpc  # noqa: E402
from ml_dtypes import bfloat16  # noqa: E402

from servable.apis import predict_pb2, prediction_service_pb2_grpc  # noqa: E402
from servable.client import Client, make_tensor_proto  # noqa: E402
from servable.config.server_options import ServerOptions  # noqa: E402
from servable.errors import ServingError  # noqa: E402
from servable.platforms.object_loader import (  # noqa: E402
    ObjectLoaderServable,
    _plain,
)
from servable.platforms.unrestored_variables import (  # noqa: E402
    read_object_graph_model,
)
from servable.server import Server  # noqa: E402

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

# Models are made in a process of their own: Keras and TensorFlow warn, and never let
# go of what they made.
MAKE = """
import json, sys
import keras, numpy as np, tensorflow as tf

keras.utils.set_random_seed(7)
base = sys.argv[1]
model = keras.Sequential([
    keras.layers.Input((2,)),
    keras.layers.Dense(3, activation="relu"),
    keras.layers.BatchNormalization(),
    keras.layers.Dropout(0.5),
    keras.layers.Dense(1),
])
x = np.array([[1, 2], [-3, 0.5], [0, 0]], np.float32)
model.compile("adam", "mse")
model.fit(x, np.ones((3, 1), np.float32), verbose=0)
expected = model(x).numpy().tolist()


class Wrapper(tf.Module):
    def __init__(self):
        self.model = model

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32)])
    def __call__(self, x):
        return {"y": self.model(x)}


class Texts(tf.Module):
    def __init__(self):
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2]), -1)
        self.offset = tf.Variable(10)
        self.unused = tf.Variable(1.0)

    @tf.function(input_signature=[tf.TensorSpec(None, tf.string)])
    def look_up(self, words):
        return {"found": self.table.lookup(words) + self.offset, "words": words}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.string)])
    def number(self, words):
        return {"numbers": tf.strings.to_number(words)}

    @tf.function(input_signature=[
        tf.TensorSpec(None, tf.bfloat16), tf.TensorSpec(None, tf.int8),
        tf.TensorSpec(None, tf.bool), tf.TensorSpec(None, tf.complex128)])
    def echo(self, a, b, c, d):
        return {"a": a, "b": b, "c": c, "d": d}

    @tf.function(input_signature=[])
    def nothing(self):
        return {"one": tf.constant(1)}


wrapper, texts = Wrapper(), Texts()
tf.saved_model.save(model, f"{base}/saved/1")
tf.saved_model.save(wrapper, f"{base}/wrapped/1", signatures=wrapper.__call__)
tf.saved_model.save(texts, f"{base}/module/1", signatures={
    "serving_default": texts.look_up, "number": texts.number,
    "echo": texts.echo, "nothing": texts.nothing})
model.export(f"{base}/exported/1", verbose=False)
json.dump({"x": x.tolist(), "expected": expected}, open(f"{base}/answers.json", "w"))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("models")
    made = subprocess.run(
        [sys.executable, "-c", MAKE, str(base)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    shutil.copytree(base / "saved", base / "renewed")
    return base


@pytest.fixture(scope="module")
def answers(models: Path) -> Any:
    return json.loads((models / "answers.json").read_text())


PREDICT = 6  # the field of PredictionLog
NAMES = ("saved", "renewed", "wrapped", "exported", "module")


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    listed = "".join(
        f'config {{ name: "{name}" base_path: "{models / name}" '
        'model_platform: "tensorflow" } '
        for name in NAMES
    )
    config = models / "models.config"
    config.write_text(f"model_config_list {{ {listed} }}")
    options = ServerOptions(
        model_config_file=str(config),
        grpc_host="127.0.0.1",
        grpc_port=0,
        rest_port=0,
    )
    with Server(options) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(f"127.0.0.1:{server.grpc_port}") as made:
        yield made


@pytest.mark.parametrize(
    ("name", "needs_objects"),
    [("saved", True), ("wrapped", True), ("exported", False), ("module", False)],
)
def test_which_road_a_model_takes(name: str, needs_objects: bool, models: Path) -> None:
    found = read_object_graph_model(str(models / name / "1"), ["serve"])

    assert found is not None
    assert bool(found.unrestored_variables) is needs_objects


@pytest.mark.parametrize("api", ["grpc", "rest"])
@pytest.mark.parametrize("name", ["saved", "wrapped", "exported"])
def test_answers_are_those_of_the_model(
    name: str, api: str, server: Server, answers: Any
) -> None:
    x = np.array(answers["x"], np.float32)
    port = server.grpc_port if api == "grpc" else server.rest_port
    scheme = "grpc" if api == "grpc" else "http"

    with Client(f"{scheme}://127.0.0.1:{port}") as client:
        (y,) = client.predict(name, x).values()

    np.testing.assert_allclose(y, answers["expected"], rtol=1e-5)


def test_a_new_version_takes_the_place_of_the_old(models: Path, client: Client) -> None:
    shutil.copytree(models / "renewed" / "1", models / "new")
    (models / "new").rename(models / "renewed" / "2")

    while client.status("renewed", version=1)[0].state != "END":
        assert client.predict("renewed", [[1.0, 2.0]]).version in {1, 2}

    assert client.predict("renewed", [[1.0, 2.0]]).version == 2


def test_one_line_says_how_to_do_better(
    models: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    config = server.config
    with caplog.at_level(logging.WARNING, "servable.platforms.tensorflow"):
        for name in ("saved", "exported"):
            options = ServerOptions(
                model_base_path=str(models / name), grpc_host="127.0.0.1", grpc_port=0
            )
            with Server(options):
                pass

    (line,) = [record.getMessage() for record in caplog.records]
    assert str(models / "saved" / "1") in line
    assert "model.export(path)" in line
    assert server.config is config


def test_many_threads_get_each_its_own_answer(client: Client) -> None:
    x = np.arange(64, dtype=np.float32).reshape(32, 2)
    (expected,) = client.predict("exported", x).values()
    barrier = threading.Barrier(4)

    def ask(thread: int) -> list[float]:
        barrier.wait()
        return [
            client.predict("saved", x[row : row + 1])["output_0"].item()
            for row in range(thread, 32, 4)
        ]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))

    for thread, values in enumerate(found):
        np.testing.assert_allclose(values, expected[thread::4, 0], rtol=1e-5)


@pytest.fixture(scope="module")
def roads(models: Path, server: Server) -> Iterator[dict[str, Any]]:
    """One model, that could take either road, on both."""
    assert server.grpc_port  # TensorFlow's library is open
    path = str(models / "module" / "1")
    found = read_object_graph_model(path, ["serve"])
    assert found is not None
    session = _engine.load_saved_model(path, ["serve"], b"", inter_op_in_caller=True)
    in_python = ObjectLoaderServable(path, ["serve"])
    yield {
        "session": session,
        "python": _engine.python_servable(in_python, found.signature_def_map),
    }
    in_python.release()


# Numbered as functions happen to be loaded; eager TensorFlow leaves most of them out.
FUNCTION = re.compile(r"\{\{function_node \S+\}\}")


def request(
    signature: str, outputs: tuple[str, ...] = (), /, **inputs: Any
) -> predict_pb2.PredictRequest:
    made = predict_pb2.PredictRequest()
    made.model_spec.name, made.model_spec.signature_name = "m", signature
    made.output_filter[:] = outputs
    for alias, value in inputs.items():
        made.inputs[alias].CopyFrom(make_tensor_proto(value))
    return made


def f32(*values: float) -> Any:
    return np.array(values, np.float32)


ECHO = {
    "a": np.array([1.5, np.nan], bfloat16),
    "b": np.array(-7, np.int8),
    "c": np.zeros((2, 0, 3), bool),
    "d": np.array([[1 + 2j]], np.complex128),
}
REQUESTS = [
    pytest.param(request("", words=[b"a", b"c", b"a\0"]), id="strings"),
    pytest.param(request("", words=np.array([], object)), id="no strings"),
    pytest.param(request("", words=b"b"), id="a scalar string"),
    pytest.param(request("", words=[[b"a"], [b"b"]]), id="rank two"),
    pytest.param(request("echo", **ECHO), id="many dtypes"),
    pytest.param(request("echo", ("d", "a"), **ECHO), id="some outputs"),
    pytest.param(request("nothing"), id="no inputs"),
    pytest.param(request("number", words=[b"1", b"-2.5"]), id="a kernel's answer"),
    pytest.param(request("number", words=[b"1", b"x"]), id="a kernel's error"),
    pytest.param(request("number", words=[b"\xff\xfe"]), id="an error not in UTF-8"),
    pytest.param(request("number", words=f32(1)), id="float for string"),
    pytest.param(request("", words=np.int32(1)), id="int32 for string"),
    pytest.param(request("echo", **ECHO | {"b": b"x"}), id="string for int8"),
    pytest.param(request("echo", a=ECHO["a"]), id="inputs missing"),
    pytest.param(request("none"), id="no such signature"),
    pytest.param(request("", ("x",), words=b"a"), id="no such output"),
]


@pytest.mark.parametrize("asked", REQUESTS)
def test_both_roads_answer_alike(
    asked: predict_pb2.PredictRequest, roads: dict[str, Any]
) -> None:
    answers = {}
    for road, servable in roads.items():
        try:
            answers[road] = servable.replay(PREDICT, asked.SerializeToString())
        except _engine.EngineError as error:
            answers[road] = (error.code, FUNCTION.sub("", error.message))

    if isinstance(answers["session"], bytes):
        answers = {
            road: predict_pb2.PredictResponse.FromString(answer)
            for road, answer in answers.items()
        }
    assert str(answers["python"]) == str(answers["session"])


@pytest.mark.parametrize(
    ("x", "text"),
    [
        pytest.param(f32(1, 2), "In[0] is not a matrix\n\t [[{{node ", id="rank"),
        pytest.param(
            f32(1, 2, 3).reshape(1, 3),
            "Matrix size-incompatible: In[0]: [1,3], In[1]: [2,3]\n\t [[{{node ",
            id="size",
        ),
        pytest.param(
            [[b"a"]], "Expects arg[0] to be float but string is provided", id="dtype"
        ),
    ],
)
def test_errors_have_a_code_and_the_text_of_a_session(
    x: Any, text: str, server: Server
) -> None:
    asked = request("", inputs=x)
    asked.model_spec.name = "saved"

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(asked, timeout=30)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(caught.value.details()).startswith(text)
    assert "[Op:" not in str(caught.value.details())


def test_a_model_that_is_gone_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ServingError):
        ObjectLoaderServable(str(tmp_path), ["serve"])


ORIGIN = (
    "Graph execution error:\n\nDetected at node a/b defined at (most recent call "
    'last):\n  File "/home/me/train.py", line 3, in <module>\n\n'
    '  File "/home/me/net.py", line 4, in call\n\n'
)


@pytest.mark.parametrize(
    "message",
    [
        "bad\n\t [[{{node a/b}}]] [Op:__inference_f_1]",
        ORIGIN + "bad\n\t [[{{node a/b}}]] [Op:__inference_f_1]",
        "{{function_node __wrapped__x}} bad\n\t [[{{node a/b}}]] [Op:Cast] name: ",
        "Graph execution error:\n\nDetected at node a/b defined at (most recent call "
        "last):\n<stack traces unavailable>\nbad\n\t [[{{node a/b}}]]",
    ],
)
def test_what_eager_execution_adds_is_left_out(message: str) -> None:
    assert _plain(message) == "bad\n\t [[{{node a/b}}]]"


def test_unloading_frees_the_model(models: Path) -> None:
    loaded = ObjectLoaderServable(str(models / "saved" / "1"), ["serve"])
    model = weakref.ref(loaded._model)

    loaded.release()

    assert model() is None
