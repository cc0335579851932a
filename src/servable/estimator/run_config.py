"""
How an Estimator runs: directories, seeds, how often to save.

What only distributed training reads is kept and has no effect.
"""

import copy
import inspect
import os
from typing import Any, Final, NamedTuple, Self

from servable.export._tensorflow import tf

_DEFAULTS: Final[dict[str, Any]] = {
    "model_dir": None,
    "tf_random_seed": None,
    "save_summary_steps": 100,
    "save_checkpoints_steps": None,
    "save_checkpoints_secs": None,
    "session_config": None,
    "keep_checkpoint_max": 5,
    "keep_checkpoint_every_n_hours": 10000,
    "log_step_count_steps": 100,
    "train_distribute": None,
    "device_fn": None,
    "protocol": None,
    "eval_distribute": None,
    "experimental_distribute": None,
    "experimental_max_worker_delay_secs": None,
    "session_creation_timeout_secs": 7200,
    "checkpoint_save_graph_def": True,
}
_SAVE_SECS: Final = 600
_BOTH = "`save_checkpoints_steps` and `save_checkpoints_secs` cannot be both set."


class RunConfig:
    """
    How an Estimator runs; a value.

    Args:
        options: those of tf.estimator.RunConfig, by position or by name; each is an
            attribute of the same name.  Checkpoints are saved every 600 seconds
            unless save_checkpoints_steps or save_checkpoints_secs says otherwise.

    Raises:
        TypeError: there is no such option.
        ValueError: both ways to say when to save are given, or a number is out of
            range.
    """

    def __init__(self, *values: Any, **options: Any) -> None:
        if len(values) > len(_DEFAULTS):
            raise TypeError(
                f"RunConfig takes at most {len(_DEFAULTS)} arguments, "
                f"and {len(values)} were given"
            )
        given = dict(zip(_DEFAULTS, values, strict=False))
        for name, value in options.items():
            if name not in _DEFAULTS or name in given:
                what = "an unexpected keyword argument"
                if name in given:
                    what = "multiple values for argument"
                raise TypeError(f"RunConfig.__init__() got {what} {name!r}")
            given[name] = value
        if (
            given.get("save_checkpoints_steps") is not None
            and given.get("save_checkpoints_secs") is not None
        ):
            raise ValueError(_BOTH)
        if {"save_checkpoints_steps", "save_checkpoints_secs"}.isdisjoint(given):
            given["save_checkpoints_secs"] = _SAVE_SECS
        self._options = {**_DEFAULTS, **given}
        model_dir = self._options["model_dir"]
        self._options["model_dir"] = path_to_str(model_dir)
        if model_dir == "":
            raise ValueError("model_dir should be non-empty.")
        _check(self._options)

    def __getattr__(self, name: str) -> Any:
        options = self.__dict__.get("_options", {})
        if name in options:
            return options[name]
        if name in _ALONE:
            return _ALONE[name]
        raise AttributeError(f"'RunConfig' object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _DEFAULTS or name in _ALONE:
            raise AttributeError(
                f"property {name!r} of 'RunConfig' object has no setter"
            )
        super().__setattr__(name, value)

    def replace(self, **changes: Any) -> Self:
        """
        Return a copy with *changes*.

        Raises:
            ValueError: there is no such option, or as the constructor.
        """
        for name in changes:
            if name not in _DEFAULTS:
                raise ValueError(
                    f"Replacing {name} is not supported. "
                    f"Allowed properties are {list(_DEFAULTS)}."
                )
        options = {**self._options, **changes}
        if (
            changes.get("save_checkpoints_steps") is not None
            and "save_checkpoints_secs" not in changes
        ):
            options["save_checkpoints_secs"] = None
        if (
            changes.get("save_checkpoints_secs") is not None
            and "save_checkpoints_steps" not in changes
        ):
            options["save_checkpoints_steps"] = None
        return type(self)(**options)

    def __deepcopy__(self, memo: Any) -> Self:
        return type(self)(**copy.deepcopy(self._options, memo))

    def __repr__(self) -> str:
        changed = {
            name: value
            for name, value in self._options.items()
            if value != _DEFAULTS[name]
        }
        return f"<RunConfig {changed}>"


# What a process that trains alone is in a cluster.
_ALONE: Final[dict[str, Any]] = {
    "cluster_spec": tf.train.ClusterSpec({}),
    "evaluation_master": "",
    "global_id_in_cluster": 0,
    "is_chief": True,
    "master": "",
    "num_ps_replicas": 0,
    "num_worker_replicas": 1,
    "service": None,
    "task_id": 0,
    "task_type": "worker",
}


class _WarmStartFields(NamedTuple):
    ckpt_to_initialize_from: str
    vars_to_warm_start: Any
    var_name_to_vocab_info: Any
    var_name_to_prev_var_name: Any


class WarmStartSettings(_WarmStartFields):
    """
    Where variables get their first values from.

    Args:
        ckpt_to_initialize_from: a checkpoint, or a directory that has some.
        vars_to_warm_start: regular expression, or a list of them or of variables.
        var_name_to_vocab_info: a VocabInfo by the name of its variable.
        var_name_to_prev_var_name: names in the checkpoint that are others.

    Raises:
        ValueError: no checkpoint is named.
    """

    __slots__ = ()

    def __new__(
        cls,
        ckpt_to_initialize_from: str,
        vars_to_warm_start: Any = ".*",
        var_name_to_vocab_info: Any = None,
        var_name_to_prev_var_name: Any = None,
    ) -> "WarmStartSettings":
        if not ckpt_to_initialize_from:
            raise ValueError(
                "`ckpt_to_initialize_from` MUST be set in WarmStartSettings"
            )
        return super().__new__(
            cls,
            ckpt_to_initialize_from,
            vars_to_warm_start,
            var_name_to_vocab_info or {},
            var_name_to_prev_var_name or {},
        )


VocabInfo = tf.train.VocabInfo


def path_to_str(path: Any) -> Any:
    """Return a path as text; None and text stay."""
    return os.fspath(path) if hasattr(path, "__fspath__") else path


def default_session_config() -> Any:
    """Return what sessions are made with where RunConfig says nothing."""
    return tf.ConfigProto(allow_soft_placement=True)


def _check(options: dict[str, Any]) -> None:
    for name, at_least in _AT_LEAST.items():
        value = options[name]
        if value is not None and value < at_least:
            raise ValueError(f"{name} should be >= {at_least}")
    for name in _POSITIVE:
        value = options[name]
        if value is not None and value <= 0:
            raise ValueError(f"{name} should be > 0")
    seed = options["tf_random_seed"]
    if seed is not None and not isinstance(seed, int):
        raise ValueError("tf_random_seed must be integer.")
    delay = options["experimental_max_worker_delay_secs"]
    if delay is not None and not isinstance(delay, int):
        raise ValueError(
            "experimental_max_worker_delay_secs must be an integer if set."
        )
    device_fn = options["device_fn"]
    if device_fn is not None and not _takes_op(device_fn):
        raise ValueError('device_fn must be callable with exactly one argument "op".')
    if options["protocol"] not in (None, "grpc", "grpc+verbs"):
        raise ValueError("protocol should be grpc or grpc+verbs")
    session_config = options["session_config"]
    if session_config is not None and not isinstance(session_config, tf.ConfigProto):
        raise ValueError("session_config must be instance of ConfigProto")


def _takes_op(function: Any) -> bool:
    return callable(function) and list(inspect.signature(function).parameters) == ["op"]


_AT_LEAST: Final = {
    "save_summary_steps": 0,
    "save_checkpoints_steps": 0,
    "save_checkpoints_secs": 0,
    "keep_checkpoint_max": 0,
}
_POSITIVE: Final = (
    "keep_checkpoint_every_n_hours",
    "log_step_count_steps",
    "session_creation_timeout_secs",
)
