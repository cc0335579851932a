"""
What comes after the logits: predictions, losses, metrics, and what is served.

The names of predictions, and which signatures each kind of head makes, are those of
TensorFlow's heads.
"""

import abc
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from servable.estimator.estimator_spec import EstimatorSpec
from servable.estimator.export_outputs import (
    DEFAULT_KEY,
    ExportOutput,
    PredictOutput,
)
from servable.estimator.mode_keys import ModeKeys
from servable.export._tensorflow import tf

SUM: Final = tf.losses.Reduction.SUM
SUM_OVER_BATCH_SIZE: Final = "sum_over_batch_size"


class Head(abc.ABC):
    """
    Turns logits into an EstimatorSpec.

    Args:
        weight_column: name of the feature that weighs examples, or a column that has
            that as its key.
        loss_reduction: how the losses of examples become one: "weighted_sum" or
            "sum_over_batch_size".
        loss_fn: (labels, logits) → loss of each example, in place of the usual one.
        name: of the scope of the operations.
    """

    def __init__(
        self,
        weight_column: Any = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        loss_fn: Callable[..., Any] | None = None,
        name: str | None = None,
    ) -> None:
        self._weight_column = weight_column
        self._loss_reduction = loss_reduction
        self._loss_fn = loss_fn
        self._name = name

    @property
    def name(self) -> str | None:
        """The name of its scope, if it was given one."""
        return self._name

    @property
    @abc.abstractmethod
    def logits_dimension(self) -> int:
        """How many logits an example has."""

    @abc.abstractmethod
    def predictions(self, logits: Any) -> dict[str, Any]:
        """Return the predictions by name."""

    @abc.abstractmethod
    def _export_outputs(self, predictions: dict[str, Any]) -> dict[str, ExportOutput]:
        """Return what is served beside `predict`; the first is the default."""

    @abc.abstractmethod
    def _labels(self, labels: Any) -> Any:
        """Return labels as the loss needs them."""

    @abc.abstractmethod
    def _losses(self, labels: Any, logits: Any) -> Any:
        """Return the loss of each example, of shape [batch, 1]."""

    @abc.abstractmethod
    def _metrics(self, labels: Any, predictions: dict[str, Any], weights: Any) -> Any:
        """Return metrics beside average_loss."""

    def create_estimator_spec(
        self,
        features: Any,
        mode: str,
        logits: Any,
        labels: Any = None,
        optimizer: Any = None,
        trainable_variables: Sequence[Any] | None = None,
        train_op_fn: Callable[[Any], Any] | None = None,
        update_ops: Iterable[Any] | None = None,
        regularization_losses: Sequence[Any] | None = None,
    ) -> EstimatorSpec:
        """
        Return the spec of a model that has *logits* of shape [batch, logits_dimension].

        Args:
            features: those of model_fn.
            mode: that of model_fn.
            logits: what the model computes.
            labels: those of model_fn.
            optimizer: a tf.train.Optimizer; in training, this or train_op_fn is needed.
            trainable_variables: what the optimizer changes; None for all.
            train_op_fn: returns the train op of a loss.
            update_ops: what is to be run with the optimizer's step.
            regularization_losses: what is added to the loss.

        Raises:
            ValueError: training is asked for without optimizer and train_op_fn, or
                logits are of another size.
        """
        with tf.name_scope(self.name or "head"):
            logits = self._checked(logits)
            with tf.name_scope("predictions"):
                predictions = self.predictions(logits)
            if mode == ModeKeys.PREDICT:
                return EstimatorSpec(
                    mode,
                    predictions=predictions,
                    export_outputs=self._all_outputs(predictions),
                )
            labels = self._labels(labels)
            losses = (self._loss_fn or self._losses)(labels, logits)
            weights = self._weights(features, losses)
            loss = self._reduced(losses, weights, regularization_losses)
            if mode == ModeKeys.EVAL:
                metrics = {
                    "average_loss": tf.metrics.mean(losses, weights),
                    **self._metrics(labels, predictions, weights),
                }
                return EstimatorSpec(
                    mode, predictions=predictions, loss=loss, eval_metric_ops=metrics
                )
            train_op = _train_op(
                loss, optimizer, trainable_variables, train_op_fn, update_ops
            )
        return EstimatorSpec(
            mode, predictions=predictions, loss=loss, train_op=train_op
        )

    def _all_outputs(self, predictions: dict[str, Any]) -> dict[str, ExportOutput]:
        outputs = self._export_outputs(predictions)
        default = next(iter(outputs.values()))
        return {DEFAULT_KEY: default, **outputs, "predict": PredictOutput(predictions)}

    def _checked(self, logits: Any) -> Any:
        logits = tf.convert_to_tensor(logits)
        expected = tf.TensorShape([None, self.logits_dimension])
        if not expected.is_compatible_with(logits.shape):
            raise ValueError(
                f"logits must be of shape [batch, {self.logits_dimension}], "
                f"and are {logits.shape}"
            )
        return (
            tf.ensure_shape(logits, expected) if logits.shape.rank is None else logits
        )

    def _weights(self, features: Any, losses: Any) -> Any:
        if self._weight_column is None:
            return tf.ones_like(losses)
        key = getattr(self._weight_column, "key", self._weight_column)
        weights = tf.cast(features[key], losses.dtype)
        return tf.reshape(weights, [-1, 1])

    def _reduced(self, losses: Any, weights: Any, extra: Sequence[Any] | None) -> Any:
        loss = tf.reduce_sum(losses * weights)
        if self._loss_reduction != SUM:
            loss /= tf.cast(tf.size(losses), losses.dtype)
        return tf.add_n([loss, *extra]) if extra else loss


def _train_op(
    loss: Any,
    optimizer: Any,
    trainable_variables: Sequence[Any] | None,
    train_op_fn: Callable[[Any], Any] | None,
    update_ops: Iterable[Any] | None,
) -> Any:
    if optimizer is not None and train_op_fn is not None:
        raise ValueError("train_op_fn and optimizer cannot both be set.")
    updates = list(update_ops or tf.get_collection(tf.GraphKeys.UPDATE_OPS))
    with tf.control_dependencies(updates):
        if optimizer is not None:
            return optimizer.minimize(
                loss, tf.train.get_global_step(), var_list=trainable_variables
            )
        if train_op_fn is not None:
            return train_op_fn(loss)
    raise ValueError("train_op_fn and optimizer cannot both be None.")
