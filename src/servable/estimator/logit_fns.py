"""The parts of canned models, for model functions that put them together otherwise."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from servable.estimator.estimator import argument_names
from servable.estimator.towers import Dnn, Linear
from servable.export._tensorflow import tf


def dnn_logit_fn_builder(
    units: int,
    hidden_units: Sequence[int],
    feature_columns: Iterable[Any],
    activation_fn: Callable[[Any], Any],
    dropout: float | None,
    input_layer_partitioner: Any,
    batch_norm: bool,
) -> Callable[..., Any]:
    """
    Return a function of features and mode that returns *units* logits.

    Variables are in the scope that it is called in.

    Raises:
        ValueError: units is no integer.
    """
    _check_units(units)
    dnn = Dnn(
        tuple(hidden_units),
        tuple(feature_columns),
        activation_fn,
        dropout,
        input_layer_partitioner,
        batch_norm,
    )

    def dnn_logit_fn(features: dict[str, Any], mode: str) -> Any:
        return dnn.logits(features, mode, units)

    return dnn_logit_fn


def linear_logit_fn_builder(
    units: int, feature_columns: Iterable[Any], sparse_combiner: str = "sum"
) -> Callable[..., Any]:
    """
    Return a function of features that returns *units* logits.

    Variables are in the scope that it is called in.

    Raises:
        ValueError: units is no integer.
    """
    _check_units(units)
    linear = Linear(tuple(feature_columns), None, sparse_combiner)

    def linear_logit_fn(features: dict[str, Any]) -> Any:
        return linear.logits(features, units)

    return linear_logit_fn


def call_logit_fn(
    logit_fn: Callable[..., Any], features: Any, mode: str, params: Any, config: Any
) -> Any:
    """
    Call *logit_fn* with those of the other arguments that it names.

    Raises:
        ValueError: it returns neither a tensor nor a dict of tensors.
    """
    names = argument_names(logit_fn)
    offered = {"mode": mode, "params": params, "config": config}
    given = {name: value for name, value in offered.items() if name in names}
    logits = logit_fn(features=features, **given)
    values = logits.values() if isinstance(logits, Mapping) else [logits]
    if not all(isinstance(value, tf.Tensor) for value in values):
        raise ValueError(
            "logit_fn should return a Tensor or a dictionary mapping strings to "
            f"Tensors.  logit_fn returned: {logits}"
        )
    return logits


def _check_units(units: Any) -> None:
    if not isinstance(units, int):
        raise ValueError(f"units must be an int.  Given type: {type(units)}")
