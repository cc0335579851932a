"""Models that ignore their features: what others have to be better than."""

from collections.abc import Sequence
from typing import Any, Final

from servable.estimator.canned import canned_class_head, canned_optimizer
from servable.estimator.estimator import Estimator
from servable.estimator.estimator_spec import EstimatorSpec
from servable.estimator.heads import SUM, Head
from servable.estimator.regression_heads import RegressionHead
from servable.export._tensorflow import tf

_RATE: Final = 0.3


class BaselineEstimator(Estimator):
    """One bias, `baseline/bias`, for all examples, under a head."""

    def __init__(
        self,
        head: Head,
        model_dir: Any = None,
        optimizer: Any = "Ftrl",
        config: Any = None,
    ) -> None:
        def model_fn(features: Any, labels: Any, mode: str) -> EstimatorSpec:
            size = head.logits_dimension
            with tf.variable_scope("baseline"):
                bias = tf.get_variable("bias", [size], initializer=tf.zeros_initializer)
            batch_size = tf.shape(tf.nest.flatten(features)[0])[0]
            logits = tf.broadcast_to(bias, [batch_size, size])
            logits.set_shape([None, size])
            chosen = canned_optimizer(optimizer, _RATE)
            return head.create_estimator_spec(
                features, mode, logits, labels, optimizer=chosen
            )

        super().__init__(model_fn, model_dir, config)


class BaselineClassifier(BaselineEstimator):
    """Predicts how often each class is there."""

    def __init__(
        self,
        model_dir: Any = None,
        n_classes: int = 2,
        weight_column: Any = None,
        label_vocabulary: Sequence[Any] | None = None,
        optimizer: Any = "Ftrl",
        config: Any = None,
        loss_reduction: str = SUM,
    ) -> None:
        head = canned_class_head(
            n_classes, weight_column, label_vocabulary, loss_reduction
        )
        super().__init__(head, model_dir, optimizer, config)


class BaselineRegressor(BaselineEstimator):
    """Predicts the mean of the labels."""

    def __init__(
        self,
        model_dir: Any = None,
        label_dimension: int = 1,
        weight_column: Any = None,
        optimizer: Any = "Ftrl",
        config: Any = None,
        loss_reduction: str = SUM,
    ) -> None:
        head = RegressionHead(label_dimension, weight_column, loss_reduction)
        super().__init__(head, model_dir, optimizer, config)
