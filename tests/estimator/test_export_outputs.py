"""The signature that each kind of output makes, and what it refuses."""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

tf = pytest.importorskip("tensorflow", reason="needs TensorFlow").compat.v1

from servable.estimator import EstimatorSpec  # noqa: E402
from servable.estimator.export import (  # noqa: E402
    ClassificationOutput,
    EvalOutput,
    PredictOutput,
    RegressionOutput,
)

pytestmark = pytest.mark.tensorflow


def tensor(kind: str = "float32") -> Any:
    return tf.placeholder(kind, [None])


@pytest.mark.parametrize(
    ("make", "receiver", "expected"),
    [
        pytest.param(
            lambda: ClassificationOutput(tensor(), tensor("string")),
            {"any": "string"},
            ("tensorflow/serving/classify", ["inputs"], ["classes", "scores"]),
            id="classes and scores of examples",
        ),
        pytest.param(
            lambda: ClassificationOutput(classes=tensor("string")),
            {"any": "string"},
            ("tensorflow/serving/classify", ["inputs"], ["classes"]),
            id="classes alone",
        ),
        pytest.param(
            lambda: RegressionOutput(tensor()),
            {"any": "string"},
            ("tensorflow/serving/regress", ["inputs"], ["outputs"]),
            id="values of examples",
        ),
        pytest.param(
            lambda: PredictOutput(tensor("int8")),
            {"a": "float32", "b": "string"},
            ("tensorflow/serving/predict", ["a", "b"], ["output"]),
            id="one tensor, with the receiver's own names",
        ),
        pytest.param(
            lambda: PredictOutput({("h", "x"): tensor(), "y": tensor()}),
            {"a": "float32"},
            ("tensorflow/serving/predict", ["a"], ["h/x", "y"]),
            id="named tensors, a tuple joined",
        ),
        pytest.param(
            lambda: EvalOutput(tensor(), {"y": tensor()}, {"m": (tensor(), tensor())}),
            {"a": "float32"},
            (
                "tensorflow/supervised/eval",
                ["a"],
                ["loss", "metrics/m/update_op", "metrics/m/value", "predictions/y"],
            ),
            id="what an evaluation has",
        ),
    ],
)
def test_signatures(
    make: Callable[[], Any], receiver: dict[str, str], expected: Any
) -> None:
    receiver_tensors = {name: tensor(kind) for name, kind in receiver.items()}

    signature = make().as_signature_def(receiver_tensors)

    method, inputs, outputs = expected
    assert signature.method_name == method
    assert sorted(signature.inputs) == inputs
    assert sorted(signature.outputs) == outputs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda: ClassificationOutput(scores=tensor("int32")),
            "Classification scores must be a float32 Tensor; got Tensor",
            id="scores that are whole numbers",
        ),
        pytest.param(
            lambda: ClassificationOutput(classes=tensor()),
            "Classification classes must be a string Tensor; got Tensor",
            id="classes that are numbers",
        ),
        pytest.param(
            ClassificationOutput,
            "Cannot create a ClassificationOutput with empty arguments.",
            id="neither scores nor classes",
        ),
        pytest.param(
            lambda: RegressionOutput("x"),
            "Regression output value must be a float32 Tensor; got x",
            id="a regression that is text",
        ),
        pytest.param(
            lambda: PredictOutput({1: tensor()}),
            "Prediction output key must be a string; got 1.",
            id="a prediction named by a number",
        ),
        pytest.param(
            lambda: PredictOutput({"a": 3}),
            "Prediction output value must be a Tensor; got 3.",
            id="a prediction that is a number",
        ),
    ],
)
def test_outputs_that_cannot_be(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda value, update: (value, update), id="a pair"),
        pytest.param(
            lambda value, update: SimpleNamespace(
                result=lambda: value, updates=[update]
            ),
            id="an object, as Keras has them",
        ),
    ],
)
def test_a_metric(make: Callable[[Any, Any], Any]) -> None:
    value, update = tensor(), tensor()

    metrics = EvalOutput(metrics={"m": make(value, update)}).metrics

    assert metrics == {"metrics/m/value": value, "metrics/m/update_op": update}


def test_an_output_without_receivers_says_so() -> None:
    with pytest.raises(ValueError, match="`inputs` cannot be None or empty"):
        PredictOutput(tensor()).as_signature_def(cast("Any", None))


@pytest.mark.parametrize(
    "receiver",
    [
        pytest.param({"x": "float32"}, id="numbers"),
        pytest.param({"x": "string", "y": "string"}, id="two tensors"),
    ],
)
def test_examples_come_as_one_string_tensor(receiver: dict[str, str]) -> None:
    receiver_tensors = {name: tensor(kind) for name, kind in receiver.items()}

    with pytest.raises(ValueError, match="can only accept a single tensor input"):
        RegressionOutput(tensor()).as_signature_def(receiver_tensors)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        pytest.param(lambda _: None, {"serving_default"}, id="predictions by default"),
        pytest.param(
            lambda y: {"a": PredictOutput(y)},
            {"a", "serving_default"},
            id="a single one is the default as well",
        ),
        pytest.param(lambda _: {}, set(), id="nothing stays nothing"),
        pytest.param(
            lambda y: {"a": PredictOutput(y), "serving_default": PredictOutput(y)},
            {"a", "serving_default"},
            id="a default that is given",
        ),
    ],
)
def test_the_default(outputs: Callable[[Any], Any], expected: set[str]) -> None:
    y = tensor()

    spec = EstimatorSpec("infer", predictions=y, export_outputs=outputs(y))

    assert set(spec.export_outputs) == expected


@pytest.mark.parametrize(
    ("outputs", "error", "message"),
    [
        pytest.param(
            lambda y: {"a": PredictOutput(y), "b": PredictOutput(y)},
            ValueError,
            "none of them are specified as the default. Use`tf.saved_model",
            id="several without a default",
        ),
        pytest.param(lambda y: [y], TypeError, "must be dict", id="a list"),
        pytest.param(
            lambda y: {"a": y}, TypeError, "must be ExportOutput", id="a bare tensor"
        ),
    ],
)
def test_what_cannot_be_served_is_refused_where_it_is_made(
    outputs: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    y = tensor()

    with pytest.raises(error, match=message):
        EstimatorSpec("infer", predictions=y, export_outputs=outputs(y))
