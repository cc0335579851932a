"""
The session that runs a SavedModel: TensorFlow's ConfigProto, from a file and flags.

TensorFlow Serving writes the threading and GPU flags over the file even when nobody
gave them, so that the file's values are lost.  Here the file's values stay until a
flag says otherwise.
"""

import logging
from dataclasses import dataclass

from servable.apis import config_pb2, rewriter_config_pb2
from servable.config.text_format import read_text_proto
from servable.errors import InvalidArgument

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SessionFlags:
    """What the flags say about sessions; None is a flag that nobody gave."""

    session_config_file: str = ""
    session_parallelism: int | None = None
    intra_op_parallelism: int | None = None
    inter_op_parallelism: int | None = None
    per_process_gpu_memory_fraction: float | None = None
    mixed_precision: str = ""

    def check(self) -> None:
        """
        Check what the flags demand of each other.

        Raises:
            InvalidArgument: All three parallelisms are given.
        """
        if (
            (self.session_parallelism or 0) > 0
            and (self.intra_op_parallelism or 0) > 0
            and (self.inter_op_parallelism or 0) > 0
        ):
            raise InvalidArgument(
                "Either configure server_options.tensorflow_session_parallelism or "
                "(server_options.tensorflow_intra_op_parallelism, "
                "server_options.tensorflow_inter_op_parallelism) separately. You "
                "cannot configure all."
            )


def read_session_config(flags: SessionFlags) -> bytes:
    """
    Return the serialized ConfigProto that *flags*, and the file they name, add up to.

    Raises:
        InvalidArgument: The flags contradict each other, or the file is no ConfigProto.
        ServingError: The file cannot be read.
    """
    flags.check()
    config = (
        read_text_proto(flags.session_config_file, config_pb2.ConfigProto)
        if flags.session_config_file
        else config_pb2.ConfigProto()
    )
    both = flags.session_parallelism or None
    for value in (both, flags.intra_op_parallelism):
        if value is not None:
            config.intra_op_parallelism_threads = _int32(value)
    for value in (both, flags.inter_op_parallelism):
        if value is not None:
            config.inter_op_parallelism_threads = _int32(value)
    if flags.per_process_gpu_memory_fraction is not None:
        config.gpu_options.per_process_gpu_memory_fraction = (
            flags.per_process_gpu_memory_fraction
        )
    return with_mixed_precision(config, flags.mixed_precision).SerializeToString()


def with_mixed_precision(
    config: config_pb2.ConfigProto, mixed_precision: str
) -> config_pb2.ConfigProto:
    """Return *config*, made to compute in "bfloat16" where TensorFlow sees fit."""
    if mixed_precision == "bfloat16":
        rewriting = config.graph_options.rewrite_options
        rewriting.auto_mixed_precision_onednn_bfloat16 = (
            rewriter_config_pb2.RewriterConfig.ON
        )
    elif mixed_precision:
        _logger.warning(
            "mixed_precision %r has no effect: it is bfloat16 or nothing",
            mixed_precision,
        )
    return config


def _int32(value: int) -> int:
    if not -(1 << 31) <= value < 1 << 31:
        raise InvalidArgument(f"TensorFlow cannot have {value} threads")
    return value
