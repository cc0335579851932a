"""
The Estimator: a model function, a directory of checkpoints, and what is done with
them.

How a model is called is decided here; how it is exported, trained, evaluated and
asked is in saved_model_export and loops.
"""

import copy
import inspect
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Self, cast

from servable.estimator import loops
from servable.estimator.estimator_spec import EstimatorSpec
from servable.estimator.mode_keys import ModeKeys
from servable.estimator.run_config import (
    RunConfig,
    WarmStartSettings,
    default_session_config,
    path_to_str,
)
from servable.estimator.saved_model_export import SavedModelExport
from servable.export._tensorflow import tf

_logger = logging.getLogger(__name__)

_MODEL_FN_ARGUMENTS: Final = frozenset(
    {"features", "labels", "mode", "params", "self", "config"}
)
_MAY_BE_OVERRIDDEN: Final = frozenset({"latest_checkpoint", "model_fn"})
ReceiverFn = Callable[[], Any]


class Estimator:
    """
    A model function and its checkpoints.

    Each method builds graphs of its own, so one object may be used again and again,
    but not by two threads at a time.

    Args:
        model_fn: called with those of features, labels, mode, params and config that
            it names; returns an EstimatorSpec.
        model_dir: where checkpoints are; config's if None, else a temporary one.  It
            is not made before something is written to it.
        config: a RunConfig.
        params: what model_fn gets as params.
        warm_start_from: a checkpoint, a directory of them, or WarmStartSettings: where
            variables come from as long as there is no checkpoint in model_dir.

    Raises:
        ValueError: model_fn or config do not fit, or a subclass overrides a method.
    """

    def __init__(
        self,
        model_fn: Callable[..., Any],
        model_dir: Any = None,
        config: RunConfig | None = None,
        params: Mapping[str, Any] | None = None,
        warm_start_from: Any = None,
    ) -> None:
        _check_not_overridden(type(self))
        self._config = _config_with_directory(config, model_dir)
        if model_fn is None:
            raise ValueError("model_fn must be provided to Estimator.")
        _check_arguments(model_fn, params)
        self._model_fn = model_fn
        self._params: dict[str, Any] = copy.deepcopy(
            cast("dict[str, Any]", params or {})
        )
        self._warm_start_settings = _warm_start_settings(warm_start_from)

    @property
    def model_dir(self) -> str:
        """Where checkpoints are."""
        directory: str = self._config.model_dir
        return directory

    @property
    def config(self) -> RunConfig:
        """A copy of how this runs."""
        return copy.deepcopy(self._config)

    @property
    def params(self) -> dict[str, Any]:
        """A copy of what model_fn gets."""
        return copy.deepcopy(self._params)

    @property
    def model_fn(self) -> Callable[..., Any]:
        """The model function, called with features, labels, mode and config."""

        def public_model_fn(
            features: Any, labels: Any, mode: str, config: RunConfig
        ) -> Any:
            return self._call_model_fn(features, labels, mode, config)

        return public_model_fn

    def eval_dir(self, name: str | None = None) -> str:
        """Return where the summaries of the evaluation called *name* are."""
        return os.path.join(self.model_dir, f"eval_{name}" if name else "eval")

    def latest_checkpoint(self) -> str | None:
        """Return the newest checkpoint that the state file in model_dir names."""
        path: str | None = tf.train.latest_checkpoint(self.model_dir)
        return path

    def get_variable_names(self) -> list[str]:
        """
        Return the names of all variables in the newest checkpoint.

        Raises:
            ValueError: there is none.
        """
        self._check_trained()
        return [name for name, _ in tf.train.list_variables(self.model_dir)]

    def get_variable_value(self, name: str) -> Any:
        """
        Return a variable in the newest checkpoint, as a NumPy array.

        Raises:
            ValueError: there is no checkpoint.
        """
        self._check_trained()
        return tf.train.load_variable(self.model_dir, name)

    def train(
        self,
        input_fn: Callable[..., Any],
        hooks: Any = None,
        steps: int | None = None,
        max_steps: int | None = None,
        saving_listeners: Any = None,
    ) -> Self:
        """
        Train until the input ends, for *steps* steps, or up to step *max_steps*.

        Raises:
            ValueError: both numbers are given, or one is not positive.
        """
        loops.train(self, input_fn, hooks, steps, max_steps, saving_listeners)
        return self

    def evaluate(
        self,
        input_fn: Callable[..., Any],
        steps: int | None = None,
        hooks: Any = None,
        checkpoint_path: str | None = None,
        name: str | None = None,
    ) -> dict[str, Any]:
        """
        Return the metrics over the input, or *steps* batches of it, and global_step.

        They are also written as summaries into model_dir/eval_*name*.

        Raises:
            ValueError: steps is not positive.
        """
        return loops.evaluate(self, input_fn, steps, hooks, checkpoint_path, name)

    def predict(
        self,
        input_fn: Callable[..., Any],
        predict_keys: Any = None,
        hooks: Any = None,
        checkpoint_path: str | None = None,
        yield_single_examples: bool = True,
    ) -> Iterator[Any]:
        """
        Yield predictions, an example or a batch at a time.

        Raises:
            ValueError: predictions are of different lengths, or lack a wanted key.
        """
        return loops.predict(
            self, input_fn, predict_keys, hooks, checkpoint_path, yield_single_examples
        )

    def export_savedmodel(
        self,
        export_dir_base: Any,
        serving_input_receiver_fn: ReceiverFn | None,
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        checkpoint_path: str | None = None,
        strip_default_attrs: bool = False,
    ) -> bytes:
        """
        Write a SavedModel for serving into a new directory named by the time.

        Args:
            export_dir_base: where the directory is made.
            serving_input_receiver_fn: returns a ServingInputReceiver.
            assets_extra: files to go along, by where they go in `assets.extra`.
            as_text: write the graph as text.
            checkpoint_path: the checkpoint; the newest one if None.
            strip_default_attrs: leave attributes out that have their default.

        Returns:
            The directory, as bytes.

        Raises:
            ValueError: there is no checkpoint, or it does not fit the model.
            RuntimeError: there is no name left for the directory.
        """
        if not serving_input_receiver_fn:
            raise ValueError("An input_receiver_fn must be defined.")
        return self._export(
            export_dir_base,
            {ModeKeys.PREDICT: serving_input_receiver_fn},
            assets_extra,
            as_text,
            checkpoint_path,
            strip_default_attrs,
        )

    def export_saved_model(
        self,
        export_dir_base: Any,
        serving_input_receiver_fn: ReceiverFn | None,
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        checkpoint_path: str | None = None,
        experimental_mode: str = ModeKeys.PREDICT,
    ) -> bytes:
        """Write a SavedModel of one mode; otherwise as export_savedmodel, stripped."""
        if not serving_input_receiver_fn:
            raise ValueError("An input_receiver_fn must be defined.")
        return self._export(
            export_dir_base,
            {experimental_mode: serving_input_receiver_fn},
            assets_extra,
            as_text,
            checkpoint_path,
            strip_default_attrs=True,
        )

    def experimental_export_all_saved_models(
        self,
        export_dir_base: Any,
        input_receiver_fn_map: Mapping[str, ReceiverFn | None],
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        checkpoint_path: str | None = None,
    ) -> bytes:
        """Write a SavedModel with a meta graph for each mode that has a receiver."""
        return self._export(
            export_dir_base,
            input_receiver_fn_map,
            assets_extra,
            as_text,
            checkpoint_path,
            strip_default_attrs=True,
        )

    def _export(
        self,
        export_dir_base: Any,
        receiver_fns: Mapping[str, ReceiverFn | None],
        assets_extra: Mapping[str, str] | None,
        as_text: bool,
        checkpoint_path: str | None,
        strip_default_attrs: bool,
    ) -> bytes:
        export = SavedModelExport(
            self._call_model_fn,
            self._checkpoint_to_export(checkpoint_path),
            self._session_config(),
            self._config.tf_random_seed,
            strip_default_attrs,
        )
        base = tf.compat.as_str(path_to_str(export_dir_base))
        return export.write(base, receiver_fns, assets_extra, as_text)

    def _checkpoint_to_export(self, checkpoint_path: Any) -> str:
        path = path_to_str(checkpoint_path) or self.latest_checkpoint()
        if not path and self._warm_start_settings is not None:
            path = self._warm_start_settings.ckpt_to_initialize_from
            if tf.gfile.IsDirectory(path):
                path = tf.train.latest_checkpoint(path)
        if not path:
            raise ValueError(f"Couldn't find trained model at {self.model_dir}.")
        return str(tf.compat.as_str(path))

    def _call_model_fn(
        self, features: Any, labels: Any, mode: str, config: RunConfig | None = None
    ) -> EstimatorSpec:
        arguments = argument_names(self._model_fn)
        offered = {
            "labels": labels,
            "mode": mode,
            "params": self.params,
            "config": config or self.config,
        }
        if labels is not None and "labels" not in arguments:
            raise ValueError(
                "model_fn does not take labels, but input_fn returns labels."
            )
        wanted = {name: offered[name] for name in offered if name in arguments}
        spec = self._model_fn(features=features, **wanted)
        if not isinstance(spec, EstimatorSpec):
            raise ValueError("model_fn should return an EstimatorSpec.")
        return spec

    def _session_config(self) -> Any:
        return self._config.session_config or default_session_config()

    def _check_trained(self) -> None:
        if not self.latest_checkpoint():
            raise ValueError(
                f"Could not find trained model in model_dir: {self.model_dir}."
            )


