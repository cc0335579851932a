"""What commands that call TensorFlow themselves keep from those who run them."""

import logging
import os


def quiet_tensorflow() -> None:
    """
    Have TensorFlow, which is imported after this, tell of errors only.

    It warns of functions of its own that are old, and that only a release of this
    package could call no more.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").addFilter(
        lambda record: record.levelno >= logging.ERROR
    )
