"""
Train versions of the classifier and publish them; a process of its own.

    python -m examples.digits.train BASE_PATH

reads a version number a line from stdin and trains that version, so that Keras is
imported once.  What happens is told on stdout, one JSON object a line.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from examples.digits import data

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# The first version is quickly trained and not very good; the second is better.
EPOCHS = {1: 4, 2: 12}
UNITS = {1: 16, 2: 64}


def main(base_path: Path) -> None:
    """Train what is asked for until stdin ends."""
    training, held_out = data.load()
    import keras  # noqa: PLC0415 - takes seconds; the data is there before

    tell(event="ready", keras=keras.__version__)
    for line in sys.stdin:
        version = int(line)
        model = build(keras, units=UNITS[version])
        model.fit(
            training.images,
            training.labels,
            epochs=EPOCHS[version],
            validation_data=(held_out.images, held_out.labels),
            callbacks=[Teller(keras, EPOCHS[version]).callback],
            verbose=0,
        )
        tell(event="published", path=str(publish(model, base_path, version)))


def build(keras: Any, units: int) -> Any:
    """Return a small classifier of images of 8 x 8 pixels."""
    keras.utils.set_random_seed(units)
    model = keras.Sequential(
        [
            keras.layers.Input((8, 8), name="image"),
            keras.layers.Flatten(),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(0.005),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def publish(model: Any, base_path: Path, version: int) -> Path:
    """
    Export *model* beside the base path, then give it its name there.

    A server that polls sees the whole version or none of it.
    """
    beside = base_path.with_name(f".{base_path.name}-{version}")
    shutil.rmtree(beside, ignore_errors=True)
    model.export(beside, verbose=False)
    base_path.mkdir(parents=True, exist_ok=True)
    return beside.rename(base_path / str(version))


class Teller:
    """Tells of every epoch."""

    def __init__(self, keras: Any, epochs: int) -> None:
        self.callback = keras.callbacks.LambdaCallback(on_epoch_end=self._epoch)
        self._epochs = epochs

    def _epoch(self, epoch: int, logs: dict[str, float]) -> None:
        accuracy = logs["val_accuracy"]
        tell(event="epoch", epoch=epoch + 1, of=self._epochs, accuracy=accuracy)


def tell(**what: object) -> None:
    """Write one line to whoever started this."""
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
