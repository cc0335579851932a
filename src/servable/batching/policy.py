"""
What a batching policy sees of a queue, and what it answers.

A policy is any object with the one method of BatchingPolicy.  It is made once for each
queue by what is installed under the entry-point group `servable.batching_policies`, a
class or another callable without arguments, and is asked off the request path: how long
it thinks delays no request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Decision:
    """
    How the next batches of a queue are made.  Holds until the next decision.

    Attributes:
        size: most rows of a batch, at least 1.
        wait_s: how long the first row of a batch waits for others although the batch
            could run, in seconds.
        max_in_flight: most batches that run at a time, at least 1.
    """

    size: int
    wait_s: float = 0.0
    max_in_flight: int = 1

    def __post_init__(self) -> None:
        """Raise ValueError or TypeError for what cannot be carried out."""
        for name in ("size", "max_in_flight"):
            value = getattr(self, name)
            if not isinstance(value, int):
                raise TypeError(f"{name} must be an integer; was {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1; was {value}")
        if not 0.0 <= self.wait_s <= _LONGEST_WAIT_S:
            raise ValueError(
                f"wait_s must be between 0 and {_LONGEST_WAIT_S:g}; was {self.wait_s!r}"
            )


_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class QueueObservation:
    """
    A queue as it is now.

    Attributes:
        model: name of the model.
        version: its version.
        signature: the signature that requests are for; "" for several at once.
        max_batch_size: most rows of a batch that the parameters allow.
        target_p99_s: what the latency is wished to be, in seconds; 0.0: no wish.
        waiting_rows: rows that wait.
        in_flight: batches that run.
        arrival_rate: rows a second that came of late.
        row_s: seconds that a row was found to cost, by the size of its batch; sizes
            are powers of two, those that never ran are missing.
        decision: what is in force.
    """

    model: str
    version: int
    signature: str
    max_batch_size: int
    target_p99_s: float
    waiting_rows: int
    in_flight: int
    arrival_rate: float
    row_s: Mapping[int, float]
    decision: Decision


class BatchingPolicy(Protocol):
    """Decides for one queue.  Called from one thread."""

    def decide(self, queue: QueueObservation) -> Decision | None:
        """
        Return a decision, or None to leave things as they are.

        An exception leaves the last decision in force and is logged once.
        """
