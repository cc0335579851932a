"""Hooks that evaluate and end training, and the parts of canned models."""

import operator
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="needs TensorFlow").compat.v1

from servable.estimator import Estimator, EstimatorSpec, ModeKeys  # noqa: E402
from servable.estimator.early_stopping import (  # noqa: E402
    is_beyond,
    is_stalled,
    read_eval_metrics,
)
from servable.estimator.experimental import (  # noqa: E402
    InMemoryEvaluatorHook,
    call_logit_fn,
    dnn_logit_fn_builder,
    linear_logit_fn_builder,
    make_early_stopping_hook,
    make_stop_at_checkpoint_step_hook,
    stop_if_higher_hook,
    stop_if_lower_hook,
    stop_if_no_decrease_hook,
    stop_if_no_increase_hook,
)

pytestmark = pytest.mark.tensorflow
Y = np.array([[1.0], [2.0]], np.float32)


def model_fn(features: Any, labels: Any, mode: str) -> Any:
    # Two variables begin as one tensor.
    first = tf.constant([[0.5], [0.5]])
    w, v = (tf.get_variable(name, initializer=first) for name in "wv")
    y = tf.matmul(features["x"][:, :2], w) + tf.matmul(features["x"][:, 2:], v)
    loss = tf.losses.mean_squared_error(labels, y)
    train_op = tf.train.GradientDescentOptimizer(0.01).minimize(
        loss, tf.train.get_global_step()
    )
    return EstimatorSpec(mode, {"y": y}, loss, train_op)


def str_logits(features: Any) -> str:
    return f"of {features}"


@pytest.fixture
def input_fn(small: SimpleNamespace) -> Callable[..., Any]:
    def input_fn() -> Any:
        return tf.data.Dataset.from_tensor_slices(({"x": small.x}, Y)).repeat().batch(2)

    return input_fn


@pytest.fixture
def model(tmp_path: Path) -> Estimator:
    return Estimator(model_fn, tmp_path / "model")


def step_of(model: Estimator) -> int:
    return int(model.get_variable_value("global_step"))


@pytest.mark.parametrize(
    ("values", "min_better", "expected"),
    [
        pytest.param([5, 4, 3], 20, False, id="it falls"),
        pytest.param([5, 4, 4, 4], 20, True, id="it stays"),
        pytest.param([5, 4, 6, 3], 20, False, id="it fell again in time"),
        pytest.param([5, 6, 7, 3], 20, True, id="it fell again too late"),
        pytest.param([5], 20, False, id="one value"),
        pytest.param([], 20, False, id="no value"),
    ],
)
def test_a_metric_has_stopped_to_fall(
    values: list[float], min_better: int, expected: bool
) -> None:
    metrics = {10 * at: {"loss": value} for at, value in enumerate(values)}

    assert is_stalled(metrics, "loss", operator.lt, min_better) == expected


def test_a_metric_is_beyond_a_threshold_once_it_was() -> None:
    metrics = {0: {"loss": 1.0}, 10: {"loss": 3.0}, 20: {"loss": 2.0}}

    assert is_beyond(metrics, "loss", operator.gt, 2.5)
    assert not is_beyond(metrics, "loss", operator.gt, 3.0)


@pytest.mark.parametrize(
    ("hook", "arguments", "stops"),
    [
        pytest.param(stop_if_lower_hook, {"threshold": 1e6}, True, id="lower"),
        pytest.param(stop_if_lower_hook, {"threshold": 0.0}, False, id="not lower"),
        pytest.param(stop_if_higher_hook, {"threshold": 0.0}, True, id="higher"),
        pytest.param(
            stop_if_higher_hook,
            {"threshold": 0.0, "min_steps": 99},
            False,
            id="higher, too early",
        ),
        pytest.param(
            stop_if_no_increase_hook,
            {"max_steps_without_increase": 4},
            True,
            id="no increase",
        ),
        pytest.param(
            stop_if_no_decrease_hook,
            {"max_steps_without_decrease": 4},
            False,
            id="a decrease",
        ),
    ],
)
def test_training_ends_by_what_was_evaluated(
    model: Estimator,
    input_fn: Callable[..., Any],
    hook: Callable[..., Any],
    arguments: dict[str, Any],
    stops: bool,
) -> None:
    for _ in range(2):
        model.train(input_fn, steps=4)
        model.evaluate(input_fn, steps=1)
    looks = hook(model, "loss", run_every_secs=None, run_every_steps=1, **arguments)

    model.train(input_fn, hooks=[looks], steps=5)

    assert step_of(model) == (9 if stops else 13)


