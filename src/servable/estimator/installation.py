"""
Putting back into TensorFlow what scripts of version 1 expect there.

`tf.estimator` is this package; `tf.layers` its functions, where TensorFlow has none
that work.  `tf.contrib` stays gone, but says what to use in place of it.
"""

import sys
from types import ModuleType
from typing import Any, Final

from servable.estimator import layers

_INSTEAD: Final = {
    "lookup": (
        "tf.lookup.StaticHashTable(tf.lookup.TextFileInitializer(…), default) does "
        "what its tables did"
    ),
    "layers": "tf.layers, tf.get_variable and tf.nn do what its functions did",
    "estimator": "tf.estimator has heads and exporters",
    "learn": "tf.estimator has what became of it",
    "util": "servable.client.make_tensor_proto makes TensorProtos, without TensorFlow",
    "saved_model": "tf.saved_model has it all",
    "data": "tf.data has what became of it",
}


class _Contrib(ModuleType):
    """Says, of each part that is asked for, what to use in place of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        hint = _INSTEAD.get(name, "it ended with TensorFlow 1")
        raise AttributeError(f"TensorFlow has no tf.contrib.{name} any more: {hint}")


def install(tf: Any) -> Any:
    """
    Give *tf*, which is `tensorflow.compat.v1`, the parts that it has lost.

    Call it, after `tf.disable_v2_behavior()`, before model functions run.  Idempotent.

    Args:
        tf: the module that scripts call `tf`.

    Returns:
        The same module.
    """
    tf.estimator = sys.modules["servable.estimator"]
    if not _has_layers(tf):
        tf.layers = layers
    if not hasattr(tf, "contrib"):
        tf.contrib = _Contrib("tensorflow.contrib")
    return tf


def _has_layers(tf: Any) -> bool:
    """Return whether tf.layers works: with Keras 3 its functions only raise."""
    try:
        with tf.Graph().as_default():
            tf.layers.flatten(tf.zeros([1, 1]))
    except (AttributeError, ImportError):
        return False
    return True
