"""
A batcher for texts as numbers: short ones are not padded to the length of long ones.

Requests are grouped by the power of two that their length fits into, padded with zeros
to that length, and every output that is as long as the padded input is cut back to the
length of the request.
"""

from collections.abc import Sequence

import numpy as np

from servable.batching.batcher import Arrays, Batch, Request, RowBatcher


class LengthBatcher(RowBatcher):
    """See Batcher; inputs have the shape [rows, length]."""

    def group(self, requests: Sequence[Request]) -> Sequence[Sequence[Request]]:
        """Put requests together whose padded lengths are the same."""
        groups: dict[int, list[Request]] = {}
        for request in requests:
            groups.setdefault(_padded(_length(request)), []).append(request)
        return list(groups.values())

    def pad(self, batch: Batch) -> Arrays:
        """Add zeros up to the length of the group."""
        longest = _padded(_length(batch.requests[0]))
        requests = [
            Request(
                request.signature_name,
                request.rows,
                {
                    alias: np.pad(array, ((0, 0), (0, longest - array.shape[1])))
                    for alias, array in request.inputs.items()
                },
            )
            for request in batch.requests
        ]
        return super().pad(Batch(requests, batch.size))

    def split(self, batch: Batch, outputs: Arrays) -> Sequence[Arrays]:
        """Give each request its rows, as long as its own input."""
        padded = _padded(_length(batch.requests[0]))
        return [
            {
                alias: array[:, : _length(request)]
                if array.ndim > 1 and array.shape[1] == padded
                else array
                for alias, array in part.items()
            }
            for request, part in zip(
                batch.requests, super().split(batch, outputs), strict=True
            )
        ]


def _length(request: Request) -> int:
    return max(int(array.shape[1]) for array in request.inputs.values())


def _padded(length: int) -> int:
    return 1 if length <= 1 else 1 << (length - 1).bit_length()
