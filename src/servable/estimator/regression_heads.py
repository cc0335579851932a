"""Heads for numbers: any, counts, shares."""

from collections.abc import Callable
from typing import Any

from servable.estimator.export_outputs import ExportOutput, RegressionOutput
from servable.estimator.heads import (
    SUM_OVER_BATCH_SIZE,
    Head,
    with_last_dimension,
)
from servable.export._tensorflow import tf


class RegressionHead(Head):
    """
    Numbers, by the mean squared error.

    Args:
        label_dimension: how many numbers an example has.
        inverse_link_fn: turns logits into predictions.

    Raises:
        ValueError: label_dimension is not positive.
    """

    def __init__(
        self,
        label_dimension: int = 1,
        weight_column: Any = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        loss_fn: Callable[..., Any] | None = None,
        inverse_link_fn: Callable[[Any], Any] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(weight_column, loss_reduction, loss_fn, name)
        if label_dimension < 1:
            raise ValueError(f"Invalid label_dimension {label_dimension}.")
        self._label_dimension = label_dimension
        self._inverse_link_fn = inverse_link_fn

    @property
    def logits_dimension(self) -> int:
        """One logit for each number."""
        return self._label_dimension

    def predictions(self, logits: Any) -> dict[str, Any]:
        """Return predictions, and the logits where they are something else."""
        if self._inverse_link_fn is None:
            return {"predictions": logits}
        return {"predictions": self._inverse_link_fn(logits), "logits": logits}

    def _export_outputs(self, predictions: dict[str, Any]) -> dict[str, ExportOutput]:
        return {"regression": RegressionOutput(predictions["predictions"])}

    def _labels(self, labels: Any) -> Any:
        return with_last_dimension(tf.cast(labels, tf.float32), self._label_dimension)

    def _losses(self, labels: Any, logits: Any) -> Any:
        return tf.square(labels - logits)

    def _metrics(self, labels: Any, predictions: dict[str, Any], weights: Any) -> Any:
        return {
            "prediction/mean": tf.metrics.mean(predictions["predictions"], weights),
            "label/mean": tf.metrics.mean(labels, weights),
        }


class PoissonRegressionHead(RegressionHead):
    """Counts, whose expected value is the exponential of the logit."""

    def __init__(
        self,
        label_dimension: int = 1,
        weight_column: Any = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        compute_full_loss: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(
            label_dimension, weight_column, loss_reduction, None, tf.exp, name
        )
        self._compute_full_loss = compute_full_loss

    def _losses(self, labels: Any, logits: Any) -> Any:
        return tf.nn.log_poisson_loss(labels, logits, self._compute_full_loss)


class LogisticRegressionHead(RegressionHead):
    """Shares between 0 and 1, by a logistic function of the logit."""

    def __init__(
        self,
        weight_column: Any = None,
        loss_reduction: str = SUM_OVER_BATCH_SIZE,
        name: str | None = None,
    ) -> None:
        super().__init__(1, weight_column, loss_reduction, None, tf.sigmoid, name)

    def _losses(self, labels: Any, logits: Any) -> Any:
        return tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
