# mypy: disable-error-code="misc"
"""
The models that are measured, made with TensorFlow and kept in ``build/models``.

    python benchmarks/models.py DIRECTORY
    python benchmarks/models.py --session-time SAVED_MODEL_DIRECTORY
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf  # its classes and decorators have no types

IMAGE_SHAPE = (224, 224, 3)


def make_all(directory: Path) -> None:
    """Make the models that are not there yet; each is ``NAME/1`` below *directory*."""

    class HalfPlusTwo(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def __call__(self, x: Any) -> Any:
            return {"y": x / 2 + 2}

    class ImageMean(tf.Module):
        """A cheap answer to a large question: what is measured is the way in."""

        @tf.function(
            input_signature=[tf.TensorSpec([None, *IMAGE_SHAPE], tf.float32, "x")]
        )
        def __call__(self, x: Any) -> Any:
            return {"y": tf.reduce_mean(x, axis=[1, 2])}

    class Matrices(tf.Module):
        """Twelve matrices of four MiB each, in variables."""

        def __init__(self) -> None:
            random = np.random.default_rng(0)
            self.matrices = [
                tf.Variable(random.random((1024, 1024), dtype=np.float32))
                for _ in range(12)
            ]

        @tf.function(input_signature=[tf.TensorSpec([None, 1024], tf.float32, "x")])
        def __call__(self, x: Any) -> Any:
            for matrix in self.matrices:
                x = tf.matmul(x, matrix) / 1024
            return {"y": x}

    def save(name: str, export: Callable[[str], object]) -> None:
        final = directory / name / "1"
        if final.exists():
            return
        made = directory / f"{name}.part"
        export(str(made))
        final.parent.mkdir(parents=True, exist_ok=True)
        made.rename(final)

    def signed(model: Any) -> Callable[[str], object]:
        return lambda path: tf.saved_model.save(model, path, signatures=model.__call__)

    save("half_plus_two", signed(HalfPlusTwo()))
    save("image_mean", signed(ImageMean()))
    save("matrices", signed(Matrices()))
    # Random weights take as long to load as trained ones: 25.6 million, 102 MB.
    save(
        "resnet50", lambda path: keras.applications.ResNet50(weights=None).export(path)
    )


def session_time_us(directory: Path) -> float:
    """
    Return the median time of one run of the model in a TensorFlow session.

    One image, fed as an array, in this process: what is left of a request's latency
    after this is the server's and the network's.
    """
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(directory))
        signature = loaded.signature_def["serving_default"]
        run = session.make_callable(
            signature.outputs["y"].name, feed_list=[signature.inputs["x"].name]
        )
        image = np.random.default_rng(0).random((1, *IMAGE_SHAPE), dtype=np.float32)
        times = []
        for _ in range(400):
            begun = time.perf_counter()
            run(image)
            times.append(time.perf_counter() - begun)
    return statistics.median(times[100:]) * 1e6


def main() -> None:
    """Run as the arguments say."""
    if sys.argv[1] == "--session-time":
        print(session_time_us(Path(sys.argv[2])))
    else:
        make_all(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
