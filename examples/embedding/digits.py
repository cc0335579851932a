"""
Make what digits.cpp needs: a model, and digits that it has not seen.

    python -m examples.embedding.digits DIRECTORY

trains the first version of the demo's classifier into DIRECTORY/digits/1, and writes
the held-out digits to DIRECTORY/digits.csv.
"""

import io
import sys
from pathlib import Path

from examples.digits import data, train


def main(directory: Path) -> None:
    """Write model and digits."""
    directory.mkdir(parents=True, exist_ok=True)
    _, held_out = data.load()
    with (directory / "digits.csv").open("w") as file:
        for image, label in zip(held_out.images, held_out.labels, strict=True):
            pixels = ",".join(f"{pixel:g}" for pixel in image.ravel())
            file.write(f"{label},{pixels}\n")
    # The trainer reads the versions to train from its input.
    sys.stdin = io.StringIO("1\n")
    train.main(directory / "digits")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
