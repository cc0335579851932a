"""
A batching policy: wait for a batch as long as the wished-for latency leaves time.

Throughput counts here, and requests have time: of the target, what the run of a full
batch takes is set aside, and half of the rest may be spent on waiting for more rows.
When rows come so slowly that waiting would not gather even two, nobody waits.
"""

from servable.batching import Decision, QueueObservation


class SpendTheDeadline:
    """See BatchingPolicy."""

    def decide(self, queue: QueueObservation) -> Decision | None:
        """Return how long batches wait, once there is a target and a cost is known."""
        if not queue.target_p99_s or not queue.row_s:
            return None
        spare_s = queue.target_p99_s - self._batch_s(queue, queue.max_batch_size)
        wait_s = max(spare_s, 0.0) / 2
        expected_rows = queue.arrival_rate * wait_s
        return Decision(
            size=queue.max_batch_size,
            wait_s=round(wait_s, 3) if expected_rows > 1 else 0.0,
            max_in_flight=queue.decision.max_in_flight,
        )

    @staticmethod
    def _batch_s(queue: QueueObservation, rows: int) -> float:
        """Return what a batch costs, by the largest size that has run."""
        largest = max(queue.row_s)
        return queue.row_s[largest] * max(rows, largest)
