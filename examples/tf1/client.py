"""
Ask the models of these examples; TensorFlow is not needed, and not imported.

    python -m examples.tf1.client ADDRESS dnn 5.0 3.4 1.5 0.2
    python -m examples.tf1.client ADDRESS convnet picture.jpg …
    python -m examples.tf1.client ADDRESS builder 0 0 1 0
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from servable.client import Client

DIRECTIONS = ("lying", "standing")


def classify_flower(client: Client, measures: Sequence[float]) -> str:
    """Return the likeliest kind of a flower."""
    result = client.classify("dnn", [{"measures": list(measures)}])
    best = int(result.scores[0].argmax())
    return f"{result.labels[0][best]} {result.scores[0][best]:.3f}"


def stripes(client: Client, pictures: Sequence[bytes]) -> list[str]:
    """Return how the stripes lie in pictures, which are whole JPEG files."""
    outputs = client.predict("convnet", {"image": list(pictures)})
    return [DIRECTIONS[number] for number in outputs["classes"]]


def best_labels(client: Client, x: Sequence[float]) -> list[str]:
    """Return the labels of the likeliest classes, best first."""
    result = client.classify(
        "builder", [{"x": list(x)}], signature="my_classification_signature"
    )
    return [str(label) for label in result.labels[0]]


def main(address: str, model: str, *arguments: str) -> None:
    """Ask one of the models, and print what it answers."""
    with Client(address) as client:
        if model == "dnn":
            print(classify_flower(client, [float(a) for a in arguments]))
        elif model == "convnet":
            print(*stripes(client, [Path(a).read_bytes() for a in arguments]))
        elif model == "builder":
            print(*best_labels(client, [float(a) for a in arguments]))
        else:
            sys.exit(f"there is no example {model!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
