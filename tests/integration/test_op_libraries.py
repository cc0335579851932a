"""Models whose operations TensorFlow does not have."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("servable._engine")

from servable.apis import saved_model_pb2, types_pb2
from servable.client import Client

TOKENIZER = """
import sys
import tensorflow as tf
import tensorflow_text as tf_text

class Tokenizer(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def __call__(self, text):
        tokens = tf_text.WhitespaceTokenizer().tokenize(text)
        return {"tokens": tokens.to_tensor(default_value="")}

model = Tokenizer()
tf.saved_model.save(model, sys.argv[1], signatures=model.__call__)
"""

COMPILED = """
import sys
import tensorflow as tf

class Compiled(tf.Module):
    spec = tf.TensorSpec([None], tf.float32, name="x")

    @tf.function(input_signature=[spec], jit_compile=True)
    def __call__(self, x):
        return {"y": x / 2 + 2}

model = Compiled()
tf.saved_model.save(model, sys.argv[1], signatures=model.__call__)
"""


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the package {name} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def export(script: str, path: Path) -> Path:
    """Run a script that writes a SavedModel; return its base path."""
    subprocess.run([sys.executable, "-c", script, str(path / "1")], check=True)
    return path


@pytest.mark.slow
@pytest.mark.tensorflow
def test_models_of_tensorflow_text_are_served(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    package("tensorflow")
    libraries = package("tensorflow_text") / "python" / "ops"
    base = export(TOKENIZER, tmp_path / "m")
    server = start(
        "--model_name=m",
        f"--model_base_path={base}",
        f"--load_op_library={libraries}",
        "--wait_for_models=true",
    )
    with Client(server.grpc, attempts=1) as client:
        tokens = client.predict("m", ["a b c"])["tokens"]

    assert tokens.tolist() == [[b"a", b"b", b"c"]]


@pytest.fixture(scope="module")
def negate_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with an operation of our own, compiled for this TensorFlow."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++")
    tensorflow = package("tensorflow")
    if not (tensorflow / "include" / "tensorflow" / "core").is_dir():
        pytest.skip("the headers of TensorFlow are not installed")
    library = tmp_path_factory.mktemp("libraries") / "negate.so"
    source = Path(__file__).with_name("negate.cc")
    command = [compiler, "-std=c++17", "-O0", "-shared", "-fPIC", "-w"]
    command += [f"-I{tensorflow}/include", str(source), "-o", str(library)]
    command += [f"-L{tensorflow}", "-l:libtensorflow_framework.so.2"]
    subprocess.run(command, check=True)
    return library


def write_negate(version: Path) -> None:
    """Write a SavedModel of nothing but the operation."""
    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta_graph = model.meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    graph = meta_graph.graph_def
    graph.versions.producer = 1882
    x = graph.node.add(name="x", op="Placeholder")
    x.attr["dtype"].type = types_pb2.DT_FLOAT
    graph.node.add(name="y", op="ServableTestNegate", input=["x"])
    signature = meta_graph.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    for tensors, name in ((signature.inputs, "x"), (signature.outputs, "y")):
        tensors[name].name, tensors[name].dtype = f"{name}:0", types_pb2.DT_FLOAT
        tensors[name].tensor_shape.dim.add(size=-1)
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(model.SerializeToString())


@pytest.mark.slow
def test_an_operation_of_somebody_else_is_run(
    start: Callable[..., Any], negate_library: Path, tmp_path: Path
) -> None:
    write_negate(tmp_path / "m" / "1")
    server = start(
        "--model_name=m",
        f"--model_base_path={tmp_path / 'm'}",
        f"--load_op_library={negate_library}",
        "--wait_for_models=true",
    )
    # What the first request would wait for is done by then, and nothing is run for it.
    assert (server.log().count("is made"), server.log().count("is run")) == (1, 0)
    with Client(server.grpc, attempts=1) as client:
        y = client.predict("m", [1.0, -2.5])["y"]

    assert y.tolist() == [-1.0, 2.5]
    assert (server.log().count("is made"), server.log().count("is run")) == (1, 1)


def test_without_its_library_an_operation_is_unknown(
    start: Callable[..., Any], wait_until: Callable[..., None], tmp_path: Path
) -> None:
    write_negate(tmp_path / "m" / "1")
    server = start(
        "--model_name=m",
        f"--model_base_path={tmp_path / 'm'}",
        "--max_num_load_retries=0",
    )

    wait_until(lambda: "ServableTestNegate" in server.log(), "error of the load")
    assert not server.is_serving("m")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        pytest.param(
            "missing.so",
            "NOT_FOUND: --load_op_library: there is no library at ",
            id="a file that is not there",
        ),
        pytest.param(
            "empty",
            "NOT_FOUND: --load_op_library: there is no library at ",
            id="a directory without libraries",
        ),
        pytest.param("text.so", "text.so: file too short", id="a file that is none"),
    ],
)
def test_a_library_that_cannot_be_loaded_ends_the_start(
    name: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.so").write_text("text")
    write_negate(tmp_path / "m" / "1")
    main = "from servable.cli.tensorflow_model_server import main; exit(main())"
    command = [sys.executable, "-c", main, "--port=0"]
    command += [f"--grpc_socket_path={tmp_path / 's'}", "--model_name=m"]
    command += [f"--model_base_path={tmp_path / 'm'}"]
    command += [f"--load_op_library={tmp_path / name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 255
    assert problem in done.stdout
    assert "--load_op_library" in done.stdout


@pytest.mark.slow
@pytest.mark.tensorflow
def test_graphs_that_ask_to_be_compiled_are(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    package("tensorflow")
    base = export(COMPILED, tmp_path / "m")
    server = start(
        "--model_name=m", f"--model_base_path={base}", "--wait_for_models=true"
    )
    with Client(server.grpc, attempts=1) as client:
        y = client.predict("m", [1.0, 2.0])["y"]

    assert y.tolist() == [2.5, 3.0]
