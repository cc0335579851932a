"""
How the versions of SavedModels are batched: whose parameters hold, and what the engine
is told of them.
"""

import dataclasses
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from servable.config import batching_parameters
from servable.config.batching_options import (
    NO_OPTIONS,
    BatchingOptions,
    BatchingOptionsByModel,
)
from servable.config.batching_parameters import BatchingParameters

if TYPE_CHECKING:
    from servable import _engine

_logger = logging.getLogger(__name__)

PARAMETERS_FILE: Final = "batching_params.pbtxt"


@dataclass(slots=True)  # not frozen: the engine's protocol has plain attributes
class EngineBatching:
    """What servable._engine.BatchingParameters describes."""

    max_batch_size: int
    batch_timeout_s: float
    max_enqueued_batches: int
    allowed_batch_sizes: Sequence[int]
    pad_variable_length_inputs: bool
    enable_large_batch_splitting: bool
    max_execution_batch_size: int
    run_unbatchable_alone: bool
    padding_value: float | None
    unpad_outputs: bool
    unbatched_signatures: Sequence[str]
    policy: str
    target_p99_ms: float
    max_in_flight: int
    batcher: "_engine.Batcher | None"


@dataclass(frozen=True, slots=True)
class ModelBatching:
    """
    Decides how each version is batched.

    Attributes:
        parameters: hold for every version, or with is_per_model for none; None:
            nothing is batched.
        is_per_model: whether the file in a version's directory says it, and a version
            without one is not batched.
        options: ours.
        refuses_unbatchable: whether what no batch can hold is refused, as TensorFlow
            Serving does, where neither options nor policy say otherwise.
    """

    parameters: BatchingParameters | None
    is_per_model: bool = False
    options: BatchingOptionsByModel = NO_OPTIONS
    refuses_unbatchable: bool = True

    def of(self, model_name: str, path: str) -> EngineBatching | None:
        """
        Return how the version at *path* is batched, None for not at all.

        Raises:
            InvalidArgument: The parameters contradict one another, or there is no such
                batcher.
            ServingError: Its file cannot be read.
        """
        parameters = self.parameters
        if parameters is None:
            return None
        if self.is_per_model:
            file = Path(path) / PARAMETERS_FILE
            if not os.path.lexists(file):
                return None
            parameters = batching_parameters.read(str(file))
        parameters.check_model()
        _logger.info("Wrapping session to perform batch processing")
        options = self.options.of(model_name)
        if options.run_unbatchable_alone is None and not self.refuses_unbatchable:
            options = dataclasses.replace(options, run_unbatchable_alone=True)
        return _for_engine(parameters, options)


def _for_engine(
    parameters: BatchingParameters, options: BatchingOptions
) -> EngineBatching:
    return EngineBatching(
        max_batch_size=parameters.max_batch_size,
        batch_timeout_s=parameters.batch_timeout_s,
        max_enqueued_batches=parameters.max_enqueued_batches,
        allowed_batch_sizes=parameters.allowed_batch_sizes,
        pad_variable_length_inputs=parameters.pad_variable_length_inputs,
        enable_large_batch_splitting=parameters.enable_large_batch_splitting,
        max_execution_batch_size=parameters.max_execution_batch_size,
        run_unbatchable_alone=options.runs_unbatchable_alone,
        padding_value=options.padding_value,
        unpad_outputs=options.unpad_outputs,
        unbatched_signatures=options.unbatched_signatures,
        policy=options.policy,
        target_p99_ms=options.target_p99_ms,
        max_in_flight=options.max_in_flight,
        batcher=_batcher(options.batcher),
    )


def _batcher(name: str) -> "_engine.Batcher | None":
    if not name:
        return None
    # Needs NumPy, and is seldom asked for.
    from servable.batching.hosting import load_batcher  # noqa: PLC0415

    return load_batcher(name)
