"""A JAX function, through its TensorFlow bridge, to a version that a session runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="needs TensorFlow")
jax = pytest.importorskip("jax", reason="needs JAX: pip install jax")

from jax.experimental import jax2tf  # noqa: E402

from servable.errors import FailedPrecondition  # noqa: E402
from servable.export import Predict, export  # noqa: E402
from servable.export.answers import arrays_of  # noqa: E402
from servable.export.replay import replay  # noqa: E402
from servable.export.requests import request_log  # noqa: E402

pytestmark = pytest.mark.tensorflow

X = np.array([[1, 2], [3, -4], [0.5, 0]], np.float32)


def predict(parameters: dict[str, Any], x: Any) -> Any:
    return jax.nn.relu(x @ parameters["kernel"]) + parameters["bias"]


class Model(tf.Module):  # type: ignore[misc, name-defined]  # untyped
    """What docs/export.md shows: parameters as variables, the function converted."""

    def __init__(self) -> None:
        super().__init__()
        self._parameters = {
            "kernel": tf.Variable(np.array([[1, -1, 2], [0, 1, 1]], np.float32)),
            "bias": tf.Variable(np.array([0.5, 0, -0.5], np.float32)),
        }
        self._predict = jax2tf.convert(predict, polymorphic_shapes=[None, "(b, _)"])

    @tf.function(  # type: ignore[misc]  # untyped
        input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")],
        autograph=False,
    )
    def __call__(self, x: Any) -> dict[str, Any]:
        return {"y": self._predict(self._parameters, x)}

    def parameters(self) -> dict[str, Any]:
        return {name: v.numpy() for name, v in self._parameters.items()}


def test_answers_as_jax_does(tmp_path: Path) -> None:
    model = Model()

    version = export(model, tmp_path / "jax", samples={"serving_default": {"x": X}})

    sample = {"x": X[:1]}  # another size than the one that was tried
    log = request_log("serving_default", Predict.method_name, sample, {"x": "float32"})
    (answer,) = replay(version, [log])
    assert answer.error is None
    predicted = arrays_of(log, answer.response)["y"]
    np.testing.assert_allclose(predicted, predict(model.parameters(), X[:1]), 1e-6)


def test_what_answers_otherwise_is_not_published(tmp_path: Path) -> None:
    class Other(Model):
        @tf.function(  # type: ignore[misc]  # untyped
            input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")],
            autograph=False,
        )
        def __call__(self, x: Any) -> dict[str, Any]:
            noise = tf.random.uniform(tf.shape(x))
            return {"y": self._predict(self._parameters, x + noise)}

    with pytest.raises(FailedPrecondition, match="answers otherwise"):
        export(Other(), tmp_path / "jax", samples={"serving_default": {"x": X}})

    assert not list((tmp_path / "jax").glob("[0-9]*"))
