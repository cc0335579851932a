"""
Which requests to a model are logged, and where: the LoggingConfig message.

The one kind of log collector here is "tfrecord": files of PredictionLog records that
begin with filename_prefix.  What stock TensorFlow Serving answers to every
configuration of logging is answered here to those that ask for another collector.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from servable.apis import logging_config_pb2
from servable.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)

_logger = logging.getLogger(__name__)

TFRECORD: Final = "tfrecord"


@dataclass(frozen=True, slots=True)
class LoggingConfig:
    """
    The log of one model.

    sampling_rate is the part of the requests that is logged, from 0 to 1.
    sampling_config is the serialized message, which goes into every record.
    """

    filename_prefix: str
    sampling_rate: float
    sampling_config: bytes = b""

    def check_folder(self, roots: Sequence[str]) -> None:
        """
        Check that files can be made, and below one of *roots*, if there are any.

        Looks at the file system, and follows links; what is below no root it does not
        tell of.

        Raises:
            PermissionDenied: The folder is below none of *roots*.
            NotFound: There is no such folder.
            FailedPrecondition: It may not be written to.
        """
        folder = Path(self.filename_prefix).parent
        real = folder.resolve()
        if roots and not any(real.is_relative_to(Path(r).resolve()) for r in roots):
            raise PermissionDenied(
                f"{_PREFIX} {self.filename_prefix} is not below one of "
                "--request_log_roots"
            )
        if not folder.is_dir():
            raise NotFound(f"{_PREFIX} needs the folder {folder}, which is not there")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise FailedPrecondition(
                f"{_PREFIX} needs the folder {folder}, which may not be written to"
            )


_PREFIX: Final = "log_collector_config.filename_prefix"


def from_proto(model: str, message: logging_config_pb2.LoggingConfig) -> LoggingConfig:
    """
    Return how requests to *model* are logged.

    Raises:
        InvalidArgument: Another collector is asked for, a rate is not from 0 to 1, or
            the prefix is no absolute path.
    """
    collector = message.log_collector_config
    if collector.type != TFRECORD or message.HasField("custom_logging_config"):
        _logger.error(
            "logging_config of model %s asks for %s; the only log collector is "
            'log_collector_config { type: "%s" filename_prefix: "/…" }',
            model,
            "a custom_logging_config"
            if message.HasField("custom_logging_config")
            else f'log_collector_config.type "{collector.type}"',
            TFRECORD,
        )
        raise InvalidArgument("No request-logger-creator provided.")
    prefix = collector.filename_prefix
    if not prefix.startswith("/") or prefix.endswith("/"):
        raise InvalidArgument(
            f"{_PREFIX} of model {model} must be an absolute path and the beginning "
            f"of a file name; was {prefix!r}"
        )
    return LoggingConfig(
        prefix,
        _sampling_rate(model, message.sampling_config),
        message.sampling_config.SerializeToString(deterministic=True),
    )


def to_proto(config: LoggingConfig) -> logging_config_pb2.LoggingConfig:
    """Return *config* as a message; from_proto() makes the same of it."""
    message = logging_config_pb2.LoggingConfig()
    message.log_collector_config.type = TFRECORD
    message.log_collector_config.filename_prefix = config.filename_prefix
    message.sampling_config.ParseFromString(config.sampling_config)
    return message


def _sampling_rate(model: str, sampling: logging_config_pb2.SamplingConfig) -> float:
    """Return the rate for this server, which is in no data centre and has no index."""
    tasks = sampling.per_task_sampling_configs
    rates = [("sampling_rate", sampling.sampling_rate)]
    rates += [
        ("per_task_sampling_configs.sampling_rate", t.sampling_rate) for t in tasks
    ]
    for field, rate in rates:
        if not 0 <= rate <= 1:
            raise InvalidArgument(
                f"{field} of model {model} must be from 0 to 1; was {rate}"
            )
    for task in tasks:
        if not task.dc and not task.HasField("task_index"):
            return task.sampling_rate
    return sampling.sampling_rate
