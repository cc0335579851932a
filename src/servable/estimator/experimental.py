"""`tf.estimator.experimental`, as far as exports need it."""

from servable.estimator.receivers import build_raw_supervised_input_receiver_fn

__all__ = ["build_raw_supervised_input_receiver_fn"]
