"""
What comes after the logits: predictions, losses, metrics, and what is served.

The names of predictions, and which signatures each kind of head makes, are those of
TensorFlow's heads.
"""

import abc
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from servable.estimator.estimator import argument_names
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
# Those of tf.losses under their own names, and tf.keras's two.
REDUCTIONS: Final = {
    **{name: name for name in tf.losses.Reduction.all() if name != "none"},
    "sum": SUM,
    SUM_OVER_BATCH_SIZE: tf.losses.Reduction.SUM_OVER_BATCH_SIZE,
}
_LOSS_ARGUMENTS: Final = ("labels", "logits", "features", "loss_reduction")


class Head(abc.ABC):
    """
    Turns logits into an EstimatorSpec.

    Args:
        weight_column: name of the feature that weighs examples, or a column that has
            that as its key.
        loss_reduction: how the losses of examples become one: "sum",
            "sum_over_batch_size", or one of tf.losses.Reduction.
        loss_fn: (labels, logits, and features and loss_reduction if it names them) →
            loss of each example, in place of the usual one.
        name: of the scope of the operations, and at the end of the names of metrics.

    Raises:
        ValueError: there is no such reduction, or loss_fn takes something else.
    """

    def __init__(
        self,
        weight_column: Any = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        loss_fn: Callable[..., Any] | None = None,
        name: str | None = None,
    ) -> None:
        if loss_reduction not in REDUCTIONS:
            raise ValueError(
                f"Invalid loss_reduction: {loss_reduction}. "
                "See `tf.losses.Reduction` for valid options."
            )
        if loss_fn is not None:
            _check_loss_fn(loss_fn)
        self._weight_column = weight_column
        self._loss_reduction = loss_reduction
        self._loss_fn = loss_fn
        self._name = name

    @property
    def name(self) -> str | None:
        """The name of its scope, if it was given one."""
        return self._name

    @property
    def loss_reduction(self) -> str:
        """How the losses of examples become one."""
        return self._loss_reduction

    @property
    @abc.abstractmethod
    def logits_dimension(self) -> int:
        """How many logits an example has."""

    @abc.abstractmethod
    def predictions(self, logits: Any) -> dict[Any, Any]:
        """Return the predictions by name."""

    @abc.abstractmethod
    def _export_outputs(self, predictions: dict[str, Any]) -> dict[str, ExportOutput]:
        """Return what is served beside `predict`; the first is the default."""

    @abc.abstractmethod
    def _labels(self, labels: Any) -> Any:
        """Return labels, which are there, as the loss needs them."""

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
                logits or labels are missing, or of another shape or type.
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
            loss, metrics = self._judged(features, mode, logits, labels, predictions)
            if regularization_losses:
                extra = tf.add_n(list(regularization_losses))
                loss += extra
                if mode == ModeKeys.EVAL:
                    metrics[self._named("regularization_loss")] = tf.metrics.mean(extra)
            if mode == ModeKeys.EVAL:
                return EstimatorSpec(
                    mode, predictions=predictions, loss=loss, eval_metric_ops=metrics
                )
            train_op = _train_op(
                loss, optimizer, trainable_variables, train_op_fn, update_ops
            )
        return EstimatorSpec(
            mode, predictions=predictions, loss=loss, train_op=train_op
        )

    def _judged(
        self, features: Any, mode: str, logits: Any, labels: Any, predictions: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Return the loss, and in EVAL mode the metrics."""
        labels = self._labels(self._given(labels))
        losses = self._losses_of(features, labels, logits)
        weights = self._weights(features, losses)
        loss = tf.losses.compute_weighted_loss(
            losses,
            weights,
            loss_collection=None,
            reduction=REDUCTIONS[self._loss_reduction],
        )
        if mode != ModeKeys.EVAL:
            return loss, {}
        metrics = {
            "average_loss": tf.metrics.mean(losses, weights),
            **self._metrics(labels, predictions, weights),
        }
        return loss, {self._named(key): metric for key, metric in metrics.items()}

    def _all_outputs(self, predictions: dict[Any, Any]) -> dict[str, ExportOutput]:
        outputs = self._export_outputs(predictions)
        default = next(iter(outputs.values()))
        return {DEFAULT_KEY: default, **outputs, "predict": PredictOutput(predictions)}

    def _named(self, metric: str) -> str:
        return f"{metric}/{self._name}" if self._name else metric

    def _checked(self, logits: Any) -> Any:
        logits = tf.cast(logits, tf.float32)
        shape = logits.shape
        if shape.rank is None:
            return logits
        what = "logits shape must be [D0, D1, ... DN, logits_dimension]"
        if shape.rank < 2:  # noqa: PLR2004 - a batch, and the logits
            raise ValueError(
                f"{what}.  Tensor {logits.name} must have rank at least 2.  "
                f"Received rank {shape.rank}, shape {shape}"
            )
        if not shape[-1:].is_compatible_with([self.logits_dimension]):
            raise ValueError(f"{what}, got {shape}.")
        return logits

    def _given(self, labels: Any) -> Any:
        if labels is None:
            raise ValueError(
                "You must provide a labels Tensor. Given: None. Suggested "
                "troubleshooting steps: Check that your data contains your label "
                "feature. Check that your input_fn properly parses and returns labels."
            )
        return labels

    def _losses_of(self, features: Any, labels: Any, logits: Any) -> Any:
        if self._loss_fn is None:
            return self._losses(labels, logits)
        offered = {"features": features, "loss_reduction": self._loss_reduction}
        names = argument_names(self._loss_fn)
        wanted = {name: offered[name] for name in offered if name in names}
        return self._loss_fn(labels=labels, logits=logits, **wanted)

    def _weights(self, features: Any, losses: Any) -> Any:
        if self._weight_column is None:
            return tf.ones_like(losses)
        key = getattr(self._weight_column, "key", self._weight_column)
        if key not in features:
            raise ValueError(f"Feature {key} is not in features dictionary.")
        weights = tf.reshape(tf.cast(features[key], losses.dtype), [-1, 1])
        is_one_each = tf.debugging.assert_equal(
            tf.shape(weights)[0],
            tf.shape(losses)[0],
            message=f"{key} has to have one weight for each example",
        )
        with tf.control_dependencies([is_one_each]):
            return tf.identity(weights)


def with_last_dimension(labels: Any, size: int) -> Any:
    """
    Return *labels* of shape [batch, *size*]; where *size* is 1 it may be left out.

    Raises:
        ValueError: they are of another shape, or sparse.
    """
    if isinstance(labels, tf.SparseTensor):
        raise ValueError(
            "SparseTensor labels are not supported. Labels must be a Tensor of shape "
            f"[D0, D1, ..., DN, {size}], e.g. [batch_size, {size}].Suggested Fix (1): "
            "Check the label feature in your data. Each example must contain "
            f"{size} value(s). If not, your choice of label was probably incorrect. "
            "Suggested Fix (2): In your input_fn, use tf.sparse_tensor_to_dense() to "
            "turn labels into a Tensor."
        )
    labels = tf.convert_to_tensor(labels)
    if labels.shape.rank == 1:
        labels = tf.expand_dims(labels, -1)
    is_known = labels.shape.rank is not None
    if is_known and not labels.shape[-1:].is_compatible_with([size]):
        raise ValueError(
            f"Mismatched label shape. Expected labels dimension={size}.  "
            f"Received {labels.shape[-1]}. Suggested Fix: If your classifier expects "
            "one-hot encoding label, check your n_classes argument to the estimator "
            "and/or the shape of your label. Otherwise, check the shape of your label."
        )
    return labels


def _check_loss_fn(loss_fn: Callable[..., Any]) -> None:
    names = argument_names(loss_fn)
    for name in _LOSS_ARGUMENTS[:2]:
        if name not in names:
            raise ValueError(
                f"loss_fn must contain argument: {name}. Given arguments: {names}"
            )
    unexpected = [name for name in names if name not in _LOSS_ARGUMENTS]
    if unexpected:
        raise ValueError(f"loss_fn has unexpected args: {unexpected}")


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
