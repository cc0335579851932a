"""The two parts that canned models are made of: from features to logits."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from servable.estimator import layers
from servable.estimator.mode_keys import ModeKeys
from servable.export._tensorflow import tf

_BATCH_NORM_MOMENTUM: Final = 0.999


@dataclass(frozen=True, slots=True)
class Dnn:
    """
    Dense layers over feature columns; variables are in the scope `dnn`.

    Attributes:
        hidden_units: the size of each layer.
        columns: dense feature columns.
        activation_fn: of the hidden layers.
        dropout: share of each layer's outputs that training leaves out.
        partitioner: of the variables of columns.
        batch_norm: normalize the outputs of each layer.
    """

    hidden_units: tuple[int, ...]
    columns: tuple[Any, ...]
    activation_fn: Callable[[Any], Any]
    dropout: float | None
    partitioner: Any
    batch_norm: bool

    def scope(self, features: dict[str, Any]) -> Any:
        """Return the scope that logits has to be called in."""
        return _scope("dnn", features, None)

    def logits(self, features: dict[str, Any], mode: str, size: int) -> Any:
        """Return logits of shape [batch, *size*]."""
        is_training = mode == ModeKeys.TRAIN
        glorot = tf.glorot_uniform_initializer()
        with tf.variable_scope(
            "input_from_feature_columns", partitioner=self.partitioner
        ):
            net = tf.feature_column.input_layer(features, list(self.columns))
        for number, units in enumerate(self.hidden_units):
            with tf.variable_scope(f"hiddenlayer_{number}") as scope:
                net = layers.dense(
                    net,
                    units,
                    self.activation_fn,
                    kernel_initializer=glorot,
                    name=scope,
                )
                if self.dropout is not None:
                    net = layers.dropout(net, self.dropout, training=is_training)
                if self.batch_norm:
                    net = layers.batch_normalization(
                        net,
                        momentum=_BATCH_NORM_MOMENTUM,
                        training=is_training,
                        name=f"batchnorm_{number}",
                    )
        with tf.variable_scope("logits") as scope:
            return layers.dense(net, size, kernel_initializer=glorot, name=scope)


@dataclass(frozen=True, slots=True)
class Linear:
    """
    A weight for each feature; variables are in the scope `linear`.

    Attributes:
        columns: feature columns of any kind.
        partitioner: of the scope's variables.
        sparse_combiner: how the weights of several values are put together.
    """

    columns: tuple[Any, ...]
    partitioner: Any
    sparse_combiner: str

    def scope(self, features: dict[str, Any]) -> Any:
        """Return the scope that logits has to be called in."""
        return _scope("linear", features, self.partitioner)

    def logits(self, features: dict[str, Any], size: int) -> Any:
        """Return logits of shape [batch, *size*]."""
        with warnings.catch_warnings():  # of what TensorFlow itself does there
            warnings.filterwarnings("ignore", ".*add_variable", UserWarning)
            return tf.feature_column.linear_model(
                features, list(self.columns), size, self.sparse_combiner
            )

    def rate(self, at_most: float) -> float:
        """Return the learning rate; smaller with more columns."""
        return min(at_most, 1.0 / math.sqrt(len(self.columns)))


def _scope(name: str, features: dict[str, Any], partitioner: Any) -> Any:
    values = tuple(tf.nest.flatten(features))
    # Of one part here, which gives the optimizers' variables the names that they had.
    partitioner = partitioner or tf.min_max_variable_partitioner()
    return tf.variable_scope(name, values=values, partitioner=partitioner)
