"""How requests are put into batches: the BatchingParameters message, checked."""

import dataclasses
import os
from dataclasses import dataclass, field

from servable.apis import session_bundle_config_pb2
from servable.config.text_format import read_text_proto
from servable.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class BatchingParameters:
    """
    What --batching_parameters_file says, with TensorFlow Serving's defaults.

    Sizes count rows (the first dimension), the timeout is in seconds.  check_model()
    is for the time a model is loaded.
    """

    max_batch_size: int = 1000
    batch_timeout_s: float = 0.0
    max_enqueued_batches: int = 10
    num_batch_threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    thread_pool_name: str = "model_server_batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 1000

    def check_model(self) -> None:
        """
        Check what upstream finds out only when it loads a model.

        Raises:
            InvalidArgument: The last allowed size is not max_batch_size.
        """
        if self.allowed_batch_sizes and (
            self.allowed_batch_sizes[-1] != self.max_batch_size
        ):
            raise InvalidArgument(
                "Last entry in allowed_batch_sizes must match max_batch_size; last "
                f"entry was {self.allowed_batch_sizes[-1]}; expected "
                f"{self.max_batch_size}"
            )


def read(path: str) -> BatchingParameters:
    """
    Read and check a text file with a BatchingParameters message.

    Raises:
        InvalidArgument: The file is no such message, or a value is out of range.
        ServingError: The file cannot be read.
    """
    return from_proto(
        read_text_proto(path, session_bundle_config_pb2.BatchingParameters)
    )


def from_proto(
    message: session_bundle_config_pb2.BatchingParameters,
) -> BatchingParameters:
    """
    Return what *message* says, with the defaults for what it leaves out.

    Raises:
        InvalidArgument: A value is out of range.
    """
    parameters = BatchingParameters(
        max_batch_size=_wrapped(message, "max_batch_size", 1000),
        batch_timeout_s=_wrapped(message, "batch_timeout_micros", 0) / 1e6,
        max_enqueued_batches=_wrapped(message, "max_enqueued_batches", 10),
        num_batch_threads=_wrapped(
            message, "num_batch_threads", len(os.sched_getaffinity(0))
        ),
        thread_pool_name=(
            message.thread_pool_name.value
            if message.HasField("thread_pool_name")
            else "batch_threads"
        ),
        allowed_batch_sizes=tuple(message.allowed_batch_sizes),
        pad_variable_length_inputs=message.pad_variable_length_inputs,
        enable_large_batch_splitting=message.enable_large_batch_splitting.value,
        max_execution_batch_size=_wrapped(
            message,
            "max_execution_batch_size",
            _wrapped(message, "max_batch_size", 1000),
        ),
    )
    _check(parameters, message.batch_timeout_micros.value)
    # Upstream makes room for one batch silently, and people rely on 0 being legal.
    if parameters.max_enqueued_batches or parameters.enable_large_batch_splitting:
        return parameters
    return dataclasses.replace(parameters, max_enqueued_batches=1)


def _wrapped(
    message: session_bundle_config_pb2.BatchingParameters, name: str, default: int
) -> int:
    return int(getattr(message, name).value) if message.HasField(name) else default


def _check(parameters: BatchingParameters, timeout_micros: int) -> None:
    for name, value in (
        ("num_batch_threads", parameters.num_batch_threads),
        ("input_batch_size_limit", parameters.max_batch_size),
    ):
        if value <= 0:
            raise InvalidArgument(f"{name} must be positive; was {value}")
    for name, value in (
        ("batch_timeout_micros", timeout_micros),
        ("max_enqueued_batches", parameters.max_enqueued_batches),
    ):
        if value < 0:
            raise InvalidArgument(f"{name} must be non-negative; was {value}")
    if not parameters.enable_large_batch_splitting:
        return
    if parameters.max_execution_batch_size <= 0:
        raise InvalidArgument(
            "max_execution_batch_size must be positive; was "
            f"{parameters.max_execution_batch_size}"
        )
    if parameters.max_execution_batch_size > parameters.max_batch_size:
        raise InvalidArgument(
            "When enable_large_batch_splitting is true, input_batch_size_limit must be "
            "greater than or equal to max_execution_batch_size."
        )
