"""Evaluation while training goes on, on its variables as they are in memory."""

from collections.abc import Callable, Iterable
from typing import Any

from servable.estimator import loops
from servable.estimator.estimator import Estimator
from servable.export._tensorflow import tf


class InMemoryEvaluatorHook(tf.train.SessionRunHook):  # type: ignore[misc]  # untyped
    """
    Evaluates when training begins, every so many steps, and when it ends.

    No checkpoint is read; metrics are summaries in the directory of the evaluation
    called *name*.

    Args:
        estimator: what is trained.
        input_fn: makes the input of an evaluation.
        steps: batches in an evaluation; None until the input ends.
        hooks: of each evaluation.
        name: of the evaluation.
        every_n_iter: steps between two.

    Raises:
        ValueError: every_n_iter is not positive.
    """

    def __init__(
        self,
        estimator: Estimator,
        input_fn: Callable[..., Any],
        steps: int | None = None,
        hooks: Iterable[Any] | None = None,
        name: str | None = None,
        every_n_iter: int | None = 100,
    ) -> None:
        if every_n_iter is None or every_n_iter <= 0:
            raise ValueError(f"invalid every_n_iter={every_n_iter}.")
        self._estimator = estimator
        self._input_fn = input_fn
        self._steps = steps
        self._hooks = tuple(hooks or ())
        self._name = name
        self._every_n_iter = every_n_iter

    def begin(self) -> None:
        """Find what is trained."""
        self._variables = {v.name: v for v in tf.global_variables()}
        self._step = tf.train.get_global_step()
        self._evaluated_at: int | None = None
        self._iterations = 0

    def after_create_session(self, session: Any, coord: Any) -> None:
        """Evaluate what training begins with."""
        del coord
        self._evaluate(session)

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Evaluate, when it is time."""
        del run_values
        self._iterations += 1
        if self._iterations % self._every_n_iter == 0:
            self._evaluate(run_context.session)

    def end(self, session: Any) -> None:
        """Evaluate what has been trained, unless that is done."""
        if int(session.run(self._step)) != self._evaluated_at:
            self._evaluate(session)

    def _evaluate(self, session: Any) -> None:
        values = session.run(self._variables)
        loops.evaluate(
            self._estimator,
            self._input_fn,
            self._steps,
            self._hooks,
            None,
            self._name,
            values=values,
        )
        self._evaluated_at = int(values[self._step.name])
