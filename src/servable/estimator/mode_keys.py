"""The three modes in which a model function is called."""

from typing import Final


class ModeKeys:
    """Names of the modes, as model functions compare them."""

    TRAIN: Final = "train"
    EVAL: Final = "eval"
    PREDICT: Final = "infer"
