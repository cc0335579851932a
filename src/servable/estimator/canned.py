"""
The ready-made models: DNN, linear, and both together.

Variables have the names that TensorFlow's canned Estimators give theirs, so that
their checkpoints can be exported.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from servable.estimator.classification_heads import BinaryClassHead, MultiClassHead
from servable.estimator.estimator import Estimator
from servable.estimator.estimator_spec import EstimatorSpec
from servable.estimator.heads import REDUCTIONS, SUM, Head
from servable.estimator.regression_heads import RegressionHead
from servable.estimator.towers import Dnn, Linear
from servable.export._tensorflow import tf

_OPTIMIZERS: Final[Mapping[str, Callable[[float], Any]]] = {
    "Adagrad": tf.train.AdagradOptimizer,
    "Adam": tf.train.AdamOptimizer,
    "Ftrl": tf.train.FtrlOptimizer,
    "RMSProp": tf.train.RMSPropOptimizer,
    "SGD": tf.train.GradientDescentOptimizer,
}
_DNN_RATE: Final = 0.05
_LINEAR_RATE: Final = 0.2
_COMBINED_DNN_RATE: Final = 0.001
_COMBINED_LINEAR_RATE: Final = 0.005
_Columns = Iterable[Any]


class DNNEstimator(Estimator):
    """A stack of dense layers under a head."""

    def __init__(
        self,
        head: Head,
        hidden_units: Sequence[int],
        feature_columns: _Columns,
        model_dir: Any = None,
        optimizer: Any = "Adagrad",
        activation_fn: Callable[[Any], Any] = tf.nn.relu,
        dropout: float | None = None,
        input_layer_partitioner: Any = None,
        config: Any = None,
        warm_start_from: Any = None,
        batch_norm: bool = False,
    ) -> None:
        dnn = Dnn(
            tuple(hidden_units),
            tuple(feature_columns),
            activation_fn,
            dropout,
            input_layer_partitioner,
            batch_norm,
        )

        def model_fn(features: Any, labels: Any, mode: str) -> EstimatorSpec:
            _check_features(features)
            with dnn.scope(features):
                logits = dnn.logits(features, mode, head.logits_dimension)
                chosen = canned_optimizer(optimizer, _DNN_RATE)
                return head.create_estimator_spec(
                    features, mode, logits, labels, optimizer=chosen
                )

        super().__init__(model_fn, model_dir, config, None, warm_start_from)


class DNNClassifier(DNNEstimator):
    """A DNNEstimator over classes."""

    def __init__(
        self,
        hidden_units: Sequence[int],
        feature_columns: _Columns,
        model_dir: Any = None,
        n_classes: int = 2,
        weight_column: Any = None,
        label_vocabulary: Sequence[Any] | None = None,
        optimizer: Any = "Adagrad",
        activation_fn: Callable[[Any], Any] = tf.nn.relu,
        dropout: float | None = None,
        input_layer_partitioner: Any = None,
        config: Any = None,
        warm_start_from: Any = None,
        loss_reduction: str = SUM,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(
            canned_class_head(
                n_classes, weight_column, label_vocabulary, loss_reduction
            ),
            hidden_units,
            feature_columns,
            model_dir,
            optimizer,
            activation_fn,
            dropout,
            input_layer_partitioner,
            config,
            warm_start_from,
            batch_norm,
        )


class DNNRegressor(DNNEstimator):
    """A DNNEstimator for numbers."""

    def __init__(
        self,
        hidden_units: Sequence[int],
        feature_columns: _Columns,
        model_dir: Any = None,
        label_dimension: int = 1,
        weight_column: Any = None,
        optimizer: Any = "Adagrad",
        activation_fn: Callable[[Any], Any] = tf.nn.relu,
        dropout: float | None = None,
        input_layer_partitioner: Any = None,
        config: Any = None,
        warm_start_from: Any = None,
        loss_reduction: str = SUM,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(
            canned_regression_head(label_dimension, weight_column, loss_reduction),
            hidden_units,
            feature_columns,
            model_dir,
            optimizer,
            activation_fn,
            dropout,
            input_layer_partitioner,
            config,
            warm_start_from,
            batch_norm,
        )


class LinearEstimator(Estimator):
    """A linear model under a head."""

    def __init__(
        self,
        head: Head,
        feature_columns: _Columns,
        model_dir: Any = None,
        optimizer: Any = "Ftrl",
        config: Any = None,
        partitioner: Any = None,
        sparse_combiner: str = "sum",
        warm_start_from: Any = None,
    ) -> None:
        linear = Linear(tuple(feature_columns), partitioner, sparse_combiner)

        def model_fn(features: Any, labels: Any, mode: str) -> EstimatorSpec:
            _check_features(features)
            with linear.scope(features):
                logits = linear.logits(features, head.logits_dimension)
                chosen = canned_optimizer(optimizer, linear.rate(_LINEAR_RATE))
                return head.create_estimator_spec(
                    features, mode, logits, labels, optimizer=chosen
                )

        super().__init__(model_fn, model_dir, config, None, warm_start_from)


class LinearClassifier(LinearEstimator):
    """A LinearEstimator over classes."""

    def __init__(
        self,
        feature_columns: _Columns,
        model_dir: Any = None,
        n_classes: int = 2,
        weight_column: Any = None,
        label_vocabulary: Sequence[Any] | None = None,
        optimizer: Any = "Ftrl",
        config: Any = None,
        partitioner: Any = None,
        warm_start_from: Any = None,
        loss_reduction: str = SUM,
        sparse_combiner: str = "sum",
    ) -> None:
        super().__init__(
            canned_class_head(
                n_classes, weight_column, label_vocabulary, loss_reduction
            ),
            feature_columns,
            model_dir,
            optimizer,
            config,
            partitioner,
            sparse_combiner,
            warm_start_from,
        )


class LinearRegressor(LinearEstimator):
    """A LinearEstimator for numbers."""

    def __init__(
        self,
        feature_columns: _Columns,
        model_dir: Any = None,
        label_dimension: int = 1,
        weight_column: Any = None,
        optimizer: Any = "Ftrl",
        config: Any = None,
        partitioner: Any = None,
        warm_start_from: Any = None,
        loss_reduction: str = SUM,
        sparse_combiner: str = "sum",
    ) -> None:
        super().__init__(
            canned_regression_head(label_dimension, weight_column, loss_reduction),
            feature_columns,
            model_dir,
            optimizer,
            config,
            partitioner,
            sparse_combiner,
            warm_start_from,
        )


class DNNLinearCombinedEstimator(Estimator):
    """
    The sum of a linear model's logits and a DNN's, under a head.

    Raises:
        ValueError: there are no columns at all, or some for a DNN without layers.
    """

    def __init__(
        self,
        head: Head,
        model_dir: Any = None,
        linear_feature_columns: _Columns | None = None,
        linear_optimizer: Any = "Ftrl",
        dnn_feature_columns: _Columns | None = None,
        dnn_optimizer: Any = "Adagrad",
        dnn_hidden_units: Sequence[int] | None = None,
        dnn_activation_fn: Callable[[Any], Any] = tf.nn.relu,
        dnn_dropout: float | None = None,
        input_layer_partitioner: Any = None,
        config: Any = None,
        warm_start_from: Any = None,
        batch_norm: bool = False,
        linear_sparse_combiner: str = "sum",
    ) -> None:
        linear_columns = tuple(linear_feature_columns or ())
        dnn_columns = tuple(dnn_feature_columns or ())
        if not linear_columns and not dnn_columns:
            raise ValueError(
                "Either linear_feature_columns or dnn_feature_columns must be defined."
            )
        if dnn_columns and not dnn_hidden_units:
            raise ValueError(
                "dnn_hidden_units must be defined when dnn_feature_columns is "
                "specified."
            )
        dnn = dnn_columns and Dnn(
            tuple(dnn_hidden_units or ()),
            dnn_columns,
            dnn_activation_fn,
            dnn_dropout,
            input_layer_partitioner,
            batch_norm,
        )
        linear = linear_columns and Linear(
            linear_columns, input_layer_partitioner, linear_sparse_combiner
        )

        def model_fn(features: Any, labels: Any, mode: str) -> EstimatorSpec:
            _check_features(features)
            logits, trained = [], []
            if dnn:
                with dnn.scope(features):
                    logits.append(dnn.logits(features, mode, head.logits_dimension))
                chosen = canned_optimizer(dnn_optimizer, _COMBINED_DNN_RATE)
                trained.append((chosen, "dnn"))
            if linear:
                with linear.scope(features):
                    logits.append(linear.logits(features, head.logits_dimension))
                rate = linear.rate(_COMBINED_LINEAR_RATE)
                trained.append((canned_optimizer(linear_optimizer, rate), "linear"))
            return head.create_estimator_spec(
                features,
                mode,
                logits[0] if len(logits) == 1 else logits[0] + logits[1],
                labels,
                train_op_fn=functools.partial(_train_parts, trained),
            )

        super().__init__(model_fn, model_dir, config, None, warm_start_from)


class DNNLinearCombinedClassifier(DNNLinearCombinedEstimator):
    """A DNNLinearCombinedEstimator over classes."""

    def __init__(
        self,
        model_dir: Any = None,
        linear_feature_columns: _Columns | None = None,
        linear_optimizer: Any = "Ftrl",
        dnn_feature_columns: _Columns | None = None,
        dnn_optimizer: Any = "Adagrad",
        dnn_hidden_units: Sequence[int] | None = None,
        dnn_activation_fn: Callable[[Any], Any] = tf.nn.relu,
        dnn_dropout: float | None = None,
        n_classes: int = 2,
        weight_column: Any = None,
        label_vocabulary: Sequence[Any] | None = None,
        input_layer_partitioner: Any = None,
        config: Any = None,
        warm_start_from: Any = None,
        loss_reduction: str = SUM,
        batch_norm: bool = False,
        linear_sparse_combiner: str = "sum",
    ) -> None:
        super().__init__(
            canned_class_head(
                n_classes, weight_column, label_vocabulary, loss_reduction
            ),
            model_dir,
            linear_feature_columns,
            linear_optimizer,
            dnn_feature_columns,
            dnn_optimizer,
            dnn_hidden_units,
            dnn_activation_fn,
            dnn_dropout,
            input_layer_partitioner,
            config,
            warm_start_from,
            batch_norm,
            linear_sparse_combiner,
        )


class DNNLinearCombinedRegressor(DNNLinearCombinedEstimator):
    """A DNNLinearCombinedEstimator for numbers."""

    def __init__(
        self,
        model_dir: Any = None,
        linear_feature_columns: _Columns | None = None,
        linear_optimizer: Any = "Ftrl",
        dnn_feature_columns: _Columns | None = None,
        dnn_optimizer: Any = "Adagrad",
        dnn_hidden_units: Sequence[int] | None = None,
        dnn_activation_fn: Callable[[Any], Any] = tf.nn.relu,
        dnn_dropout: float | None = None,
        label_dimension: int = 1,
        weight_column: Any = None,
        input_layer_partitioner: Any = None,
        config: Any = None,
        warm_start_from: Any = None,
        loss_reduction: str = SUM,
        batch_norm: bool = False,
        linear_sparse_combiner: str = "sum",
    ) -> None:
        super().__init__(
            canned_regression_head(label_dimension, weight_column, loss_reduction),
            model_dir,
            linear_feature_columns,
            linear_optimizer,
            dnn_feature_columns,
            dnn_optimizer,
            dnn_hidden_units,
            dnn_activation_fn,
            dnn_dropout,
            input_layer_partitioner,
            config,
            warm_start_from,
            batch_norm,
            linear_sparse_combiner,
        )


class _CannedBinaryHead(BinaryClassHead):
    _pr_summation = "trapezoidal"


def canned_class_head(
    n_classes: int,
    weight_column: Any,
    label_vocabulary: Sequence[Any] | None,
    loss_reduction: str,
) -> Head:
    """Return the head that canned classifiers have."""
    _check_reduction(loss_reduction)
    if n_classes == 2:  # noqa: PLR2004 - two are binary
        return _CannedBinaryHead(
            weight_column,
            label_vocabulary=label_vocabulary,
            loss_reduction=loss_reduction,
        )
    return MultiClassHead(n_classes, weight_column, label_vocabulary, loss_reduction)


def canned_regression_head(
    label_dimension: int, weight_column: Any, loss_reduction: str
) -> Head:
    """Return the head that canned regressors have."""
    _check_reduction(loss_reduction)
    return RegressionHead(label_dimension, weight_column, loss_reduction)


def _check_reduction(loss_reduction: str) -> None:
    if loss_reduction not in REDUCTIONS:
        raise ValueError(f"Invalid loss_reduction: {loss_reduction}")


def _check_features(features: Any) -> None:
    if not isinstance(features, dict):
        raise ValueError(
            "features should be a dictionary of `Tensor`s. "
            f"Given type: {type(features)}"
        )


def canned_optimizer(optimizer: Any, rate: float) -> Any:
    """Return an optimizer, given itself, a name, or a function that makes it."""
    if isinstance(optimizer, str):
        if optimizer not in _OPTIMIZERS:
            raise ValueError(
                f"Unsupported optimizer name: {optimizer}. Supported names are: "
                f"{tuple(sorted(_OPTIMIZERS))}"
            )
        return _OPTIMIZERS[optimizer](rate)
    made = optimizer() if callable(optimizer) else optimizer
    if not isinstance(made, tf.train.Optimizer):
        raise ValueError(
            f"The given object is not an Optimizer instance. Given: {made}"
        )
    return made


def _train_parts(parts: Iterable[tuple[Any, str]], loss: Any) -> Any:
    """Train each part with its optimizer, and count one step."""
    steps = [
        optimizer.minimize(
            loss,
            var_list=tf.get_collection(tf.GraphKeys.TRAINABLE_VARIABLES, scope=scope),
        )
        for optimizer, scope in parts
    ]
    with tf.control_dependencies(steps):
        return tf.assign_add(tf.train.get_global_step(), 1).op
