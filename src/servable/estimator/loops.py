"""
Training, evaluation and prediction, in one process and on version 1 graphs.

These are plain loops over TensorFlow's monitored sessions; each call builds a graph
and closes its session before it returns.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from servable.estimator.mode_keys import ModeKeys
from servable.export._tensorflow import tf

if TYPE_CHECKING:
    from servable.estimator.estimator import Estimator

_logger = logging.getLogger(__name__)

_LOSS: Final = "loss"
_STEP: Final = tf.GraphKeys.GLOBAL_STEP
_PAIR: Final = 2
# What is written as a number into a summary.
_NUMBERS: Final = (float, int, np.float32, np.int32, np.int64)


def train(
    estimator: "Estimator",
    input_fn: Callable[..., Any],
    hooks: Iterable[Any] | None,
    steps: int | None,
    max_steps: int | None,
    saving_listeners: Iterable[Any] | None,
) -> None:
    """Train and save checkpoints; see Estimator.train."""
    if steps is not None and max_steps is not None:
        raise ValueError("Can not provide both steps and max_steps.")
    _check_positive("steps", steps)
    _check_positive("max_steps", max_steps)
    hooks, saving_listeners = _hooks(hooks), _listeners(saving_listeners)
    if max_steps is not None and max_steps <= _saved_step(estimator):
        _logger.info("Not training: step %d is reached already", max_steps)
        return
    config = estimator.config
    with tf.Graph().as_default() as graph:
        spec, all_hooks = _build(estimator, input_fn, ModeKeys.TRAIN)
        _warm_start(estimator)
        _summarize_loss(spec.loss)
        all_hooks += [
            *hooks,
            *spec.training_hooks,
            tf.train.NanTensorHook(spec.loss),
        ]
        if steps is not None or max_steps is not None:
            all_hooks.append(tf.train.StopAtStepHook(steps, max_steps))
        if config.log_step_count_steps:
            what = {"loss": spec.loss, "step": tf.train.get_global_step()}
            every = config.log_step_count_steps
            all_hooks.append(tf.train.LoggingTensorHook(what, every_n_iter=every))
        scaffold = _with_saver(spec.scaffold, graph, config)
        given = [*all_hooks, *spec.training_chief_hooks]
        savers = [h for h in given if isinstance(h, tf.train.CheckpointSaverHook)]
        made = [] if savers else _saver_hooks(config, scaffold)
        _listen(savers or made, saving_listeners)
        with tf.train.MonitoredTrainingSession(
            checkpoint_dir=estimator.model_dir,
            scaffold=scaffold,
            hooks=all_hooks,
            chief_only_hooks=[*made, *spec.training_chief_hooks],
            save_checkpoint_secs=0,  # the hook above does
            save_summaries_steps=config.save_summary_steps,
            config=estimator._session_config(),
            log_step_count_steps=config.log_step_count_steps,
        ) as session:
            while not session.should_stop():
                session.run([spec.train_op, spec.loss])


def evaluate(
    estimator: "Estimator",
    input_fn: Callable[..., Any],
    steps: int | None,
    hooks: Iterable[Any] | None,
    checkpoint_path: str | None,
    name: str | None,
    *,
    values: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return metrics; see Estimator.evaluate.  *values* stand for a checkpoint."""
    _check_positive("steps", steps)
    hooks = _hooks(hooks)
    with tf.Graph().as_default():
        spec, all_hooks = _build(estimator, input_fn, ModeKeys.EVAL)
        metrics = _metrics(spec)
        all_hooks += [*hooks, *spec.evaluation_hooks]
        lasts = {key: value for key, (value, _) in metrics.items()}
        updates = [update for _, update in metrics.values()]
        result: dict[str, Any] = {}
        checkpoint_path = checkpoint_path or estimator.latest_checkpoint()
        creator = (
            _session_creator(estimator, spec.scaffold, checkpoint_path, "evaluate")
            if values is None
            else _session_creator_with(estimator, spec.scaffold, values)
        )
        with tf.train.MonitoredSession(
            creator, hooks=[*all_hooks, _AtEnd(lasts, result)]
        ) as session:
            done = 0
            while not session.should_stop() and done != steps:
                session.run(updates)
                done += 1
    checkpoint = None if values is not None else checkpoint_path
    _write_summaries(estimator, result, name, checkpoint)
    return result


def predict(
    estimator: "Estimator",
    input_fn: Callable[..., Any],
    predict_keys: Any,
    hooks: Iterable[Any] | None,
    checkpoint_path: str | None,
    yield_single_examples: bool,
) -> Iterator[Any]:
    """Yield predictions; see Estimator.predict."""
    hooks = _hooks(hooks)
    with tf.Graph().as_default():
        spec, all_hooks = _build(estimator, input_fn, ModeKeys.PREDICT)
        predictions = _chosen(spec.predictions, predict_keys)
        all_hooks += [*hooks, *spec.prediction_hooks]
        with tf.train.MonitoredSession(
            _session_creator(estimator, spec.scaffold, checkpoint_path, "predict"),
            hooks=all_hooks,
        ) as session:
            while not session.should_stop():
                batch = session.run(predictions)
                if yield_single_examples:
                    yield from _examples(batch)
                else:
                    yield batch


