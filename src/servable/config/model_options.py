"""
What is said of a model here and not to TensorFlow Serving, as values.

It stands in the field `servable` of a ModelConfig, or for all models that have none in
the flag --model_options.  Everything here is pure but for what the parser logs.
"""

import math
from dataclasses import dataclass
from typing import Final

from servable.apis import model_options_pb2
from servable.config.text_format import parse_text_proto
from servable.core.served_versions import Canary, Pinned, ServedVersions, Shadow
from servable.errors import InvalidArgument

_PERCENT: Final = 100.0


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """
    How the versions of a model follow each other.

    Attributes:
        aspired_version_policy: a name of the entry points servable.version_policies;
            "" for the default.
        served_versions: in place of a version policy; None for that.
    """

    aspired_version_policy: str = ""
    served_versions: ServedVersions | None = None


def parse(text: str) -> ModelOptions:
    """
    Return what the flag --model_options says, a servable.ModelOptions as text.

    Raises:
        InvalidArgument: It is none, or a number in it is out of its range.
    """
    message = parse_text_proto(
        text.encode(), model_options_pb2.ModelOptions, "--model_options"
    )
    return from_proto(message, "--model_options")


def from_proto(message: model_options_pb2.ModelOptions, where: str) -> ModelOptions:
    """
    Return *message* as a value; errors say that it is that of *where*.

    Raises:
        InvalidArgument: A number is out of its range.
    """
    served: ServedVersions | None = None
    match message.WhichOneof("served_versions"):
        case "pinned":
            served = Pinned(message.pinned.version)
        case "canary":
            served = _canary(message.canary, where)
        case "shadow":
            served = _shadow(message.shadow, where)
        case _:
            pass
    return ModelOptions(message.aspired_version_policy, served)


def to_proto(options: ModelOptions) -> model_options_pb2.ModelOptions:
    """Return *options* as a message; from_proto() makes the same of it."""
    message = model_options_pb2.ModelOptions(
        aspired_version_policy=options.aspired_version_policy
    )
    match options.served_versions:
        case Pinned(version):
            message.pinned.SetInParent()  # a version of 0 is one, too
            message.pinned.version = version
        case Canary() as canary:
            message.canary.percent = canary.percent
            message.canary.min_requests = canary.min_requests
            message.canary.min_seconds = canary.min_s
            message.canary.max_error_rate_increase = canary.max_error_rate_increase
            message.canary.max_latency_ratio = canary.max_latency_ratio
        case Shadow() as shadow:
            message.shadow.percent = shadow.percent
            message.shadow.relative_tolerance = shadow.relative_tolerance
        case None:
            pass
    return message


def _canary(message: model_options_pb2.Canary, where: str) -> Canary:
    default = Canary(_PERCENT)
    canary = Canary(
        message.percent,
        message.min_requests
        if message.HasField("min_requests")
        else default.min_requests,
        message.min_seconds if message.HasField("min_seconds") else default.min_s,
        message.max_error_rate_increase
        if message.HasField("max_error_rate_increase")
        else default.max_error_rate_increase,
        message.max_latency_ratio
        if message.HasField("max_latency_ratio")
        else default.max_latency_ratio,
    )
    _check_percent(canary.percent, where, "canary")
    _check_range(canary.min_requests, 1, where, "canary.min_requests")
    _check_range(canary.min_s, 0, where, "canary.min_seconds")
    _check_range(
        canary.max_error_rate_increase, 0, where, "canary.max_error_rate_increase"
    )
    _check_range(canary.max_latency_ratio, 1, where, "canary.max_latency_ratio")
    return canary


def _shadow(message: model_options_pb2.Shadow, where: str) -> Shadow:
    shadow = Shadow(
        message.percent,
        message.relative_tolerance
        if message.HasField("relative_tolerance")
        else Shadow(_PERCENT).relative_tolerance,
    )
    _check_percent(shadow.percent, where, "shadow")
    _check_range(shadow.relative_tolerance, 0, where, "shadow.relative_tolerance")
    return shadow


def _check_percent(percent: float, where: str, field: str) -> None:
    if not 0 < percent <= _PERCENT:
        raise InvalidArgument(
            f"{where}: servable.{field}.percent must be above 0 and at most 100; was "
            f"{percent:g}"
        )


def _check_range(value: float, least: float, where: str, field: str) -> None:
    if not least <= value < math.inf:
        raise InvalidArgument(
            f"{where}: servable.{field} must be at least {least:g}; was {value:g}"
        )
