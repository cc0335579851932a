"""export, diff, convert and optimize, as a person runs them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from servable.apis import saved_model_pb2
from servable.cli import waiting
from servable.cli.diff import diff
from servable.cli.saved_model_summary import summarize
from servable.client import make_ndarray
from servable.export.answers import arrays_of
from servable.export.replay import replay
from servable.export.requests import read_warmup, request_log

pytest.importorskip("servable._engine")
pytest.importorskip("keras", reason="needs TensorFlow and Keras")

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.slow,
    pytest.mark.timeout(600),  # models are made before the first test
]

# One process makes all models and runs all commands that need TensorFlow, so that it
# is imported once.
MAKE = """
import json, shutil, sys
from pathlib import Path
import keras, numpy as np, tensorflow as tf
from click.testing import CliRunner
from servable.apis import saved_model_pb2
from servable.cli import waiting
from servable.cli.commands import servable
from servable.export.session_bundle import message_class

base, ran = Path(sys.argv[1]), {}
waiting._TOLD_EVERY_S = 3600.0  # a slow machine has more to tell
v1 = tf.compat.v1
sys.path.insert(0, str(base))


def run(name, *arguments):
    result = CliRunner().invoke(servable, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    ran[name] = [result.exit_code, result.output]


keras.utils.set_random_seed(2)
model = keras.Sequential([
    keras.layers.Input((6, 6, 2), name="image"),
    keras.layers.Conv2D(4, 3, use_bias=False),
    keras.layers.BatchNormalization(),
    keras.layers.ReLU(),
    keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
    keras.layers.BatchNormalization(),
    keras.layers.GlobalAveragePooling2D(),
    keras.layers.Dense(2),
])
rng = np.random.default_rng(0)
for layer in model.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
model.save(base / "m.keras")
images = rng.random((2, 6, 6, 2)).astype(np.float32).tolist()
(base / "samples.json").write_text(json.dumps({"serving_default": [{"image": images}]}))
run("export", "export", base / "m.keras", base / "keras",
    "--samples", base / "samples.json")
model.layers[-1].set_weights([w + 1 for w in model.layers[-1].get_weights()])
model.save(base / "other.keras")
run("again", "export", base / "other.keras", base / "keras", "--keep", 2)
run("optimize", "optimize", base / "keras" / "1", base / "fast")
broken = base / "broken"
shutil.copytree(base / "keras" / "1", broken)
graph_file = broken / "saved_model.pb"
of_nothing = saved_model_pb2.SavedModel.FromString(graph_file.read_bytes())
signature = of_nothing.meta_graphs[0].signature_def["serving_default"]
for output in signature.outputs.values():
    output.name = "nowhere:0"
graph_file.write_bytes(of_nothing.SerializeToString())
run("optimize_broken", "optimize", broken, base / "fast_broken")
run("export_broken", "export", broken, base / "none")
untried = base / "untried"
shutil.copytree(base / "keras" / "1", untried)
graph_file = untried / "saved_model.pb"
renamed = saved_model_pb2.SavedModel.FromString(graph_file.read_bytes())
inputs = renamed.meta_graphs[0].signature_def["serving_default"].inputs
inputs["picture"].CopyFrom(inputs.pop("image"))
graph_file.write_bytes(renamed.SerializeToString())
run("export_untried", "export", untried, base / "none")
run("optimize_again", "optimize", base / "keras" / "1", base / "fast")
run("convert_keras", "convert", base / "m.keras", base / "from_keras")
run("republish", "export", base / "keras" / "1", base / "copies", "--samples",
    base / "samples.json")
run("not_keras", "export", base / "samples.json", base / "none")
(base / "broken.keras").write_text("no model")
run("broken", "export", base / "broken.keras", base / "none")
(base / "mine.py").write_text('''
import tensorflow as tf

def made():
    x = tf.TensorSpec([None], tf.float32)
    return {"model": tf.function(lambda x: x * 2, input_signature=[x]),
            "samples": {"serving_default": [{"x": [1.0]}]}}

def raising():
    raise OSError("the data is not there")

def wants(data):
    return data

class Adds(tf.Module):
    @tf.function(input_signature=[{"a": tf.TensorSpec([None], tf.float32),
                                   "b": tf.TensorSpec([None], tf.float32)}])
    def __call__(self, features):
        return {"sum": features["a"] + features["b"]}

def of_features():
    return {"model": Adds(), "samples": {"serving_default": [{"a": [1.0], "b": [2.0]}]}}

def misspelled():
    return {"model": Adds(), "sample": {}}
''')
(base / "unparsable.py").write_text("def (")
run("of_features", "export", "mine:of_features", base / "of_features")
(base / "numbers.json").write_text('{"serving_default": [5]}')
run("numbers", "export", base / "keras" / "1", base / "none", "--samples",
    base / "numbers.json")
for name in ("mine:raising", "mine:wants", "mine:misspelled", "unparsable:f"):
    run(name, "export", name, base / "none")
(base / "flat.json").write_text(json.dumps({"serving_default": [{"image": [1.0]}]}))
run("model_fails", "export", base / "m.keras", base / "none", "--samples",
    base / "flat.json")
run("version_flat", "export", base / "keras" / "1", base / "none", "--samples",
    base / "flat.json")
run("function", "export", "mine:made", base / "function")
run("no_function", "export", "mine:gone", base / "none")

with tf.Graph().as_default(), v1.Session() as session:
    x = v1.placeholder(tf.float32, [None], name="x")
    y = tf.add(x * 3.0, 1.0, name="y")
    (base / "frozen.pb").write_bytes(session.graph_def.SerializeToString())
    (base / "empty.pb").write_bytes(b"")
    v1.get_variable("w", initializer=1.0)
    (base / "unfrozen.pb").write_bytes(session.graph_def.SerializeToString())
run("unfrozen", "convert", base / "unfrozen.pb", base / "no_graph")
run("convert_graph", "convert", base / "frozen.pb", base / "from_graph")
run("named", "convert", base / "frozen.pb", base / "named",
    "--input", "a=x:0", "--output", "b=y:0")
run("no_tensor", "convert", base / "frozen.pb", base / "no_tensor", "--output", "z")
run("no_graph", "convert", base / "empty.pb", base / "no_graph")
run("no_format", "convert", base / "samples.json", base / "no_format")

# A session bundle, as the exporter of TensorFlow 0.12 wrote it.
bundle = base / "bundle"
(bundle / "assets").mkdir(parents=True)
(bundle / "assets" / "words.txt").write_text("zero\\none\\n")
with tf.Graph().as_default() as graph, v1.Session() as session:
    x = v1.placeholder(tf.float32, [None], name="x")
    w = v1.get_variable("w", initializer=4.0, use_resource=False)
    y = tf.multiply(x, w, name="y")
    name = tf.constant("words.txt", name="words_path")
    table = v1.lookup.StaticHashTable(v1.lookup.TextFileInitializer(
        name, tf.int64, v1.lookup.TextFileIndex.LINE_NUMBER,
        tf.string, v1.lookup.TextFileIndex.WHOLE_LINE), "?")
    word = tf.identity(table.lookup(tf.cast(x, tf.int64)), "word")
    init = tf.group(v1.tables_initializer(), name="init_all")
    signatures = message_class("Signatures")()
    generic = signatures.named_signatures
    generic["inputs"].generic_signature.map["x"].tensor_name = "x:0"
    generic["outputs"].generic_signature.map["y"].tensor_name = "y:0"
    generic["outputs"].generic_signature.map["word"].tensor_name = "word:0"
    asset = message_class("AssetFile")(filename="words.txt")
    asset.tensor_binding.tensor_name = "words_path:0"
    for key, message in (("serving_signatures", signatures), ("serving_assets", asset)):
        packed = __import__("google.protobuf.any_pb2").protobuf.any_pb2.Any()
        packed.type_url = "type.googleapis.com/" + message.DESCRIPTOR.full_name
        packed.value = message.SerializeToString()
        graph.add_to_collection(key, packed)
    graph.add_to_collection("serving_init_op", init)
    session.run(v1.global_variables_initializer())
    saver = v1.train.Saver(sharded=True, write_version=v1.train.SaverDef.V1)
    saver.save(session, str(bundle / "export"), meta_graph_suffix="meta",
               write_meta_graph=True)
run("convert_bundle", "convert", bundle, base / "from_bundle")
shutil.copytree(bundle, base / "damaged")
for shard in (base / "damaged").glob("export-0*"):
    shard.write_bytes(b"")
run("damaged", "convert", base / "damaged", base / "no_graph")

# A table with its file, which has to survive.
(base / "labels.txt").write_text("cat\\ndog\\n")


class Words(tf.Module):
    def __init__(self):
        self.offset = tf.Variable(1, dtype=tf.int64)
        self.table = tf.lookup.StaticHashTable(tf.lookup.TextFileInitializer(
            str(base / "labels.txt"), tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER,
            tf.string, tf.lookup.TextFileIndex.WHOLE_LINE), "?")

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
    def __call__(self, x):
        return {"word": self.table.lookup(x - self.offset)}


with tf.Graph().as_default(), v1.Session() as session:
    x = v1.placeholder(tf.int64, [None], name="x")
    table = v1.lookup.StaticHashTable(v1.lookup.TextFileInitializer(
        str(base / "labels.txt"), tf.int64, v1.lookup.TextFileIndex.LINE_NUMBER,
        tf.string, v1.lookup.TextFileIndex.WHOLE_LINE), "?")
    v1.saved_model.simple_save(session, str(base / "v1_words"), {"x": x},
        {"word": table.lookup(x)}, legacy_init_op=v1.tables_initializer())
    # As a builder writes it that is told of no assets.
    session.graph.clear_collection("saved_model_main_op")
    builder = v1.saved_model.Builder(str(base / "pathless"))
    builder.add_meta_graph_and_variables(session, ["serve"], {
        "serving_default": v1.saved_model.predict_signature_def({"x": x}, {"y": x})},
        main_op=v1.tables_initializer())
    builder.save()
run("optimize_v1", "optimize", base / "v1_words", base / "fast_v1_words")

from servable.export import export
export(Words(), base / "words", samples={"serving_default": {"x": [1, 2, 3]}})
number = tf.TensorSpec([None], tf.float32)
export(tf.function(lambda x: tf.debugging.check_numerics(1.0 / x, "oops"),
                   input_signature=[number]), base / "picky")
(base / "zero.json").write_text('{"serving_default": [{"x": [0.0]}]}')
run("version_fails", "export", base / "picky" / "1", base / "none", "--samples",
    base / "zero.json")
from servable.export.requests import request_log, write_logs
write_logs(base / "fails", [request_log("serving_default",
    "tensorflow/serving/predict", {"x": np.zeros(1, np.float32)})])
run("optimize_fails", "optimize", base / "picky", base / "fast_picky",
    "--requests", base / "fails")
(base / "labels.txt").unlink()
run("optimize_without_asset", "optimize", base / "pathless", base / "no_graph")
run("optimize_no_requests", "optimize", base / "words", base / "no_graph",
    "--requests", base / "samples.json")
incomplete = base / "incomplete"
shutil.copytree(base / "keras" / "1", incomplete)
(incomplete / "variables" / "variables.data-00000-of-00001").unlink()
run("optimize_incomplete", "optimize", incomplete, base / "no_graph")
run("optimize_words", "optimize", base / "words", base / "fast_words")
print(json.dumps({"ran": ran, "expected": model(np.array(images)).numpy().tolist()}))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def made(base: Path) -> Any:
    ran = subprocess.run(
        [sys.executable, "-c", MAKE, str(base)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert ran.returncode == 0, ran.stderr
    return {**json.loads(ran.stdout.splitlines()[-1]), "stderr": ran.stderr}


def predict(model: Path, **inputs: Any) -> Any:
    log = request_log("serving_default", "tensorflow/serving/predict", inputs)
    (answer,) = replay(model, [log])
    assert answer.error is None, answer.error
    return arrays_of(log, answer.response)


@pytest.mark.parametrize(
    ("name", "code", "output"),
    [
        pytest.param("export", 0, "/keras/1\n", id="a file of Keras"),
        pytest.param("again", 0, "/keras/2\n", id="its next version"),
        pytest.param("function", 0, "/function/1\n", id="a function"),
        pytest.param("republish", 0, "/copies/1\n", id="a SavedModel"),
        pytest.param("convert_keras", 0, "/from_keras\n", id="Keras without a base"),
        pytest.param("convert_graph", 0, "/from_graph\n", id="a frozen graph"),
        pytest.param("named", 0, "/named\n", id="a frozen graph, named"),
        pytest.param("convert_bundle", 0, "/from_bundle\n", id="a session bundle"),
        pytest.param("optimize", 0, "1 requests are answered the same\n", id="faster"),
        pytest.param(
            "optimize_fails", 0, "no answers were compared: ", id="none to compare"
        ),
        pytest.param("optimize_words", 0, "are answered the same\n", id="with a table"),
        pytest.param(
            "optimize_broken",
            1,
            "that are not in its graph: nowhere\n",
            id="a signature of nothing",
        ),
        pytest.param(
            "export_broken",
            1,
            "FAILED_PRECONDITION: {base}/broken cannot be served: signature "
            "'serving_default', output 'output_0': tensor 'nowhere:0' is not in the "
            "graph\n",
            id="a SavedModel with a signature of nothing",
        ),
        pytest.param(
            "export_untried",
            1,
            "FAILED_PRECONDITION: the model fails a sample for signature "
            "'serving_default': ",
            id="a SavedModel that does not answer what comes with it",
        ),
        pytest.param("optimize_again", 1, "fast exists already\n", id="over another"),
        pytest.param("not_keras", 1, "and no MODULE:NAME\n", id="another file"),
        pytest.param("broken", 1, "INVALID_ARGUMENT: Keras cannot read", id="no model"),
        pytest.param("no_function", 1, "has no attribute 'gone'\n", id="no function"),
        pytest.param("no_tensor", 1, "there is no tensor 'z'", id="no such tensor"),
        pytest.param("no_graph", 1, "it has no nodes\n", id="an empty graph"),
        pytest.param("no_format", 1, "UNIMPLEMENTED: ", id="another format"),
        pytest.param("unfrozen", 1, "not frozen: 'w' is a variable", id="no values"),
        pytest.param(
            "mine:raising",
            1,
            "INVALID_ARGUMENT: mine:raising: OSError: the data is not there (",
            id="a function that raises",
        ),
        pytest.param(
            "mine:wants",
            1,
            "INVALID_ARGUMENT: mine:wants: TypeError: wants() missing 1 required "
            "positional argument: 'data'\n",
            id="a function that wants something",
        ),
        pytest.param(
            "mine:misspelled",
            1,
            "INVALID_ARGUMENT: mine:misspelled: export has no argument 'sample'\n",
            id="an argument that export does not have",
        ),
        pytest.param(
            "of_features", 0, "/of_features/1\n", id="a function of a dict of features"
        ),
        pytest.param(
            "numbers",
            1,
            "it must have values by the names of inputs, and is 5\n",
            id="a sample that is no dict",
        ),
        pytest.param("unparsable:f", 1, "unparsable:f: SyntaxError: ", id="no module"),
        pytest.param(
            "model_fails",
            1,
            "input 'image' has shape [1], and must have [?, 6, 6, 2]\n",
            id="a sample that does not fit a file of Keras",
        ),
        pytest.param(
            "version_flat",
            1,
            "input 'image' has shape [1], and must have [?, 6, 6, 2]\n",
            id="a sample that does not fit a SavedModel",
        ),
        pytest.param(
            "version_fails",
            1,
            "FAILED_PRECONDITION: the model fails a sample for signature "
            "'serving_default': oops : Tensor had Inf values\n",
            id="a SavedModel that does not answer its sample",
        ),
        pytest.param(
            "damaged",
            1,
            "cannot be read: Unable to open table file ",
            id="a session bundle without values",
        ),
        pytest.param(
            "optimize_without_asset",
            1,
            "pathless cannot be loaded: ",
            id="a table whose file is gone",
        ),
        pytest.param(
            "optimize_no_requests",
            1,
            "DATA_LOSS: {base}/samples.json is no TFRecord file: ",
            id="requests that are none",
        ),
        pytest.param(
            "optimize_incomplete",
            1,
            "FAILED_PRECONDITION: {base}/incomplete is not complete: ",
            id="half a model",
        ),
    ],
)
def test_commands(made: Any, base: Path, name: str, code: int, output: str) -> None:
    exit_code, text = made["ran"][name]

    assert exit_code == code, text
    assert output.replace("{base}", str(base)) in text
    assert text.count("\n") <= 2, text


def test_what_commands_call_in_tensorflow_is_no_news_to_people(made: Any) -> None:
    assert "export/optimizing.py" not in made["stderr"]
    assert "export/converting.py" not in made["stderr"]


def test_what_failed_has_left_nothing(made: Any, base: Path) -> None:
    del made
    for name in ("no_tensor", "no_graph", "no_format", "none"):
        assert not (base / name).exists()
    assert [child.name for child in base.iterdir() if "servable-" in child.name] == []


def test_a_faster_model_has_no_variables_and_the_same_signatures(
    made: Any, base: Path
) -> None:
    del made
    (slow,) = summarize(base / "keras" / "1").meta_graphs
    (fast,) = summarize(base / "fast").meta_graphs

    names = {"FusedBatchNormV3", "Rsqrt", "Mul", "VarHandleOp", "ReadVariableOp"}
    assert names & set(slow.ops)
    assert names & set(fast.ops) == set()
    assert fast.signatures["serving_default"].inputs.keys() == {"image"}
    assert len(read_warmup(base / "fast")) == 1


@pytest.mark.parametrize(
    ("model", "inputs", "expected"),
    [
        pytest.param("from_graph", {"x": [1.0]}, {"y": [4.0]}, id="a frozen graph"),
        pytest.param("named", {"a": [1.0]}, {"b": [4.0]}, id="with other names"),
        pytest.param(
            "of_features/1",
            {name: np.array([at], np.float32) for at, name in enumerate("ab", 1)},
            {"sum": [3.0]},
            id="a function of a dict of features",
        ),
        pytest.param(
            "from_bundle",
            {"x": [1.0, 7.0]},
            {"y": [4.0, 28.0], "word": [b"one", b"?"]},
            id="a session bundle with a variable, an asset and an init op",
        ),
        pytest.param(
            "fast_v1_words",
            {"x": np.array([0, 1, 2])},
            {"word": [b"cat", b"dog", b"?"]},
            id="a faster model of version 1 with a table",
        ),
        pytest.param(
            "fast_words",
            {"x": np.array([1, 2, 3])},
            {"word": [b"cat", b"dog", b"?"]},
            id="a faster model with a table",
        ),
    ],
)
def test_what_was_made_answers(
    made: Any, base: Path, model: str, inputs: Any, expected: dict[str, Any]
) -> None:
    del made

    answers = predict(base / model, **inputs)

    assert {name: value.tolist() for name, value in answers.items()} == expected


def test_samples_go_along_with_a_saved_model(made: Any, base: Path) -> None:
    del made
    (log,) = read_warmup(base / "copies" / "1")

    image = make_ndarray(log.predict_log.request.inputs["image"])

    assert (image.shape, str(image.dtype)) == ((2, 6, 6, 2), "float32")


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine has more to tell."""
    monkeypatch.setattr(waiting, "_TOLD_EVERY_S", 3600.0)


def run_diff(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(diff, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_a_model_is_not_different_from_its_faster_self(made: Any, base: Path) -> None:
    del made

    assert run_diff(base / "keras" / "1", base / "fast") == (0, "")


def test_other_answers_are_a_difference(made: Any, base: Path) -> None:
    del made

    code, output = run_diff(base / "keras" / "1", base / "keras" / "2")

    assert code == 1
    assert "request 1, signature 'serving_default': output 'output_0': 4 of 4" in output


def test_other_signatures_are_a_difference(made: Any, base: Path) -> None:
    del made

    code, output = run_diff("--json", base / "from_graph", base / "named")

    assert code == 1
    assert json.loads(output)["contents"] == [
        "graph [serve], signature 'serving_default', input 'a' is new",
        "graph [serve], signature 'serving_default', input 'x' is gone",
        "graph [serve], signature 'serving_default', output 'b' is new",
        "graph [serve], signature 'serving_default', output 'y' is gone",
    ]


def test_a_signature_that_cannot_be_run_is_no_difference(made: Any, base: Path) -> None:
    del made
    broken = base / "unrunnable"
    shutil.copytree(base / "from_graph", broken)
    graph = broken / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(graph.read_bytes())
    signature = model.meta_graphs[0].signature_def["serving_default"]
    signature.outputs["y"].name = "nowhere:0"
    graph.write_bytes(model.SerializeToString())

    assert run_diff(base / "from_graph", broken) == (
        2,
        "no answers were compared: there are no requests\n"
        f"{broken}: signature 'serving_default', output 'y': "
        "tensor 'nowhere:0' is not in the graph\n",
    )


def test_a_model_that_cannot_be_opened_is_named(
    made: Any, base: Path, tmp_path: Path
) -> None:
    del made
    broken = tmp_path / "unopened"
    shutil.copytree(base / "keras" / "1", broken)
    (broken / "variables" / "variables.index").unlink()

    code, output = run_diff(base / "keras" / "1", broken)

    assert code == 2
    assert output.startswith(f"{broken} cannot be tried: ")


def test_what_is_no_model_has_no_difference(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(
        saved_model_pb2.SavedModel().SerializeToString()
    )

    nowhere = tmp_path / "nowhere"

    assert run_diff(nowhere, tmp_path) == (2, f"{nowhere} does not exist\n")
    assert run_diff(tmp_path, tmp_path, "--requests", nowhere) == (
        2,
        f"{nowhere} cannot be read: No such file or directory\n",
    )
    assert run_diff(tmp_path, tmp_path, "--atol", "nan") == (
        2,
        "atol must be 0 or more: nan\n",
    )


def test_that_nothing_was_asked_is_told(made: Any, base: Path) -> None:
    del made
    model, told = base / "from_graph", "no answers were compared: there are no requests"

    assert run_diff(model, model) == (0, f"{told}\n")