def _build(
    estimator: "Estimator", input_fn: Callable[..., Any], mode: str
) -> tuple[Any, list[Any]]:
    """Build input and model in the default graph; return the spec, and hooks."""
    tf.set_random_seed(estimator.config.tf_random_seed)
    tf.train.create_global_step()
    features, labels, hooks = _input(estimator, input_fn, mode)
    if mode == ModeKeys.PREDICT:
        labels = None
    return estimator._call_model_fn(features, labels, mode), hooks


def _input(
    estimator: "Estimator", input_fn: Callable[..., Any], mode: str
) -> tuple[Any, Any, list[Any]]:
    from servable.estimator.estimator import argument_names  # noqa: PLC0415 - a circle

    offered = {"mode": mode, "params": estimator.params, "config": estimator.config}
    names = argument_names(input_fn)
    with tf.device("/cpu:0"):
        result = input_fn(**{n: v for n, v in offered.items() if n in names})
        hooks = []
        if isinstance(result, tf.data.Dataset):
            iterator = tf.data.make_initializable_iterator(result)
            hooks.append(_Initialize(iterator.initializer))
            result = iterator.get_next()
    if isinstance(result, list | tuple):
        if len(result) != _PAIR:
            raise ValueError(
                "input_fn should return (features, labels) as a len 2 tuple."
            )
        return result[0], result[1], hooks
    return result, None, hooks


class _Initialize(tf.train.SessionRunHook):  # type: ignore[misc]  # untyped
    """Runs an operation whenever there is a new session."""

    def __init__(self, operation: Any) -> None:
        self._operation = operation

    def after_create_session(self, session: Any, coord: Any) -> None:
        """Run it."""
        del coord
        session.run(self._operation)


class _AtEnd(tf.train.SessionRunHook):  # type: ignore[misc]  # untyped
    """Keeps the last values of tensors."""

    def __init__(self, tensors: Mapping[str, Any], result: dict[str, Any]) -> None:
        self._tensors = tensors
        self._result = result

    def end(self, session: Any) -> None:
        """Fetch them."""
        self._result.update(session.run(dict(self._tensors)))


def _metrics(spec: Any) -> dict[str, tuple[Any, Any]]:
    metrics = dict(spec.eval_metric_ops)
    for reserved, quoted in ((_LOSS, f'"{_LOSS}"'), (_STEP, f"`{_STEP}`")):
        if reserved in metrics:
            raise ValueError(
                f"Metric with name {quoted} is not allowed, because Estimator "
                "already defines a default metric with the same name."
            )
    metrics[_LOSS] = tf.metrics.mean(spec.loss)
    step = tf.train.get_global_step()
    return {**dict(sorted(metrics.items())), _STEP: (step, step)}


def _summarize_loss(loss: Any) -> None:
    """Have the loss summarized, unless the model has a summary of that name."""
    summaries = tf.get_collection(tf.GraphKeys.SUMMARIES)
    if not any(summary.op.name == _LOSS for summary in summaries):
        tf.summary.scalar(_LOSS, loss)


def _write_summaries(
    estimator: "Estimator",
    result: Mapping[str, Any],
    name: str | None,
    checkpoint: str | None,
) -> None:
    summary = tf.Summary()
    for key, value in result.items():
        if key != _STEP:
            _summarize(summary, key, value)
    if checkpoint:
        path = tf.make_tensor_proto(checkpoint, tf.string)
        summary.value.add(tag="checkpoint_path", tensor=path)
    with tf.Graph().as_default():
        # Files are named by the second, and would replace those of the same one.
        writer = tf.summary.FileWriter(
            estimator.eval_dir(name), filename_suffix=f".{time.time_ns()}"
        )
        writer.add_summary(summary, int(result[_STEP]))
        writer.close()


def _summarize(summary: Any, key: str, value: Any) -> None:
    """Add a metric: a number, a tensor, or serialized summaries."""
    if isinstance(value, _NUMBERS):
        summary.value.add(tag=key, simple_value=float(value))
    elif isinstance(value, np.ndarray):
        tensor = tf.make_tensor_proto(value)
        summary.value.add(tag=key, node_name=key, tensor=tensor)
    elif isinstance(value, bytes):
        try:
            made = tf.Summary.FromString(value)
        except DecodeError:
            _logger.warning("Metric %s is no summary, and is not written", key)
            return
        for at, one in enumerate(made.value):
            one.tag = f"{key}/{at}"
        summary.value.extend(made.value)
    else:
        _logger.warning("Metric %s, a %s, is not written", key, type(value).__name__)


