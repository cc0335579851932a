"""More metrics for an estimator that somebody else has made."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from servable.estimator.estimator import Estimator, argument_names
from servable.estimator.mode_keys import ModeKeys

_OFFERED: Final = ("features", "labels", "predictions", "config")


def add_metrics(
    estimator: Estimator, metric_fn: Callable[..., Mapping[str, Any]]
) -> Estimator:
    """
    Return *estimator* with the metrics that *metric_fn* makes, beside its own.

    Args:
        estimator: stays as it is; the new one has its directory.
        metric_fn: called with those of features, labels, predictions and config that
            it names; returns (value, update op) by name.

    Raises:
        ValueError: metric_fn takes something else.
    """
    names = argument_names(metric_fn)
    unexpected = [name for name in names if name not in _OFFERED]
    if unexpected:
        raise ValueError(
            f"metric_fn ({metric_fn}) has following not expected args: {unexpected}"
        )

    def model_fn(features: Any, labels: Any, mode: str, config: Any) -> Any:
        spec = estimator.model_fn(features, labels, mode, config)
        if mode != ModeKeys.EVAL:
            return spec
        offered = {
            "features": features,
            "labels": labels,
            "predictions": spec.predictions,
            "config": config,
        }
        more = metric_fn(**{name: offered[name] for name in names})
        return spec._replace(eval_metric_ops={**spec.eval_metric_ops, **more})

    return Estimator(model_fn, config=estimator.config)
