"""
What a model function returns, checked as it is made.

Which fields a mode needs, what each field may hold, and that all of it is of one
graph is decided here.
"""

from typing import Any, NamedTuple, Self

from servable.estimator.export_outputs import with_default
from servable.estimator.mode_keys import ModeKeys
from servable.export._tensorflow import tf, tf2


class _Fields(NamedTuple):
    mode: str
    predictions: Any
    loss: Any
    train_op: Any
    eval_metric_ops: Any
    export_outputs: Any
    training_chief_hooks: tuple[Any, ...]
    training_hooks: tuple[Any, ...]
    scaffold: Any
    evaluation_hooks: tuple[Any, ...]
    prediction_hooks: tuple[Any, ...]


class EstimatorSpec(_Fields):
    """
    The ops and objects of a model in one mode.

    Args:
        mode: one of ModeKeys.
        predictions: a tensor or a dict of them; PREDICT needs it.
        loss: tensor of one element; TRAIN and EVAL need it.
        train_op: the op of one training step; TRAIN needs it.
        eval_metric_ops: (value, update op) by name.
        export_outputs: by signature name, what PREDICT serves; without it, the
            predictions.
        training_chief_hooks: SessionRunHooks for training, on the chief.
        training_hooks: SessionRunHooks for training.
        scaffold: initializers and saver of the model; a new one if None.
        evaluation_hooks: SessionRunHooks for evaluation.
        prediction_hooks: SessionRunHooks for prediction.

    Raises:
        ValueError: a field that the mode needs is missing, the loss is no scalar,
            something is of another graph, or no entry of export_outputs is the
            default.
        TypeError: a field is of a wrong type.
    """

    __slots__ = ()

    def __new__(
        cls,
        mode: str,
        predictions: Any = None,
        loss: Any = None,
        train_op: Any = None,
        eval_metric_ops: Any = None,
        export_outputs: Any = None,
        training_chief_hooks: Any = None,
        training_hooks: Any = None,
        scaffold: Any = None,
        evaluation_hooks: Any = None,
        prediction_hooks: Any = None,
    ) -> "EstimatorSpec":
        train_op = _train_op(train_op, mode)
        loss = _loss(loss, mode)
        predictions = _predictions(predictions, mode)
        if mode == ModeKeys.PREDICT:
            export_outputs = with_default(export_outputs, predictions)
        return super().__new__(
            cls,
            mode,
            predictions,
            loss,
            train_op,
            _eval_metric_ops(eval_metric_ops),
            export_outputs,
            _hooks(training_chief_hooks),
            _hooks(training_hooks),
            _scaffold(scaffold),
            _hooks(evaluation_hooks),
            _hooks(prediction_hooks),
        )

    def _replace(self, /, **changes: Any) -> Self:
        """Return a copy with *changes* of fields, checked again; mode must stay."""
        if changes.get("mode", self.mode) != self.mode:
            raise ValueError("mode of EstimatorSpec cannot be changed.")
        fields = {name: changes.get(name, getattr(self, name)) for name in self._fields}
        return type(self)(**fields)


def _train_op(train_op: Any, mode: str) -> Any:
    if train_op is None:
        if mode == ModeKeys.TRAIN:
            raise ValueError("Missing train_op.")
        return None
    if isinstance(train_op, tf2.Variable):
        train_op = train_op.op
    _check_op_or_tensor(train_op, "train_op")
    if hasattr(train_op, "graph"):
        _check_graph(train_op, "train_op", train_op.name)
    return train_op


def _loss(loss: Any, mode: str) -> Any:
    if loss is None:
        if mode in (ModeKeys.TRAIN, ModeKeys.EVAL):
            raise ValueError("Missing loss.")
        return None
    _check_tensor(loss, "loss")
    if loss.shape.num_elements() not in (None, 1):
        raise ValueError(f"Loss must be scalar, given: {loss}")
    if not loss.shape.is_compatible_with([]):
        loss = tf.reshape(loss, [])
    _check_graph(loss, "loss", loss.name)
    return loss


def _predictions(predictions: Any, mode: str) -> Any:
    if predictions is None:
        if mode == ModeKeys.PREDICT:
            raise ValueError("Missing predictions.")
        return {}
    if isinstance(predictions, dict):
        for key, value in predictions.items():
            _check_tensor(value, f"predictions[{key}]")
        for key, value in predictions.items():
            _check_graph(value, "prediction values", f"{key}: {_name(value)}")
        predictions = dict(predictions)
    else:
        _check_tensor(predictions, "predictions")
        _check_graph(predictions, "prediction values", _name(predictions))
    return predictions


def _eval_metric_ops(metrics: Any) -> Any:
    if metrics is None:
        return {}
    if not isinstance(metrics, dict):
        raise TypeError(f"eval_metric_ops must be a dict, given: {metrics}")
    return {key: _metric(key, metric) for key, metric in metrics.items()}


def _metric(key: Any, metric: Any) -> Any:
    if not isinstance(metric, tuple) or len(metric) != 2:  # noqa: PLR2004 - a pair
        raise TypeError(
            "Values of eval_metric_ops must be (metric_value, update_op) tuples, "
            f"given: {metric} for key: {key}"
        )
    for member in metric:
        _check_op_or_tensor(member, "eval_metric_ops")
        if hasattr(member, "graph"):
            _check_graph(member, "eval_metric_ops", f"{key}: {member.name}")
    return metric


def _scaffold(scaffold: Any) -> Any:
    scaffold = scaffold or tf.train.Scaffold()
    if not isinstance(scaffold, tf.train.Scaffold):
        raise TypeError(f"scaffold must be tf.train.Scaffold. Given: {scaffold}")
    return scaffold


def _hooks(given: Any) -> tuple[Any, ...]:
    hooks = tuple(given or ())
    for hook in hooks:
        if not isinstance(hook, tf.train.SessionRunHook):
            raise TypeError(
                f"All hooks must be SessionRunHook instances, given: {hook}"
            )
    return hooks


def _is_tensor(value: Any) -> bool:
    is_composite = isinstance(value, tf.SparseTensor | tf.RaggedTensor)
    return tf.is_tensor(value) and not is_composite


def _check_tensor(value: Any, what: str) -> None:
    if not _is_tensor(value):
        raise TypeError(f"{what} must be Tensor, given: {value}")


def _check_op_or_tensor(value: Any, what: str) -> None:
    if not isinstance(value, tf.Operation) and not _is_tensor(value):
        raise TypeError(f"{what} must be Operation or Tensor, given: {value}")


def _check_graph(value: Any, what: str, named: str) -> None:
    if value.graph is not tf.get_default_graph():
        raise ValueError(
            f'{what} with "{named}" must be from the default graph. Possible causes of '
            f"this error include: \n\n1) {what} was created outside the context of the "
            "default graph.\n\n2) The object passed through to EstimatorSpec was not "
            'created in the most recent call to "model_fn".'
        )


def _name(value: Any) -> str:
    return str(getattr(value, "name", value))
