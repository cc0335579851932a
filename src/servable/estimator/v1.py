"""
TensorFlow as scripts of version 1 know it.

    from servable.estimator.v1 import tf  # in place of: import tensorflow as tf

is the one line to change: version 2 behaviour is off in this process, and
`tf.estimator` and `tf.layers` are there.
"""

from servable.estimator.installation import install
from servable.export._tensorflow import tf

tf.disable_v2_behavior()
install(tf)

__all__ = ["tf"]
