"""From a model of today to a published version that answers as the model does."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from servable.cli.saved_model_summary import summarize
from servable.export.replay import replay
from servable.export.requests import read_warmup, request_log

pytest.importorskip("servable._engine")
pytest.importorskip("keras", reason="needs TensorFlow and Keras")

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.slow,
    pytest.mark.timeout(600),  # models are made before the first test
]

# All models are made by one process of their own, as whoever trains would: Keras and
# TensorFlow take seconds to import, and warn.
MAKE = """
import json, sys
from pathlib import Path
import keras, numpy as np, tensorflow as tf
from servable.errors import ServingError
from servable.export import Classify, Predict, Regress, decode_images, export

base, errors, done = Path(sys.argv[1]), {}, {}


def attempt(name, *args, **kwargs):
    try:
        done[name] = str(export(*args, base_path=base / name, **kwargs))
    except ServingError as error:
        errors[name] = error.status_text


keras.utils.set_random_seed(1)
model = keras.Sequential([
    keras.layers.Input((4,), name="x"),
    keras.layers.Dense(8, activation="relu"),
    keras.layers.BatchNormalization(),
    keras.layers.Dense(3, activation="softmax"),
])
X = np.arange(8, dtype=np.float32).reshape(2, 4) / 8
spec = {"x": tf.io.FixedLenFeature([4], tf.float32)}
(base / "labels.txt").write_text("cat\\ndog\\nfish\\n")
rows = [{"x": row.tolist()} for row in X]

attempt("keras", model, samples={"serving_default": [{"x": X}]}, batching={
    "max_batch_size": 8, "allowed_batch_sizes": [4, 8]})
attempt("all_methods", model, signatures={
    "serving_default": Classify(spec, classes=base / "labels.txt"),
    "scores": Classify(spec),
    "named": Classify(spec, classes=["a", "b", "c"]),
    "regress": Regress(spec, lambda features: model(features["x"])[:, 0]),
    "predict": Predict(),
}, samples={
    "serving_default": [rows], "scores": [rows], "named": [rows], "regress": [rows],
    "predict": {"x": X},
}, assets_extra={"notes.txt": base / "labels.txt"})

images = keras.Sequential([
    keras.layers.Input((4, 4, 3)),
    keras.layers.Flatten(),
    keras.layers.Dense(2),
])
png = tf.io.encode_png(np.full((8, 8, 3), 128, np.uint8)).numpy()
(base / "image.png").write_bytes(png)
attempt("images", images, signatures={"serving_default": Predict(
    inputs={"image_bytes": tf.TensorSpec([None], tf.string)},
    preprocess=decode_images((4, 4)),
)}, samples={"serving_default": [{"image_bytes": [png, png]}]})


class Counts(tf.Module):
    def __init__(self):
        self.two = tf.Variable(2.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="ignored")])
    def __call__(self, x):
        return {"y": x * self.two}


counts = Counts()
attempt("module", counts, samples={"serving_default": [{"x": [1.0, 3.0]}]})
hidden = tf.Variable(5.0)


@tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
def add(x):
    return x + hidden


attempt("functions", {"serving_default": add, "other": counts.__call__},
        samples={"serving_default": [{"x": 1.0}]})
count = tf.Variable(0.0)
attempt("counter", lambda x: x + count.assign_add(1.0), signatures={
    "serving_default": Predict(inputs={"x": tf.TensorSpec([None], tf.float32)})},
    samples={"serving_default": [{"x": [1.0, 2.0]}]})


class Holder(tf.Module):
    def __init__(self):
        self.model = model

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32)])
    def __call__(self, x):
        return self.model(x)


attempt("holder", Holder(), samples={"serving_default": [{"x": X}]})
attempt("python", lambda x: tf.py_function(lambda v: v, [x], tf.float32), signatures={
    "serving_default": Predict(inputs={"x": tf.TensorSpec([None], tf.float32)})},
    samples={"serving_default": [{"x": [1.0]}]})
attempt("unasked_python", lambda x: tf.numpy_function(lambda v: v, [x], tf.float32),
        signatures={"serving_default": Predict(
            inputs={"x": tf.TensorSpec([None], tf.float32)})})
attempt("flat", model, samples={"serving_default": [{"x": [1.0]}]})
attempt("fails", lambda x: tf.debugging.check_numerics(1.0 / x, "oops"), signatures={
    "serving_default": Predict(inputs={"x": tf.TensorSpec([None], tf.float32)})},
    samples={"serving_default": [{"x": [0.0]}]})
attempt("few_names", model, signatures={"c": Classify(spec, classes=["a", "b"])})
(base / "many.txt").write_text("a\\nb\\nc\\nd\\n")
many = Classify(spec, classes=base / "many.txt")
attempt("many_names", model, signatures={"c": many})


def untraceable(x):
    raise RuntimeError("not today")


attempt("untraceable", untraceable, signatures={"serving_default": Predict(
    inputs={"x": tf.TensorSpec([None], tf.float32)})})
