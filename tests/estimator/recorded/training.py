"""
Models that are trained here and were trained by tf.estimator, from the same start.

    python training.py > training.json

records, with tensorflow-cpu 2.15.1 and tensorflow-estimator 2.15.0, what the tests
compare with.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from typing import Any, Final

import numpy as np

X: Final = np.array(
    [
        [1, 2, 3, 4],
        [0.5, -1, 0, 2],
        [2, 0, -1, 1],
        [0, 1, 1, -2],
        [1, -1, 2, 0.5],
        [3, 1, 0, 1],
    ],
    np.float32,
)
WEIGHTS: Final = np.array([1, 2, 0.5, 1, 0, 3], np.float32)
TWO: Final = np.array([0, 1, 1, 0, 1, 0])
THREE: Final = np.array([0, 1, 2, 1, 2, 0])
NAMES: Final = np.array(["a", "b", "c", "b", "a", "c"])
NUMBERS: Final = np.array([0.5, 1.5, -1, 2, 0, 1], np.float32)
LABELS: Final = np.array(
    [[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]]
)
COLORS: Final = {
    "age": np.array([3, 20, 50, 18, 40, 39], np.float32),
    "color": np.array(["r", "g", "b", "z", "r", "g"]),
}
STEPS: Final = 4


def columns(tf: Any) -> list[Any]:
    """Return the column of X."""
    return [tf.feature_column.numeric_column("x", [4])]


def color_columns(tf: Any) -> list[Any]:
    """Return the columns of COLORS."""
    column = tf.feature_column
    return [
        column.bucketized_column(column.numeric_column("age"), [18, 40]),
        column.categorical_column_with_vocabulary_list("color", ["r", "g", "b"]),
    ]


def dnn(size: int) -> dict[str, list[int]]:
    """Return the variables of a DNN of five units, and their shapes."""
    return {
        "dnn/hiddenlayer_0/kernel": [4, 5],
        "dnn/hiddenlayer_0/bias": [5],
        "dnn/logits/kernel": [5, size],
        "dnn/logits/bias": [size],
    }


def linear(size: int) -> dict[str, list[int]]:
    """Return the variables of a linear model, and their shapes."""
    return {
        "linear/linear_model/x/weights": [4, size],
        "linear/linear_model/bias_weights": [size],
    }


def two_classes(tf: Any, est: Any, folder: str) -> Any:
    """Weighted examples of two classes."""

    def make(start: Any) -> Any:
        return est.DNNClassifier(
            [5], columns(tf), folder, weight_column="w", warm_start_from=start
        )

    return _canned(tf, est, folder, make, dnn(1), TWO, {"w": WEIGHTS})


def named_classes(tf: Any, est: Any, folder: str) -> Any:
    """Classes with names, and the mean of the losses."""

    def make(start: Any) -> Any:
        return est.DNNClassifier(
            [5],
            columns(tf),
            folder,
            n_classes=3,
            label_vocabulary=["a", "b", "c"],
            weight_column="w",
            loss_reduction=tf.losses.Reduction.MEAN,
            warm_start_from=start,
        )

    return _canned(tf, est, folder, make, dnn(3), NAMES, {"w": WEIGHTS})


def normalized(tf: Any, est: Any, folder: str) -> Any:
    """Batch normalization."""

    def make(start: Any) -> Any:
        return est.DNNClassifier(
            [5], columns(tf), folder, batch_norm=True, warm_start_from=start
        )

    return _canned(tf, est, folder, make, dnn(1), TWO, which=".*(kernel|bias)")


def wide(tf: Any, est: Any, folder: str) -> Any:
    """A linear model of categories."""

    def make(start: Any) -> Any:
        return est.LinearClassifier(color_columns(tf), folder, warm_start_from=start)

    shapes = {
        "linear/linear_model/age_bucketized/weights": [3, 1],
        "linear/linear_model/color/weights": [3, 1],
        "linear/linear_model/bias_weights": [1],
    }
    return _canned(tf, est, folder, make, shapes, TWO, COLORS)


def wide_and_deep(tf: Any, est: Any, folder: str) -> Any:
    """Both parts, each with an optimizer of its own."""

    def make(start: Any) -> Any:
        return est.DNNLinearCombinedClassifier(
            folder,
            linear_feature_columns=columns(tf),
            linear_optimizer="SGD",
            dnn_feature_columns=columns(tf),
            dnn_optimizer="Adam",
            dnn_hidden_units=[5],
            n_classes=3,
            warm_start_from=start,
        )

    return _canned(tf, est, folder, make, {**dnn(3), **linear(3)}, THREE)


def two_numbers(tf: Any, est: Any, folder: str) -> Any:
    """A regression with two labels."""

    def make(start: Any) -> Any:
        return est.DNNRegressor(
            [5], columns(tf), folder, label_dimension=2, warm_start_from=start
        )

    labels = np.stack([NUMBERS, NUMBERS * 2], 1)
    return _canned(tf, est, folder, make, dnn(2), labels)


def baseline(tf: Any, est: Any, folder: str) -> Any:
    """The model that ignores its features."""

    def make(_: Any) -> Any:
        return est.BaselineClassifier(folder, n_classes=3, weight_column="w")

    return _canned(tf, est, folder, make, {}, THREE, {"w": WEIGHTS})


def binary_head(tf: Any, est: Any, folder: str) -> Any:
    """A head with a name and thresholds."""

    def head() -> Any:
        return est.BinaryClassHead(
            thresholds=[0.2, 0.9], weight_column="w", loss_reduction="sum", name="h"
        )

    return _head(tf, est, folder, head, 1, TWO)


def label_head(tf: Any, est: Any, folder: str) -> Any:
    """Any number of classes, some of them with metrics of their own."""

    def head() -> Any:
        return est.MultiLabelHead(
            3,
            weight_column="w",
            thresholds=[0.3],
            label_vocabulary=["a", "b", "c"],
            classes_for_class_based_metrics=["a", "c"],
        )

    return _head(tf, est, folder, head, 3, LABELS)


def heads(tf: Any, est: Any, folder: str) -> Any:
    """Two heads, weighted, and a regularization loss."""

    def head() -> Any:
        return est.MultiHead(
            [est.MultiClassHead(3, name="kind"), est.RegressionHead(name="size")],
            head_weights=[2.0, 0.5],
        )

    labels = {"kind": THREE, "size": NUMBERS * 0.1}
    return _head(tf, est, folder, head, 4, labels, regularization=1.5)


CASES: Final[dict[str, Callable[[Any, Any, str], Any]]] = {
    function.__name__: function
    for function in (
        two_classes,
        named_classes,
        normalized,
        wide,
        wide_and_deep,
        two_numbers,
        baseline,
        binary_head,
        label_head,
        heads,
    )
}


def _values(shape: list[int], seed: float) -> Any:
    number = int(np.prod(shape))
    values = np.sin(np.arange(number) * 0.37 + seed) * 1.5 + 0.25
    return values.astype(np.float32).reshape(shape)


def _canned(
    tf: Any,
    est: Any,
    folder: str,
    make: Callable[[Any], Any],
    shapes: dict[str, list[int]],
    labels: Any,
    features: dict[str, Any] | None = None,
    which: str = ".*",
) -> Any:
    start = None
    if shapes:
        with tf.Graph().as_default(), tf.Session() as session:
            for number, (name, shape) in enumerate(shapes.items()):
                value = tf.constant(_values(shape, number * 0.3))
                tf.get_variable(name, initializer=value)
            session.run(tf.global_variables_initializer())
            path = f"{folder}-start/model"
            start = est.WarmStartSettings(tf.train.Saver().save(session, path), which)
    return _observe(tf, make(start), {"x": X, **(features or {})}, labels)


def _head(
    tf: Any,
    est: Any,
    folder: str,
    make_head: Callable[[], Any],
    size: int,
    labels: Any,
    regularization: float | None = None,
) -> Any:
    def model_fn(features: Any, labels: Any, mode: str) -> Any:
        kernel = tf.get_variable("kernel", initializer=_values([4, size], 0.1))
        optimizer = tf.train.GradientDescentOptimizer(0.1)
        extra = None if regularization is None else [tf.constant(regularization)]
        return make_head().create_estimator_spec(
            features,
            mode,
            tf.matmul(features["x"], kernel),
            labels=labels,
            train_op_fn=lambda loss: optimizer.minimize(
                loss, global_step=tf.train.get_global_step()
            ),
            regularization_losses=extra,
        )

    return _observe(tf, est.Estimator(model_fn, folder), {"x": X, "w": WEIGHTS}, labels)


def _observe(tf: Any, model: Any, features: dict[str, Any], labels: Any) -> Any:
    def once() -> Any:
        return tf.data.Dataset.from_tensor_slices((features, labels)).batch(4)

    model.train(lambda: once().repeat(), steps=STEPS)
    metrics = model.evaluate(once)
    predictions = [
        {str(key): _plain(value) for key, value in prediction.items()}
        for prediction in model.predict(once)
    ]
    return {
        "metrics": {key: float(value) for key, value in metrics.items()},
        "predictions": predictions,
        "variables": {
            name: _plain(np.asarray(model.get_variable_value(name), np.float64))
            for name in model.get_variable_names()
        },
    }


def _plain(value: Any) -> Any:
    plain = value.tolist()
    if isinstance(plain, list):
        return [_plain(np.asarray(element)) for element in plain]
    return plain.decode() if isinstance(plain, bytes) else plain


if __name__ == "__main__":
    import tensorflow.compat.v1 as recorded_tf

    recorded_tf.disable_v2_behavior()
    observed = {
        name: case(recorded_tf, recorded_tf.estimator, f"{tempfile.mkdtemp()}/{name}")
        for name, case in CASES.items()
    }
    json.dump(observed, sys.stdout, sort_keys=True)
    sys.stdout.write("\n")
