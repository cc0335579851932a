"""The handwritten digits that come with scikit-learn: 1797 images of 8 x 8 pixels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

HELD_OUT = 360
BRIGHTEST = 16.0


@dataclass(frozen=True)
class Digits:
    """Images with pixels from 0 to 1, and the digits they show."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[Any]


def load() -> tuple[Digits, Digits]:
    """Return what to train with, and what is held out; the same at every call."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - takes a second

    bunch = load_digits()
    order = np.random.default_rng(1797).permutation(len(bunch.target))
    images = (bunch.images[order] / BRIGHTEST).astype(np.float32)
    labels = bunch.target[order]
    return (
        Digits(images[HELD_OUT:], labels[HELD_OUT:]),
        Digits(images[:HELD_OUT], labels[:HELD_OUT]),
    )
