"""
What a batcher in Python is, and one that does as the engine does.

A batcher says which of the requests that wait together share a run (group), what is fed
for them (pad), and which part of the outputs is whose (split).  It is found by its name
under the entry-point group `servable.batchers`: a class, or another callable without
arguments, called once for each version that is batched by it.  When batches are made,
and of how many rows, is still decided by the batching parameters and the policy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from servable.errors import FailedPrecondition

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""Arrays by alias; those of type string hold `bytes` objects."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """
    What one client asks; equal to itself alone.

    Attributes:
        signature_name: the signature it is for; "" for several at once, and aliases
            are then names in the graph.
        rows: what the first dimension of its inputs counts.
        inputs: by alias, read-only.
    """

    signature_name: str
    rows: int
    inputs: Arrays


@dataclass(frozen=True, slots=True)
class Batch:
    """
    Requests that run together.

    Attributes:
        requests: one at least, as group() gave them.
        size: how many rows `allowed_batch_sizes` ask for; as many as the requests have
            where any size is allowed.
    """

    requests: Sequence[Request]
    size: int

    @property
    def rows(self) -> int:
        """How many rows the requests have."""
        return sum(request.rows for request in self.requests)


class Batcher(Protocol):
    """
    Puts requests together, and takes answers apart.

    Called from several threads at once.  Whatever a method raises is answered to the
    requests it was called for, a ServingError with its own code and text; where
    requests may run alone (see run_unbatchable_alone), they are tried again in smaller
    batches first, so that a request hurts no other.
    """

    def group(self, requests: Sequence[Request]) -> Sequence[Sequence[Request]]:
        """Return which of *requests* share a run; each of them stands in one group."""

    def pad(self, batch: Batch) -> Arrays:
        """Return what is fed for *batch*: every input of its requests."""

    def split(self, batch: Batch, outputs: Arrays) -> Sequence[Arrays]:
        """Return, for each request of *batch*, its part of every one of *outputs*."""


class RowBatcher:
    """
    The Batcher that the engine has in Rust, to be changed in what should be different.

    Requests of the same types and row shapes stand one below another.
    """

    def group(self, requests: Sequence[Request]) -> Sequence[Sequence[Request]]:
        """Put those together whose inputs differ in their first dimension only."""
        groups: dict[object, list[Request]] = {}
        for request in requests:
            kind = tuple(
                (alias, array.dtype.str, array.shape[1:])
                for alias, array in sorted(request.inputs.items())
            )
            groups.setdefault(kind, []).append(request)
        return list(groups.values())

    def pad(self, batch: Batch) -> Arrays:
        """Return all rows, then copies of the last request's first row."""
        filled = [request for request in batch.requests if request.rows]
        missing = batch.size - batch.rows if filled else 0

        def joined(alias: str) -> npt.NDArray[Any]:
            arrays = [request.inputs[alias] for request in batch.requests]
            if missing:
                first_row = filled[-1].inputs[alias][:1]
                arrays.append(np.repeat(first_row, missing, axis=0))
            return np.concatenate(arrays)

        return {alias: joined(alias) for alias in batch.requests[0].inputs}

    def split(self, batch: Batch, outputs: Arrays) -> Sequence[Arrays]:
        """
        Return each request's rows.

        Raises:
            FailedPrecondition: An output has not a row for each row that was fed.
        """
        if len(batch.requests) == 1 and batch.size == batch.rows:
            return [outputs]
        for alias, array in outputs.items():
            if not array.ndim or len(array) != batch.size:
                raise FailedPrecondition(
                    f"Output {alias} has shape {list(array.shape)}; a row for each of "
                    f"{batch.size} was expected"
                )
        parts = []
        start = 0
        for request in batch.requests:
            end = start + request.rows
            parts.append({alias: array[start:end] for alias, array in outputs.items()})
            start = end
        return parts