def argument_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the arguments that *function* may still be given by name."""
    if not callable(function):
        raise TypeError("unsupported callable")
    parameters = inspect.signature(function).parameters.values()
    by_name = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    names = tuple(p.name for p in parameters if p.kind in by_name)
    bound = getattr(function, "keywords", None) or {}  # functools.partial's
    return tuple(name for name in names if name not in bound)


def _check_arguments(
    model_fn: Callable[..., Any], params: Mapping[str, Any] | None
) -> None:
    names = argument_names(model_fn)
    if "features" not in names:
        raise ValueError(f"model_fn ({model_fn}) must include features argument.")
    if params is not None and "params" not in names:
        raise ValueError(
            f"model_fn ({model_fn}) does not include params argument, "
            f"but params ({params}) is passed to Estimator."
        )
    if params is None and "params" in names:
        _logger.warning("model_fn (%s) takes params, and there are none", model_fn)
    unexpected = [name for name in names if name not in _MODEL_FN_ARGUMENTS]
    if unexpected:
        raise ValueError(
            f"model_fn ({model_fn}) has following not expected args: {unexpected}"
        )


def _config_with_directory(config: RunConfig | None, model_dir: Any) -> RunConfig:
    if config is None:
        config = RunConfig()
    if not isinstance(config, RunConfig):
        raise ValueError(
            f"config must be an instance of `RunConfig`, but provided {config}."
        )
    model_dir = path_to_str(model_dir)
    if model_dir and config.model_dir is not None and config.model_dir != model_dir:
        raise ValueError(
            "`model_dir` are set both in constructor and `RunConfig`, but with "
            f"different values. In constructor: '{model_dir}', in `RunConfig`: "
            f"'{config.model_dir}' "
        )
    if not model_dir and config.model_dir is None:
        model_dir = tempfile.mkdtemp()
        _logger.warning("Using temporary folder as model directory: %s", model_dir)
    return config.replace(model_dir=model_dir or config.model_dir)


def _warm_start_settings(warm_start_from: Any) -> WarmStartSettings | None:
    if warm_start_from is None or isinstance(warm_start_from, WarmStartSettings):
        return warm_start_from
    if isinstance(warm_start_from, str | bytes) or hasattr(
        warm_start_from, "__fspath__"
    ):
        return WarmStartSettings(tf.compat.as_str_any(path_to_str(warm_start_from)))
    raise ValueError(
        "warm_start_from must be a string or a WarmStartSettings, "
        f"instead got {type(warm_start_from)}"
    )


def _check_not_overridden(cls: type[Estimator]) -> None:
    if cls is Estimator or cls.__module__.startswith("servable.estimator."):
        return
    members = {name for name in vars(Estimator) if not name.startswith("__")}
    overridden = sorted(members & vars(cls).keys() - _MAY_BE_OVERRIDDEN)
    if overridden:
        raise ValueError(
            "Subclasses of Estimator cannot override members of Estimator. "
            f"{cls} does override {overridden}"
        )
