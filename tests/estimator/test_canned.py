"""Canned models and layers: the names of their variables, and what they serve."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="needs TensorFlow").compat.v1

from servable import estimator  # noqa: E402
from servable.estimator import layers  # noqa: E402

pytestmark = pytest.mark.tensorflow
LABELS = ["low", "mid", "high"]


def columns() -> list[Any]:
    return [tf.feature_column.numeric_column("x", [4])]


DNN = {
    "dnn/hiddenlayer_0/bias",
    "dnn/hiddenlayer_0/kernel",
    "dnn/logits/bias",
    "dnn/logits/kernel",
}
LINEAR = {"linear/linear_model/bias_weights", "linear/linear_model/x/weights"}
CLASSES = {"serving_default", "classification", "predict"}
NUMBERS = {"serving_default", "regression", "predict"}


@pytest.mark.parametrize(
    ("make", "labels", "variables", "signatures"),
    [
        pytest.param(
            lambda d: estimator.DNNClassifier([3], columns(), d, batch_norm=True),
            [0, 1],
            DNN
            | {
                f"dnn/hiddenlayer_0/batchnorm_0/{name}"
                for name in ("beta", "gamma", "moving_mean", "moving_variance")
            },
            CLASSES | NUMBERS,
            id="a DNN of two classes, normalized",
        ),
        pytest.param(
            lambda d: estimator.DNNRegressor([3], columns(), d, dropout=0.1),
            [0.5, 1.5],
            DNN,
            NUMBERS,
            id="a DNN for numbers",
        ),
        pytest.param(
            lambda d: estimator.LinearClassifier(columns(), d, 3, None, LABELS),
            ["low", "high"],
            LINEAR,
            CLASSES,
            id="a linear model of named classes",
        ),
        pytest.param(
            lambda d: estimator.DNNLinearCombinedClassifier(
                d,
                linear_feature_columns=columns(),
                dnn_feature_columns=columns(),
                dnn_hidden_units=[3],
                n_classes=3,
            ),
            [0, 2],
            DNN | LINEAR,
            CLASSES,
            id="wide and deep",
        ),
    ],
)
def test_from_training_to_a_served_answer(
    tmp_path: Path,
    small: SimpleNamespace,
    make: Callable[[Path], Any],
    labels: list[Any],
    variables: set[str],
    signatures: set[str],
) -> None:
    model = make(tmp_path / "model")
    fed = estimator.inputs.numpy_input_fn(
        {"x": small.x}, np.array(labels), num_epochs=None, shuffle=False, batch_size=2
    )
    model.train(fed, steps=2)
    spec = tf.feature_column.make_parse_example_spec(columns())

    path = model.export_savedmodel(
        tmp_path / "exports",
        estimator.export.build_parsing_serving_input_receiver_fn(spec),
    )

    slots = ("Adagrad", "Ftrl", "Ftrl_1", "global_step")
    names = {n for n in model.get_variable_names() if n.rpartition("/")[2] not in slots}
    assert names == variables
    assert set(small.signatures_of(path)) == signatures
    examples = [example(row) for row in small.x]
    answers = small.ask(path, {"examples": examples}, "predict")
    asked = estimator.inputs.numpy_input_fn({"x": small.x}, shuffle=False)
    for key in ("probabilities", "predictions"):
        if key in answers:
            predicted = [p[key] for p in model.predict(asked)]
            np.testing.assert_allclose(answers[key], predicted, rtol=1e-5)
    assert model.evaluate(fed, steps=1)["loss"] > 0


def example(row: Any) -> bytes:
    floats = tf.train.FloatList(value=row)
    features = tf.train.Features(feature={"x": tf.train.Feature(float_list=floats)})
    data: bytes = tf.train.Example(features=features).SerializeToString()
    return data


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda: estimator.DNNLinearCombinedClassifier(),
            "Either linear_feature_columns or dnn_feature_columns must be defined.",
            id="no columns",
        ),
        pytest.param(
            lambda: estimator.DNNLinearCombinedClassifier(dnn_feature_columns=[1]),
            "dnn_hidden_units must be defined",
            id="a DNN without layers",
        ),
        pytest.param(
            lambda: estimator.MultiClassHead(2),
            "n_classes must be > 2",
            id="two of many",
        ),
        pytest.param(
            lambda: estimator.MultiClassHead(3, label_vocabulary=["a"]),
            '"label_vocabulary" does not have "n_classes" items',
            id="too few names",
        ),
        pytest.param(
            lambda: estimator.MultiHead([]),
            "Must specify heads",
            id="no heads",
        ),
        pytest.param(
            lambda: estimator.MultiHead([estimator.RegressionHead()]),
            "must have name specified",
            id="a head without a name among several",
        ),
        pytest.param(
            lambda: estimator.MultiHead([estimator.RegressionHead(name="a")], [1, 2]),
            "must have the same size",
            id="more weights than heads",
        ),
        pytest.param(
            lambda: estimator.BinaryClassHead(thresholds=[1.5]),
            "thresholds not in",
            id="a threshold that is no probability",
        ),
        pytest.param(
            lambda: estimator.MultiLabelHead(1),
            "n_classes must be > 1",
            id="one label of many",
        ),
        pytest.param(
            lambda: estimator.MultiLabelHead(3, classes_for_class_based_metrics=[3]),
            r"must be in range \[0, 2\]",
            id="metrics of a class that is not there",
        ),
        pytest.param(
            lambda: estimator.RegressionHead(loss_reduction="foo"),
            "Invalid loss_reduction: foo",
            id="an unknown reduction",
        ),
        pytest.param(
            lambda: estimator.RegressionHead(loss_fn=lambda labels: labels),
            "loss_fn must contain argument: logits",
            id="a loss without logits",
        ),
        pytest.param(
            lambda: estimator.WarmStartSettings(""),
            "MUST be set",
            id="a warm start from nowhere",
        ),
    ],
)
def test_models_that_cannot_be(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


HEADS = estimator.MultiHead(
    [estimator.MultiClassHead(3, name="a"), estimator.RegressionHead(name="b")]
)


@pytest.mark.parametrize(
    ("head", "logits", "labels", "message"),
    [
        pytest.param(
            estimator.MultiClassHead(3), [3], None, "must provide a labels", id="none"
        ),
        pytest.param(
            estimator.MultiClassHead(3), [3], [[0.5]], "should be integer", id="a float"
        ),
        pytest.param(
            estimator.MultiClassHead(3, label_vocabulary=["x", "y", "z"]),
            [3],
            [[1]],
            "should be string",
            id="a number where classes have names",
        ),
        pytest.param(
            estimator.RegressionHead(2),
            [2],
            [[1.0]],
            "Expected labels dimension=2",
            id="one of two numbers",
        ),
        pytest.param(
            estimator.RegressionHead(), [2], [[1.0]], "logits shape", id="a logit more"
        ),
        pytest.param(HEADS, [3], {}, "Could not split logits", id="too few for two"),
        pytest.param(
            estimator.RegressionHead(),
            [],
            [[1]],
            "must have rank at least 2.  Received rank 1, shape",
            id="logits without a batch",
        ),
        pytest.param(
            HEADS,
            [4],
            {"a": tf.constant([[1]])},
            "labels has missing values",
            id="one of two heads",
        ),
        pytest.param(HEADS, [4], [[1]], "labels must be a dict", id="no dict for two"),
    ],
)
def test_what_heads_refuse(
    head: Any, logits: list[int], labels: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        head.create_estimator_spec({}, "eval", tf.zeros([1, *logits]), labels=labels)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(estimator.RegressionHead(), id="numbers"),
        pytest.param(estimator.BinaryClassHead(), id="classes"),
    ],
)
def test_labels_are_not_sparse(head: Any) -> None:
    labels = tf.sparse_placeholder(tf.int64, [None, 1])

    with pytest.raises(ValueError, match="SparseTensor labels are not supported"):
        head.create_estimator_spec({}, "eval", tf.zeros([1, 1]), labels=labels)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        pytest.param([None, 2, 3], tf.float32, id="of more dimensions"),
        pytest.param(None, tf.float32, id="of unknown shape"),
        pytest.param([None, 3], tf.float64, id="of another type"),
    ],
)
def test_logits_that_a_head_takes(shape: list[int] | None, kind: Any) -> None:
    logits = tf.placeholder(kind, shape)

    spec = estimator.MultiClassHead(3).create_estimator_spec({}, "infer", logits)

    probabilities = spec.predictions["probabilities"]
    assert probabilities.dtype == tf.float32
    assert probabilities.shape.rank == logits.shape.rank


@pytest.fixture
def _shapes_of_version_1() -> Iterator[None]:
    tf.disable_v2_tensorshape()
    yield
    tf.enable_v2_tensorshape()


@pytest.mark.usefixtures("_shapes_of_version_1")
@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        pytest.param([None, 3], [None, None], id="of labels"),
        pytest.param([None, None], [None, 1], id="of logits"),
    ],
)
def test_a_head_need_not_know_the_last_dimension(
    logits: list[int | None], labels: list[int | None]
) -> None:
    spec = estimator.MultiClassHead(3).create_estimator_spec(
        {},
        "eval",
        tf.placeholder(tf.float32, logits),
        tf.placeholder(tf.int64, labels),
    )

    assert spec.loss.shape.rank == 0


@pytest.mark.usefixtures("_shapes_of_version_1")
def test_an_unknown_last_dimension_is_named() -> None:
    with pytest.raises(ValueError, match="the last dimension of inputs must be known"):
        layers.dense(tf.placeholder(tf.float32, [None, None]), 3)


def test_only_the_variables_of_columns_are_partitioned(tmp_path: Path) -> None:
    colors = tf.feature_column.categorical_column_with_identity("color", 4)
    model = estimator.DNNRegressor(
        [3],
        [tf.feature_column.embedding_column(colors, 2)],
        tmp_path,
        input_layer_partitioner=tf.fixed_size_partitioner(2),
    )
    tf.train.create_global_step()

    model.model_fn({"color": tf.constant([[1]])}, None, "infer", model.config)

    parts = {v.op.name for v in tf.global_variables() if v.op.name.endswith("part_1")}
    assert parts == {
        "dnn/input_from_feature_columns/input_layer/color_embedding/"
        "embedding_weights/part_1"
    }


def test_operations_of_a_layer_in_its_own_scope_have_its_name_once() -> None:
    with tf.variable_scope("logits") as scope:
        out = layers.dense(tf.zeros([1, 2]), 3, name=scope)

    assert out.op.name == "logits/BiasAdd"


def test_layers_name_their_variables_as_ever() -> None:
    images = tf.placeholder(tf.float32, [None, 8, 8, 3])
    net = layers.conv2d(images, 4, 3, padding="same", activation=tf.nn.relu)
    net = layers.batch_normalization(net, training=True)
    net = layers.max_pooling2d(net, 2, 2)
    net = layers.dense(layers.flatten(net), 5)
    with tf.variable_scope("head"):
        net = layers.dense(net, 2)
        net = layers.dense(layers.dropout(net, training=True), 2)

    assert net.shape.as_list() == [None, 2]
    assert [v.op.name for v in tf.global_variables()] == [
        "conv2d/kernel",
        "conv2d/bias",
        "batch_normalization/gamma",
        "batch_normalization/beta",
        "batch_normalization/moving_mean",
        "batch_normalization/moving_variance",
        "dense/kernel",
        "dense/bias",
        "head/dense/kernel",
        "head/dense/bias",
        "head/dense_1/kernel",
        "head/dense_1/bias",
    ]
    assert len(tf.get_collection(tf.GraphKeys.UPDATE_OPS)) == 2


@pytest.mark.parametrize("shape", [(6, 2), (2, 3, 3, 2)], ids=["rows", "images"])
def test_batches_are_normalized_and_remembered(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)
    is_training = tf.placeholder_with_default(False, [])
    out = layers.batch_normalization(
        tf.constant(values), momentum=0.5, training=is_training
    )
    updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    (mean,) = [v for v in tf.global_variables() if "mean" in v.name]

    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        untrained = session.run(out)
        trained, _ = session.run([out, updates], {is_training: True})
        remembered = session.run(mean)

    channels = tuple(range(len(shape) - 1))
    np.testing.assert_allclose(untrained, values / np.sqrt(1.001), rtol=1e-4)
    np.testing.assert_allclose(trained.mean(channels), 0, atol=1e-5)
    np.testing.assert_allclose(remembered, values.mean(channels) / 2, rtol=1e-4)


def test_the_remembered_variance_of_images_is_that_of_a_sample() -> None:
    values = np.random.default_rng(0).normal(3, 2, (2, 2, 2, 1)).astype(np.float32)
    for fused in (True, False):
        layers.batch_normalization(
            tf.constant(values), momentum=0.0, training=True, fused=fused
        )
    variances = [v for v in tf.global_variables() if "variance" in v.name]

    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(tf.get_collection(tf.GraphKeys.UPDATE_OPS))
        of_sample, of_all = session.run(variances)

    np.testing.assert_allclose(of_sample, [values.var(ddof=1)], rtol=1e-4)
    np.testing.assert_allclose(of_all, [values.var()], rtol=1e-4)


def test_statistics_that_are_not_trained_stay() -> None:
    layers.batch_normalization(tf.zeros([2, 3]), training=True, trainable=False)

    assert tf.get_collection(tf.GraphKeys.UPDATE_OPS) == []


@pytest.mark.parametrize(
    ("activation", "expected"), [("relu", [[0.0, 2.0]]), ("linear", [[-1.0, 2.0]])]
)
def test_activations_may_be_named(activation: str, expected: list[list[float]]) -> None:
    out = layers.dense(
        tf.constant([[-1.0, 2.0]]),
        2,
        activation,
        kernel_initializer=tf.constant_initializer(np.eye(2)),
    )

    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        assert session.run(out).tolist() == expected


@pytest.mark.parametrize("shape", [[None, None], None], ids=["rows", "anything"])
def test_a_layer_has_to_know_how_many_inputs_it_has(shape: list[None] | None) -> None:
    with pytest.raises(ValueError, match="the last dimension of inputs must be known"):
        layers.dense(tf.placeholder(tf.float32, shape), 3)


def test_what_is_installed_is_found_again() -> None:
    estimator.install(tf)

    assert tf.estimator is estimator
    assert tf.layers.dense(tf.zeros([1, 2]), 3).shape.as_list() == [1, 3]
    with pytest.raises(AttributeError, match="StaticHashTable"):
        _ = tf.contrib.lookup


def test_a_layer_that_is_not_here_says_which_are() -> None:
    there = [name for name in vars(layers) if callable(getattr(layers, name))]
    there = [n for n in there if getattr(layers, n).__module__ == layers.__name__]

    with pytest.raises(AttributeError, match=r"conv1d is not here") as raised:
        layers.conv1d  # noqa: B018 - as scripts would

    for name in there:
        assert name.startswith("_") or name in str(raised.value)
