"""
Training with evaluations and exports in between, in one process.

After a checkpoint is saved, and no more often than EvalSpec allows, the model is
evaluated and each exporter gets its chance; once more when training ends.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from servable.estimator.estimator import Estimator
from servable.estimator.exporters import Exporter
from servable.export._tensorflow import tf


class _TrainFields(NamedTuple):
    input_fn: Callable[..., Any]
    max_steps: int | None
    hooks: tuple[Any, ...]
    saving_listeners: tuple[Any, ...]


class TrainSpec(_TrainFields):
    """
    What to train on, and up to which step (None: until the input ends).

    Raises:
        TypeError: input_fn cannot be called, or a hook is none.
        ValueError: max_steps is not positive.
    """

    __slots__ = ()

    def __new__(
        cls,
        input_fn: Callable[..., Any],
        max_steps: int | None = None,
        hooks: Iterable[Any] | None = None,
        saving_listeners: Iterable[Any] | None = None,
    ) -> "TrainSpec":
        _check_input_fn(input_fn)
        if max_steps is not None and max_steps <= 0:
            raise ValueError(f"Must specify max_steps > 0, given: {max_steps}")
        return super().__new__(
            cls, input_fn, max_steps, _hooks(hooks), _listeners(saving_listeners)
        )


class _EvalFields(NamedTuple):
    input_fn: Callable[..., Any]
    steps: int | None
    name: str | None
    hooks: tuple[Any, ...]
    exporters: tuple[Exporter, ...]
    start_delay_secs: float
    throttle_secs: float


class EvalSpec(_EvalFields):
    """
    What to evaluate on, how often, and what to export after it.

    Args:
        input_fn: makes the input.
        steps: batches in an evaluation; None until the input ends.
        name: of this evaluation, where there are several.
        hooks: SessionRunHooks.
        exporters: an Exporter, or several of different names.
        start_delay_secs: has no effect.
        throttle_secs: least time between evaluations.

    Raises:
        TypeError: something is not of its type.
        ValueError: a number is out of range, or two exporters have one name.
    """

    __slots__ = ()

    def __new__(
        cls,
        input_fn: Callable[..., Any],
        steps: int | None = 100,
        name: str | None = None,
        hooks: Iterable[Any] | None = None,
        exporters: Any = None,
        start_delay_secs: float = 120,
        throttle_secs: float = 600,
    ) -> "EvalSpec":
        _check_input_fn(input_fn)
        if steps is not None and steps <= 0:
            raise ValueError(f"Must specify steps > 0, given: {steps}")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"`name` must be string, given: {name}")
        if start_delay_secs < 0:
            raise ValueError(
                f"Must specify start_delay_secs >= 0, given: {start_delay_secs}"
            )
        if throttle_secs < 0:
            raise ValueError(f"Must specify throttle_secs >= 0, given: {throttle_secs}")
        return super().__new__(
            cls,
            input_fn,
            steps,
            name,
            _hooks(hooks),
            _exporters(exporters),
            start_delay_secs,
            throttle_secs,
        )


def train_and_evaluate(
    estimator: Estimator, train_spec: TrainSpec, eval_spec: EvalSpec
) -> tuple[Mapping[str, Any] | None, list[bytes | None] | None]:
    """
    Train *estimator*, evaluating and exporting in between and at the end.

    Exports go to `export/NAME` in the model's directory.

    Returns:
        The last evaluation, and what each exporter made after it; None for both if
        max_steps was reached before.

    Raises:
        TypeError: an argument is not of its type.
    """
    for value, kind, name in (
        (estimator, Estimator, "estimator"),
        (train_spec, TrainSpec, "train_spec"),
        (eval_spec, EvalSpec, "eval_spec"),
    ):
        if not isinstance(value, kind):
            raise TypeError(
                f"`{name}` must have type `tf.estimator.{kind.__name__}`. "
                f"Got: {type(value)}"
            )
    listener = _EvaluateAfterSave(estimator, train_spec, eval_spec)
    estimator.train(
        train_spec.input_fn,
        hooks=train_spec.hooks,
        max_steps=train_spec.max_steps,
        saving_listeners=(*train_spec.saving_listeners, listener),
    )
    return listener.result, listener.exported


class _EvaluateAfterSave(tf.train.CheckpointSaverListener):  # type: ignore[misc]  # untyped
    """Evaluates and exports the checkpoint that has been saved."""

    def __init__(
        self, estimator: Estimator, train_spec: TrainSpec, eval_spec: EvalSpec
    ) -> None:
        self._estimator = estimator
        self._train_spec = train_spec
        self._eval_spec = eval_spec
        self._is_first_save = True
        self._last_at: float | None = None
        self._last_step: int | None = None
        self.result: Mapping[str, Any] | None = None
        self.exported: list[bytes | None] | None = None

    def after_save(self, session: Any, global_step_value: int) -> None:
        """Evaluate, unless this is where training begins, or it is too early."""
        del session
        if self._is_first_save:
            self._is_first_save = False
        elif (
            self._last_at is None
            or time.monotonic() >= self._last_at + self._eval_spec.throttle_secs
        ):
            self._evaluate(global_step_value)

    def end(self, session: Any, global_step_value: int) -> None:
        """Evaluate what training ends with."""
        del session
        if global_step_value != self._last_step:
            self._evaluate(global_step_value)

    def _evaluate(self, at_step: int) -> None:
        """Evaluate the newest checkpoint, and let every exporter have it."""
        self._last_at, self._last_step = time.monotonic(), at_step
        spec, path = self._eval_spec, self._estimator.latest_checkpoint()
        if path is None:
            return
        self.result = self._estimator.evaluate(
            spec.input_fn, spec.steps, spec.hooks, path, spec.name
        )
        step = int(self.result["global_step"])
        max_steps = self._train_spec.max_steps
        is_final = max_steps is None or step >= max_steps
        folder = os.path.join(self._estimator.model_dir, "export")
        self.exported = [
            exporter.export(
                self._estimator,
                os.path.join(folder, exporter.name),
                path,
                self.result,
                is_final,
            )
            for exporter in spec.exporters
        ]


def _check_input_fn(input_fn: Any) -> None:
    if not callable(input_fn):
        raise TypeError(f"`input_fn` must be callable, given: {input_fn}")


def _hooks(hooks: Iterable[Any] | None) -> tuple[Any, ...]:
    hooks = tuple(hooks or ())
    for hook in hooks:
        if not isinstance(hook, tf.train.SessionRunHook):
            raise TypeError(
                f"All hooks must be `SessionRunHook` instances, given: {hook}"
            )
    return hooks


def _listeners(listeners: Iterable[Any] | None) -> tuple[Any, ...]:
    listeners = tuple(listeners or ())
    for listener in listeners:
        if not isinstance(listener, tf.train.CheckpointSaverListener):
            raise TypeError(
                "All saving_listeners must be `CheckpointSaverListener` instances, "
                f"given: {listener}"
            )
    return listeners


def _exporters(exporters: Any) -> tuple[Exporter, ...]:
    if not exporters:
        return ()
    given = [exporters] if isinstance(exporters, Exporter) else exporters
    if not isinstance(given, Iterable) or not all(
        isinstance(exporter, Exporter) for exporter in given
    ):
        raise TypeError(
            "`exporters` must be an Exporter, an iterable of Exporter, or `None`, "
            f"found {exporters}."
        )
    names = [exporter.name for exporter in given]
    if not all(names):
        raise ValueError(
            "An Exporter cannot have a name that is `None` or empty. "
            f"All exporter names: {names}"
        )
    if len(set(names)) != len(names):
        raise ValueError(
            "`exporters` must have unique names. Such a name cannot be `None`. "
            f"All exporter names: {names}"
        )
    return tuple(given)
