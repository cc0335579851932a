"""
Asks the installed batching policies, and has the engine do what they decide.

Nothing here is on the way of a request: the engine goes by the last decision it was
given, and by its own adaptive policy before the first.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from servable.batching.policy import BatchingPolicy, Decision, QueueObservation

PERIOD_S: Final = 0.1

_logger = logging.getLogger(__name__)


class Engine(Protocol):
    """What is needed of servable._engine.Engine."""

    def observe_batching(self) -> Sequence[Mapping[str, Any]]:
        """See servable._engine.Engine."""

    def decide_batching(
        self,
        model: str,
        version: int,
        signature: str,
        size: int,
        wait_s: float,
        in_flight: int,
    ) -> None:
        """See servable._engine.Engine."""


class Consultant:
    """
    Keeps one policy for each queue that has one, and asks it.

    Not thread-safe: one thread calls consult().

    Args:
        engine: whose queues they are.
        factories: make a policy, by the name that batching options give; queues with
            other names are left to the engine.
    """

    def __init__(
        self, engine: Engine, factories: Mapping[str, Callable[[], BatchingPolicy]]
    ) -> None:
        self._engine = engine
        self._factories = factories
        self._policies: dict[tuple[str, int, str], BatchingPolicy] = {}
        self._failed: set[tuple[str, int, str]] = set()

    def consult(self) -> None:
        """Ask every policy once.  Takes as long as the policies do; never raises."""
        seen = set()
        for raw in self._engine.observe_batching():
            factory = self._factories.get(raw["policy"])
            if factory is None:
                continue
            key = raw["model"], raw["version"], raw["signature"]
            seen.add(key)
            try:
                self._decide(key, factory, _observation(raw))
            except Exception as error:  # noqa: BLE001 - somebody else's code
                if key not in self._failed:
                    _logger.error(  # noqa: TRY400 - the text says what an operator needs
                        "The batching policy %s failed for %s version %d (%s): %s: %s; "
                        "its last good decision stays in force",
                        raw["policy"],
                        *key,
                        type(error).__name__,
                        error,
                    )
                self._failed.add(key)
            else:
                self._failed.discard(key)
        for gone in self._policies.keys() - seen:
            del self._policies[gone]
        self._failed &= seen

    def _decide(
        self,
        key: tuple[str, int, str],
        factory: Callable[[], BatchingPolicy],
        queue: QueueObservation,
    ) -> None:
        if key not in self._policies:
            self._policies[key] = factory()
        decision = self._policies[key].decide(queue)
        if decision is None or decision == queue.decision:
            return
        if not isinstance(decision, Decision):
            raise TypeError(f"decide() returned {decision!r}, which is no Decision")
        self._engine.decide_batching(
            *key, decision.size, decision.wait_s, decision.max_in_flight
        )


def _observation(raw: Mapping[str, Any]) -> QueueObservation:
    return QueueObservation(
        model=raw["model"],
        version=raw["version"],
        signature=raw["signature"],
        max_batch_size=raw["max_batch_size"],
        target_p99_s=raw["target_p99_s"],
        waiting_rows=raw["waiting_rows"],
        in_flight=raw["in_flight"],
        arrival_rate=raw["arrival_rate"],
        row_s=dict(raw["row_s"]),
        decision=Decision(raw["size"], raw["wait_s"], raw["max_in_flight"]),
    )
