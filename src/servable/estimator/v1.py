"""
TensorFlow as scripts of version 1 know it.

    from servable.estimator.v1 import tf  # in place of: import tensorflow as tf

is the one line to change: version 2 behaviour is off in this process, and
`tf.estimator` and `tf.layers` are there.  TensorFlow does not go on about each function
of version 1 that it is deprecated.
"""

import logging

from servable.estimator.installation import install
from servable.export._tensorflow import tf

logging.getLogger("tensorflow").addFilter(
    lambda record: "is deprecated and will be removed" not in str(record.msg)
)
tf.disable_v2_behavior()
install(tf)

__all__ = ["tf"]