def _chosen(predictions: Any, keys: Any) -> Any:
    if not keys:
        return predictions
    if not isinstance(predictions, dict):
        raise ValueError(
            "predict_keys argument is not valid in case of non-dict predictions."
        )
    wanted = {keys} if isinstance(keys, str) else set(keys)
    chosen = {key: value for key, value in predictions.items() if key in wanted}
    if not chosen:
        raise ValueError(
            f"Expected to run at least one output from {predictions.keys()}, "
            f"provided {keys}."
        )
    return chosen


def _examples(batch: Any) -> Iterator[Any]:
    if not isinstance(batch, dict):
        yield from batch
        return
    length = None
    for key, value in batch.items():
        length = length or value.shape[0]
        if length != value.shape[0]:
            raise ValueError(
                "Batch length of predictions should be same. "
                f"{key} has different batch length than others."
            )
    for at in range(length or 0):
        yield {key: value[at] for key, value in batch.items()}


def _session_creator(
    estimator: "Estimator", scaffold: Any, checkpoint_path: str | None, what: str
) -> Any:
    path = checkpoint_path or estimator.latest_checkpoint()
    if not path:
        _logger.info(
            "Could not find trained model in model_dir: %s, running initialization to "
            "%s.",
            estimator.model_dir,
            what,
        )
        _warm_start(estimator)
    return tf.train.ChiefSessionCreator(
        scaffold=scaffold,
        config=estimator._session_config(),
        checkpoint_filename_with_path=path,
    )


def _session_creator_with(
    estimator: "Estimator", scaffold: Any, values: Mapping[str, Any]
) -> Any:
    """Have variables begin as *values*, by their names."""
    initializers = {
        variable.initializer: values[variable.name]
        for variable in tf.global_variables()
        if variable.name in values
    }

    def set_variables(_scaffold: Any, session: Any) -> None:
        for initializer, value in initializers.items():
            # One by one: several variables may have one tensor for an initial value.
            session.run(initializer, {initializer.inputs[1]: value})

    return tf.train.ChiefSessionCreator(
        scaffold=tf.train.Scaffold(copy_from_scaffold=scaffold, init_fn=set_variables),
        config=estimator._session_config(),
    )


def _warm_start(estimator: "Estimator") -> None:
    settings = estimator._warm_start_settings
    if settings is not None and not estimator.latest_checkpoint():
        tf.train.warm_start(*settings)


def _with_saver(scaffold: Any, graph: Any, config: Any) -> Any:
    if not scaffold.saver and not graph.get_collection(tf.GraphKeys.SAVERS):
        saver = tf.train.Saver(
            sharded=True,
            max_to_keep=config.keep_checkpoint_max,
            keep_checkpoint_every_n_hours=config.keep_checkpoint_every_n_hours,
            defer_build=True,
            save_relative_paths=True,
        )
        graph.add_to_collection(tf.GraphKeys.SAVERS, saver)
    return scaffold


def _saver_hooks(config: Any, scaffold: Any) -> list[Any]:
    if not config.save_checkpoints_secs and not config.save_checkpoints_steps:
        return []
    return [
        tf.train.CheckpointSaverHook(
            config.model_dir,
            save_secs=config.save_checkpoints_secs,
            save_steps=config.save_checkpoints_steps,
            scaffold=scaffold,
            save_graph_def=config.checkpoint_save_graph_def,
        )
    ]


def _listen(savers: list[Any], listeners: list[Any]) -> None:
    """Have the first of *savers* tell *listeners*."""
    if not listeners:
        return
    if not savers:
        raise ValueError(
            "There should be a CheckpointSaverHook to use saving_listeners. Please set "
            "one of the RunConfig.save_checkpoints_steps or "
            "RunConfig.save_checkpoints_secs."
        )
    savers[0]._listeners.extend(listeners)


def _saved_step(estimator: "Estimator") -> int:
    path = estimator.latest_checkpoint()
    if path is None:
        return 0
    try:
        return int(tf.train.load_variable(path, _STEP))
    except tf.errors.NotFoundError:
        return 0


def _hooks(hooks: Iterable[Any] | None) -> list[Any]:
    checked = list(hooks or ())
    for hook in checked:
        if not isinstance(hook, tf.train.SessionRunHook):
            raise TypeError(f"Hooks must be a SessionRunHook, given: {hook}")
    return checked


def _listeners(listeners: Any) -> list[Any]:
    checked = list(listeners or ())
    for listener in checked:
        if not isinstance(listener, tf.train.CheckpointSaverListener):
            raise TypeError(
                "saving_listeners must be a list of CheckpointSaverListener, "
                f"given: {listener}"
            )
    return checked


def _check_positive(name: str, value: int | None) -> None:
    if value is not None and value <= 0:
        raise ValueError(f"Must specify {name} > 0, given: {value}")