attempt("no_inputs", lambda x: x)
attempt("no_model", 3)
attempt("no_signature", add, samples={"other": [{"x": 1.0}]})
attempt("lacks_input", add, samples={"serving_default": [{"z": 1.0}]})
attempt("bad_batching", add, batching={"max_batch_sizes": 3})
attempt("outside", add, assets_extra={"../x": __file__ if "__file__" in dir() else ""})
attempt("no_names", model, signatures={"c": Classify(spec, classes=base / "gone.txt")})
expected = model(X).numpy().tolist()
print(json.dumps({"done": done, "errors": errors, "expected": expected}))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def made(base: Path) -> Any:
    command = [sys.executable, "-c", MAKE, str(base)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        pytest.param("keras", {"serving_default": "predict"}, id="a Keras model"),
        pytest.param(
            "all_methods",
            {
                "serving_default": "classify",
                "scores": "classify",
                "named": "classify",
                "regress": "regress",
                "predict": "predict",
            },
            id="every method",
        ),
        pytest.param("images", {"serving_default": "predict"}, id="images as files"),
        pytest.param("module", {"serving_default": "predict"}, id="a tf.Module"),
        pytest.param(
            "holder", {"serving_default": "predict"}, id="a module with a Keras model"
        ),
        pytest.param(
            "functions",
            {"serving_default": "predict", "other": "predict"},
            id="functions with variables of their own",
        ),
    ],
)
def test_what_is_exported_has_its_signatures(
    made: Any, name: str, methods: dict[str, str]
) -> None:
    assert name in made["done"], made["errors"].get(name)
    (meta_graph,) = summarize(Path(made["done"][name])).meta_graphs
    found = {
        key: signature.method_name.removeprefix("tensorflow/serving/")
        for key, signature in meta_graph.signatures.items()
        if not key.startswith("__")
    }

    assert Path(made["done"][name]).name == "1"
    assert found == methods


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(
            "counter",
            "FAILED_PRECONDITION: the exported model answers otherwise than the model "
            "does, for signature 'serving_default': output 'output_0': 2 of 2 numbers",
            id="a model that never answers the same",
        ),
        pytest.param(
            "python",
            "FAILED_PRECONDITION: the exported model cannot be served: it calls "
            "Python, by EagerPyFunc,",
            id="a model that needs this process",
        ),
        pytest.param(
            "unasked_python",
            "FAILED_PRECONDITION: the exported model cannot be served: it calls "
            "Python, by PyFunc,",
            id="a model that needs this process and is not asked",
        ),
        pytest.param(
            "fails",
            "INVALID_ARGUMENT: the model itself fails a sample for signature "
            "'serving_default': oops : Tensor had Inf values",
            id="a sample that the model does not answer",
        ),
        pytest.param(
            "flat",
            "INVALID_ARGUMENT: a sample for signature 'serving_default' cannot be "
            "sent: input 'x' has shape [1], and must have [?, 4]",
            id="a sample of another shape",
        ),
        pytest.param(
            "few_names",
            "INVALID_ARGUMENT: signature 'c' has scores for 3 classes, and 2 names",
            id="a class without a name",
        ),
        pytest.param(
            "many_names",
            "INVALID_ARGUMENT: signature 'c' has scores for 3 classes, and 4 names",
            id="a file with more names than classes",
        ),
        pytest.param(
            "untraceable",
            "FAILED_PRECONDITION: the model cannot be written: not today",
            id="a model that raises when it is traced",
        ),
        pytest.param(
            "no_inputs",
            "INVALID_ARGUMENT: signature 'serving_default' does not say what its "
            "inputs are",
            id="a function of anything",
        ),
        pytest.param(
            "no_model",
            "INVALID_ARGUMENT: a Keras model, a tf.Module, a function or a dict of "
            "functions can be exported, and this is int",
            id="a number",
        ),
        pytest.param(
            "no_signature",
            "INVALID_ARGUMENT: there are samples for 'other', and no signature",
            id="samples for nothing",
        ),
        pytest.param(
            "lacks_input",
            "INVALID_ARGUMENT: a sample for signature 'serving_default' lacks ['x']",
            id="a sample without an input",
        ),
        pytest.param(
            "bad_batching",
            "INVALID_ARGUMENT: BatchingParameters have no field 'max_batch_sizes'",
            id="a batching parameter that does not exist",
        ),
        pytest.param(
            "outside",
            "INVALID_ARGUMENT: assets_extra names '../x', which is outside",
            id="a file that would go elsewhere",
        ),
        pytest.param(
            "no_names",
            "INVALID_ARGUMENT: signature 'c': there is no file",
            id="names of classes in a file that is gone",
        ),
    ],
)
def test_what_cannot_be_served_is_not_published(
    made: Any, base: Path, name: str, message: str
) -> None:
    assert made["errors"][name].startswith(message)
    assert not (base / name).exists()


def test_samples_go_along_as_warm_up(made: Any) -> None:
    path = Path(made["done"]["all_methods"])

    kinds = [log.WhichOneof("log_type") for log in read_warmup(path)]

    assert kinds == ["classify_log"] * 3 + ["regress_log", "predict_log"]
    assert (path / "assets.extra" / "notes.txt").read_text().startswith("cat")
    assert (path / "assets" / "labels.txt").read_text().startswith("cat")


def test_batching_parameters_go_along(made: Any) -> None:
    text = (Path(made["done"]["keras"]) / "batching_params.pbtxt").read_text()

    assert "max_batch_size {\n  value: 8\n}" in text
    assert "allowed_batch_sizes: 4" in text


def test_an_image_is_asked_for_as_its_file(made: Any, base: Path) -> None:
    data = (base / "image.png").read_bytes()
    log = request_log(
        "serving_default", "tensorflow/serving/predict", {"image_bytes": [data]}
    )

    (answer,) = replay(Path(made["done"]["images"]), [log])

    assert answer.error is None
    assert base64.b64encode(answer.response)