def test_what_is_trained_is_evaluated_meanwhile(
    model: Estimator, input_fn: Callable[..., Any]
) -> None:
    hook = InMemoryEvaluatorHook(
        model, input_fn, steps=1, name="memory", every_n_iter=10
    )

    model.train(input_fn, hooks=[hook], steps=25)

    seen = read_eval_metrics(model.eval_dir("memory"))
    assert sorted(seen) == [0, 10, 20, 25]
    losses = [metrics["loss"] for metrics in seen.values()]
    assert losses == sorted(losses, reverse=True)
    saved = model.evaluate(input_fn, steps=1)
    assert losses[-1] == pytest.approx(saved["loss"])


def test_training_ends_at_a_step(
    model: Estimator, input_fn: Callable[..., Any]
) -> None:
    model.train(input_fn, hooks=[make_stop_at_checkpoint_step_hook(model, 3)])

    assert step_of(model) == 3


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        pytest.param(
            lambda _: make_early_stopping_hook(3, bool),  # type: ignore[arg-type]
            TypeError,
            "`estimator` must have type",
            id="no estimator",
        ),
        pytest.param(
            lambda model: make_early_stopping_hook(model, 3),  # type: ignore[arg-type]
            TypeError,
            "`should_stop_fn` must be callable",
            id="nothing to ask",
        ),
        pytest.param(
            lambda model: make_early_stopping_hook(model, bool, 60, 10),
            ValueError,
            "Only one of",
            id="seconds and steps",
        ),
        pytest.param(
            lambda model: InMemoryEvaluatorHook(model, bool, every_n_iter=0),
            ValueError,
            "invalid every_n_iter=0",
            id="never",
        ),
        pytest.param(
            lambda _: linear_logit_fn_builder(2.0, []),  # type: ignore[arg-type]
            ValueError,
            "units must be an int",
            id="half a logit",
        ),
        pytest.param(
            lambda _: call_logit_fn(str_logits, {}, "eval", None, None),
            ValueError,
            "logit_fn should return a Tensor",
            id="no logits",
        ),
    ],
)
def test_what_cannot_be_made(
    model: Estimator, make: Callable[..., Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        make(model)


def test_logits_have_the_variables_of_canned_models(small: SimpleNamespace) -> None:
    column = tf.feature_column.numeric_column("x", 4)
    dnn = dnn_logit_fn_builder(3, [5], [column], tf.nn.relu, None, None, False)
    linear = linear_logit_fn_builder(3, [column])
    features = {"x": tf.constant(small.x)}
    with tf.variable_scope("dnn"):
        deep = call_logit_fn(dnn, features, ModeKeys.EVAL, {}, None)
    with tf.variable_scope("linear"):
        wide = call_logit_fn(linear, features, ModeKeys.EVAL, {}, None)

    assert [logits.shape.as_list() for logits in (deep, wide)] == [[2, 3], [2, 3]]
    assert [variable.name for variable in tf.global_variables()] == [
        "dnn/hiddenlayer_0/kernel:0",
        "dnn/hiddenlayer_0/bias:0",
        "dnn/logits/kernel:0",
        "dnn/logits/bias:0",
        "linear/linear_model/x/weights:0",
        "linear/linear_model/bias_weights:0",
    ]
