"""What a spec needs in each mode, and what it says of what does not fit."""

from collections.abc import Callable
from typing import Any

import pytest

tf = pytest.importorskip("tensorflow", reason="needs TensorFlow").compat.v1

from servable.estimator import EstimatorSpec, ModeKeys  # noqa: E402

pytestmark = pytest.mark.tensorflow


def one() -> Any:
    return tf.constant([1.0], name="one")


def elsewhere() -> Any:
    with tf.Graph().as_default():
        return tf.constant([1.0], name="elsewhere")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        pytest.param(
            lambda: EstimatorSpec("train", loss=one()),
            ValueError,
            "Missing train_op.",
            id="training without an op",
        ),
        pytest.param(
            lambda: EstimatorSpec("train", train_op=tf.no_op()),
            ValueError,
            "Missing loss.",
            id="training without a loss",
        ),
        pytest.param(
            lambda: EstimatorSpec("train", loss=one(), train_op=tf.sparse.eye(1)),
            TypeError,
            "train_op must be Operation or Tensor, given: SparseTensor(",
            id="a train op that is a sparse tensor",
        ),
        pytest.param(
            lambda: EstimatorSpec("eval"), ValueError, "Missing loss.", id="evaluation"
        ),
        pytest.param(
            lambda: EstimatorSpec("infer"),
            ValueError,
            "Missing predictions.",
            id="prediction without predictions",
        ),
        pytest.param(
            lambda: EstimatorSpec("infer", predictions={"a": 3}),
            TypeError,
            "predictions[a] must be Tensor, given: 3",
            id="a prediction that is a number",
        ),
        pytest.param(
            lambda: EstimatorSpec("eval", loss=tf.constant([1.0, 2.0])),
            ValueError,
            "Loss must be scalar, given: Tensor(",
            id="a loss of two elements",
        ),
        pytest.param(
            lambda: EstimatorSpec("infer", predictions=elsewhere()),
            ValueError,
            'prediction values with "elsewhere:0" must be from the default graph.',
            id="a prediction of another graph",
        ),
        pytest.param(
            lambda: EstimatorSpec("eval", loss=one(), eval_metric_ops={"a": 3}),
            TypeError,
            "Values of eval_metric_ops must be (metric_value, update_op) tuples",
            id="a metric that is a number",
        ),
        pytest.param(
            lambda: EstimatorSpec("infer", predictions=one(), scaffold=3),
            TypeError,
            "scaffold must be tf.train.Scaffold. Given: 3",
            id="a scaffold that is a number",
        ),
        pytest.param(
            lambda: EstimatorSpec("infer", predictions=one(), prediction_hooks=[3]),
            TypeError,
            "All hooks must be SessionRunHook instances, given: 3",
            id="a hook that is a number",
        ),
        pytest.param(
            lambda: EstimatorSpec("infer", predictions=one())._replace(mode="train"),
            ValueError,
            "mode of EstimatorSpec cannot be changed.",
            id="another mode afterwards",
        ),
    ],
)
def test_what_does_not_fit(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        make()

    assert str(caught.value).startswith(message)


def test_a_loss_of_one_element_becomes_a_scalar() -> None:
    assert EstimatorSpec(ModeKeys.EVAL, loss=one()).loss.shape == ()


def test_a_variable_to_train_with_stands_for_its_operation() -> None:
    variable = tf.get_variable("v", [], use_resource=True)

    spec = EstimatorSpec(ModeKeys.TRAIN, loss=one(), train_op=variable)

    assert spec.train_op is variable.op


def test_predictions_are_copied() -> None:
    predictions = {"a": one()}

    spec = EstimatorSpec(ModeKeys.PREDICT, predictions=predictions)
    predictions["b"] = one()

    assert list(spec.predictions) == ["a"]


def test_a_copy_may_change_the_rest() -> None:
    spec = EstimatorSpec(ModeKeys.PREDICT, predictions=one())

    changed = spec._replace(predictions={"b": one()})

    assert list(changed.predictions) == ["b"]
    assert changed.export_outputs is spec.export_outputs
