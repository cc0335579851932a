"""
Hooks that end training by what evaluations said.

They read the summaries that evaluations have written, and decide by them; who writes
those, and when, is not asked: train_and_evaluate, InMemoryEvaluatorHook, or another
process.
"""

import operator
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from servable.estimator.estimator import Estimator
from servable.export._tensorflow import tf

_Metrics = Mapping[int, Mapping[str, float]]
_Compare = Callable[[float, float], bool]


def make_early_stopping_hook(
    estimator: Estimator,
    should_stop_fn: Callable[[], bool],
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> Any:
    """
    Return a hook for training that ends it when *should_stop_fn* says so.

    It is asked every *run_every_secs* seconds, or every *run_every_steps* steps.

    Raises:
        TypeError: an argument is not of its type.
        ValueError: both or none of the two are given.
    """
    if not isinstance(estimator, Estimator):
        raise TypeError(
            f"`estimator` must have type `tf.estimator.Estimator`. "
            f"Got: {type(estimator)}"
        )
    if not callable(should_stop_fn):
        raise TypeError(f"`should_stop_fn` must be callable. Got: {should_stop_fn}")
    if (run_every_secs is None) == (run_every_steps is None):
        raise ValueError(
            "Only one of `run_every_secs` and `run_every_steps` must be set."
        )
    return _StopWhen(should_stop_fn, run_every_secs, run_every_steps)


def stop_if_higher_hook(
    estimator: Estimator,
    metric_name: str,
    threshold: float,
    eval_dir: str | None = None,
    min_steps: int = 0,
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> Any:
    """
    Return a hook that ends training once a metric is above *threshold*.

    Args:
        estimator: what is trained.
        metric_name: the metric, by its name in evaluations.
        threshold: the value.
        eval_dir: where evaluations are; that of the unnamed one by default.
        min_steps: what was evaluated before this step is not looked at.
        run_every_secs: how often to look; None with run_every_steps.
        run_every_steps: the same in steps.
    """
    return _beyond(operator.gt, threshold)(
        estimator, metric_name, eval_dir, min_steps, run_every_secs, run_every_steps
    )


def stop_if_lower_hook(
    estimator: Estimator,
    metric_name: str,
    threshold: float,
    eval_dir: str | None = None,
    min_steps: int = 0,
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> Any:
    """Return a hook that ends training once a metric is below *threshold*."""
    return _beyond(operator.lt, threshold)(
        estimator, metric_name, eval_dir, min_steps, run_every_secs, run_every_steps
    )


def stop_if_no_increase_hook(
    estimator: Estimator,
    metric_name: str,
    max_steps_without_increase: int,
    eval_dir: str | None = None,
    min_steps: int = 0,
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> Any:
    """Return a hook that ends training once a metric has stopped to grow."""
    return _stalled(operator.gt, max_steps_without_increase)(
        estimator, metric_name, eval_dir, min_steps, run_every_secs, run_every_steps
    )


def stop_if_no_decrease_hook(
    estimator: Estimator,
    metric_name: str,
    max_steps_without_decrease: int,
    eval_dir: str | None = None,
    min_steps: int = 0,
    run_every_secs: float | None = 60,
    run_every_steps: int | None = None,
) -> Any:
    """Return a hook that ends training once a metric has stopped to fall."""
    return _stalled(operator.lt, max_steps_without_decrease)(
        estimator, metric_name, eval_dir, min_steps, run_every_secs, run_every_steps
    )


def make_stop_at_checkpoint_step_hook(
    estimator: Estimator, last_step: int, wait_after_file_check_secs: int = 30
) -> Any:
    """Return a hook that ends training at *last_step*; there is nobody to wait for."""
    del estimator, wait_after_file_check_secs
    return tf.train.StopAtStepHook(last_step=last_step)


def is_beyond(
    metrics: _Metrics, name: str, compare: _Compare, threshold: float
) -> bool:
    """Return whether any value of a metric is beyond *threshold*."""
    return any(compare(values[name], threshold) for values in metrics.values())


def is_stalled(metrics: _Metrics, name: str, compare: _Compare, max_steps: int) -> bool:
    """Return whether a metric was not better than before for *max_steps* steps."""
    best: tuple[float, int] | None = None
    for step, values in metrics.items():
        if best is None or compare(values[name], best[0]):
            best = values[name], step
        if step - best[1] >= max_steps:
            return True
    return False


def read_eval_metrics(eval_dir: str) -> _Metrics:
    """Return the metrics of all evaluations in a directory, by their steps."""
    found: dict[int, dict[str, float]] = {}
    for path in tf.gfile.Glob(os.path.join(eval_dir, "*tfevents*")):
        for event in tf.train.summary_iterator(path):
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    of_step = found.setdefault(event.step, {})
                    of_step[value.tag] = value.simple_value
    return OrderedDict(sorted(found.items()))


def _beyond(compare: _Compare, threshold: float) -> Callable[..., Any]:
    return _deciding(lambda ms, name: is_beyond(ms, name, compare, threshold))


def _stalled(compare: _Compare, max_steps: int) -> Callable[..., Any]:
    return _deciding(lambda ms, name: is_stalled(ms, name, compare, max_steps))


def _deciding(decide: Callable[[_Metrics, str], bool]) -> Callable[..., Any]:
    def make(
        estimator: Estimator,
        metric_name: str,
        eval_dir: str | None,
        min_steps: int,
        run_every_secs: float | None,
        run_every_steps: int | None,
    ) -> Any:
        def should_stop() -> bool:
            metrics = {
                step: values
                for step, values in read_eval_metrics(
                    eval_dir or estimator.eval_dir()
                ).items()
                if step >= min_steps and metric_name in values
            }
            return decide(metrics, metric_name)

        return make_early_stopping_hook(
            estimator, should_stop, run_every_secs, run_every_steps
        )

    return make


class _StopWhen(tf.train.SessionRunHook):  # type: ignore[misc]  # untyped
    """Asks now and then whether to go on."""

    def __init__(
        self,
        should_stop_fn: Callable[[], bool],
        every_secs: float | None,
        every_steps: int | None,
    ) -> None:
        self._should_stop_fn = should_stop_fn
        self._timer = tf.train.SecondOrStepTimer(every_secs, every_steps)

    def begin(self) -> None:
        """Find the step."""
        self._timer.reset()
        self._step = tf.train.get_global_step()

    def before_run(self, run_context: Any) -> Any:
        """Fetch the step, too."""
        del run_context
        return tf.train.SessionRunArgs(self._step)

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Ask, when it is time."""
        step = int(run_values.results)
        if self._timer.should_trigger_for_step(step):
            self._timer.update_last_triggered_step(step)
            if self._should_stop_fn():
                tf.logging.info("Requesting early stopping at global step %d", step)
                run_context.request_stop()
