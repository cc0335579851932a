"""Small models of version 1, and checkpoints of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

tensorflow = pytest.importorskip("tensorflow", reason="needs TensorFlow")
tf = tensorflow.compat.v1

from servable import estimator  # noqa: E402
from servable.apis import saved_model_pb2  # noqa: E402

X = np.array([[1, 2, 3, 4], [0.5, -1, 0, 2]], np.float32)
KERNEL = np.arange(8, dtype=np.float32).reshape(4, 2) / 8


@pytest.fixture(autouse=True)
def _graph() -> Iterator[None]:
    with tf.Graph().as_default():
        yield


def linear(features: Any) -> Any:
    """Return features["x"] times a variable of [4, 2]."""
    kernel = tf.get_variable("kernel", initializer=tf.constant(KERNEL))
    return tf.matmul(features["x"], kernel)


def receive_x() -> Any:
    """Receive x as it is."""
    x = tf.placeholder(tf.float32, [None, 4], name="x")
    return estimator.export.ServingInputReceiver({"x": x}, {"x": x})


def model_of(outputs: Callable[[Any], Any] | None = None) -> Callable[..., Any]:
    """Return a model function that serves *outputs* of the linear model."""

    def model_fn(features: Any, labels: Any, mode: str) -> Any:
        del labels
        y = linear(features)
        served = None if outputs is None else outputs(y)
        return estimator.EstimatorSpec(
            mode, predictions={"y": y}, export_outputs=served
        )

    return model_fn


def save_checkpoint(model_dir: Path, build: Callable[[], Any], step: int = 1) -> str:
    """Save the variables that *build* makes, all times *step*, as that step."""
    with tf.Graph().as_default(), tf.Session() as session:
        counter = tf.train.create_global_step()
        build()
        scaled = [v.assign(v * step) for v in tf.trainable_variables()]
        session.run(tf.global_variables_initializer())
        session.run(scaled)
        session.run(counter.assign(step))
        model_dir.mkdir(parents=True, exist_ok=True)
        saver = tf.train.Saver(save_relative_paths=True)
        path: str = saver.save(session, str(model_dir / "model.ckpt"), step)
        return path


def save_linear(model_dir: Path, step: int = 1) -> str:
    """Save a checkpoint of the linear model."""
    return save_checkpoint(
        model_dir, lambda: linear({"x": tf.placeholder(tf.float32, [None, 4])}), step
    )


def signatures_of(path: bytes) -> dict[str, Any]:
    """Return the signatures of the first meta graph."""
    data = (Path(path.decode()) / "saved_model.pb").read_bytes()
    model = saved_model_pb2.SavedModel.FromString(data)
    return dict(model.meta_graphs[0].signature_def)


def ask(path: bytes, inputs: dict[str, Any], name: str = "serving_default") -> Any:
    """Return the outputs of a signature of an exported model."""
    with tf.Graph().as_default(), tf.Session() as session:
        meta_graph = tf.saved_model.loader.load(session, ["serve"], path.decode())
        signature = meta_graph.signature_def[name]
        feeds = {signature.inputs[key].name: inputs[key] for key in inputs}
        fetches = {key: info.name for key, info in signature.outputs.items()}
        return session.run(fetches, feeds)


@pytest.fixture(scope="session")
def small() -> SimpleNamespace:
    """Return the functions of this file, by name."""
    return SimpleNamespace(
        x=X,
        kernel=KERNEL,
        linear=linear,
        receive_x=receive_x,
        model_of=model_of,
        save_checkpoint=save_checkpoint,
        save_linear=save_linear,
        signatures_of=signatures_of,
        ask=ask,
    )
