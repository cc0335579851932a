"""
Models whose newest version has to prove itself: who answers, who is judged, and when.

A Rollout is one such model.  It chooses the versions that its source aspires, says how
the engine divides requests, and takes the decisions of `core/canary.py` or of people.
What was decided is kept in `rollout_memory.py`, and holds after a start, too; a version
that nothing was decided about is a candidate again, beside the one before it.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from servable.core.canary import Observation, Promote, RollBack, Wait, judge
from servable.core.served_versions import Canary, Candidates, Shadow
from servable.errors import FailedPrecondition
from servable.rollout_memory import RolloutMemory

_log = logging.getLogger(__name__)

_LOOK_S: Final = 0.5

Route: TypeAlias = tuple[int, int, float, float | None]
"""Stable version, candidate, part, tolerance of a shadow; see `_engine.pyi`."""

Answered: TypeAlias = Mapping[
    int, tuple[int, int, Sequence[tuple[float, int]], Mapping[str, int]]
]


class Counts(Protocol):
    """What is asked of the engine."""

    def answered(self, name: str) -> Answered:
        """See servable._engine.Engine."""

    def record_decision(self, name: str, decision: str) -> None:
        """See servable._engine.Engine."""


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """
    Where a rollout is.

    Attributes:
        kind: "canary" or "shadow".
        promoted: the version that was found good last, None before there is one.
        candidate: the version that is being looked at, None for none.
        rejected: versions that were found bad.
        verdict: what is waited for, or how the last candidate ended.
    """

    kind: str
    promoted: int | None
    candidate: int | None
    rejected: tuple[int, ...]
    verdict: str


class Rollout:
    """
    One model; a version policy of sources.  Thread-safe.

    Args:
        name: of the model.
        rules: what its newest version is to go through.
        counts: what its versions answered.
        candidates: what was decided before.
    """

    def __init__(
        self,
        name: str,
        rules: Canary | Shadow,
        counts: Counts,
        candidates: Candidates | None = None,
    ) -> None:
        self._name = name
        self._counts = counts
        self._lock = threading.Lock()
        self._rules = rules
        self._candidates = candidates or Candidates()
        self._ready: frozenset[int] = frozenset()
        self._stable: int | None = None
        self._candidate: int | None = None
        self._since = 0.0
        self._before: Mapping[int, Observation] = {}
        self._verdict = ""

    def set_rules(self, rules: Canary | Shadow) -> None:
        """Go by *rules* from now on; what was decided stays."""
        with self._lock:
            self._rules = rules

    def choose(self, versions: Iterable[int]) -> list[int]:
        """Return those of *versions* to aspire; see ServableVersionPolicy."""
        with self._lock:
            return self._candidates.choose(versions)

    def route(self, ready: Collection[int], now: float) -> Route | None:
        """Take notice of what is ready, and return how requests are divided."""
        with self._lock:
            self._ready = frozenset(ready)
            stable, candidate = self._candidates.pair(ready)
            self._stable = stable
            if stable is None:
                self._candidate = None
                return None
            if self._candidates.promoted is None:
                # From here on newer ones have to prove themselves against this one.
                self._candidates = Candidates(stable, self._candidates.rejected)
            if candidate != self._candidate:
                self._begin(stable, candidate, now)
            if candidate is None:
                return (stable, stable, 0.0, None) if stable != max(ready) else None
            part = self._rules.percent / 100
            match self._rules:
                case Canary():
                    return stable, candidate, part, None
                case Shadow(_, tolerance):
                    return stable, candidate, part, tolerance

    def look(self, now: float) -> bool:
        """Judge the candidate of a canary; return whether something was decided."""
        with self._lock:
            rules, stable, candidate = self._rules, self._stable, self._candidate
            if candidate is None or stable is None or not isinstance(rules, Canary):
                return False
            seen = self._observe()
            verdict = judge(
                rules,
                seen.get(stable, Observation()).since(self._seen_before(stable)),
                seen.get(candidate, Observation()).since(self._seen_before(candidate)),
                now - self._since,
            )
            match verdict:
                case Wait(reason):
                    self._verdict = f"waits: {reason}"
                    return False
                case Promote(reason):
                    self._promote(candidate, reason)
                case RollBack(reason):
                    self._roll_back(candidate, reason)
            return True

    def promote(self, version: int | None) -> str:
        """
        Let *version*, or the candidate, answer everything; return that in words.

        Raises:
            FailedPrecondition: There is no candidate, or the version is not available.
        """
        with self._lock:
            chosen = self._candidate if version is None else version
            if chosen is None:
                raise FailedPrecondition(
                    f"Model {self._name} has no candidate to promote"
                )
            if chosen not in self._ready:
                raise FailedPrecondition(
                    f"Version {chosen} of model {self._name} is not available, and "
                    "cannot be promoted"
                )
            return self._promote(chosen, "asked for")

    def roll_back(self) -> str:
        """
        Let the candidate answer nothing any more; return that in words.

        Raises:
            FailedPrecondition: There is none.
        """
        with self._lock:
            if self._candidate is None:
                raise FailedPrecondition(
                    f"Model {self._name} has no candidate to roll back"
                )
            return self._roll_back(self._candidate, "asked for")

    def status(self) -> RolloutStatus:
        """Return where it is."""
        with self._lock:
            kind = "canary" if isinstance(self._rules, Canary) else "shadow"
            rejected = tuple(sorted(self._candidates.rejected))
            return RolloutStatus(
                kind,
                self._candidates.promoted,
                self._candidate,
                rejected,
                self._verdict,
            )

    @property
    def candidates(self) -> Candidates:
        """What was decided until now."""
        with self._lock:
            return self._candidates

    @property
    def is_under_way(self) -> bool:
        """Whether a candidate has to be judged."""
        with self._lock:
            return self._candidate is not None and isinstance(self._rules, Canary)

    def _begin(self, stable: int, candidate: int | None, now: float) -> None:
        self._candidate = candidate
        if candidate is None:
            return
        self._since = now
        self._before = self._observe()
        is_canary = isinstance(self._rules, Canary)
        self._verdict = "begins"
        _log.info(
            "Version %d of model %s is a candidate beside version %d: %g %% %s",
            candidate,
            self._name,
            stable,
            self._rules.percent,
            "of the requests" if is_canary else "of the requests copied",
        )

    def _promote(self, version: int, reason: str) -> str:
        newer = {v for v in self._ready if v > version}
        rejected = (self._candidates.rejected | newer) - {version}
        self._candidates = Candidates(version, rejected)
        return self._decided("promoted", version, reason)

    def _roll_back(self, version: int, reason: str) -> str:
        rejected = self._candidates.rejected | {version}
        self._candidates = Candidates(self._candidates.promoted, rejected)
        return self._decided("rolled back", version, reason)

    def _decided(self, decision: str, version: int, reason: str) -> str:
        self._candidate = None
        self._verdict = f"version {version} was {decision}: {reason}"
        self._counts.record_decision(self._name, decision.replace(" ", "_"))
        text = f"Version {version} of model {self._name} was {decision}: {reason}"
        _log.info("%s", text)
        return text

    def _observe(self) -> Mapping[int, Observation]:
        return {
            version: Observation(ok, failed, tuple(within))
            for version, (ok, failed, within, _) in self._counts.answered(
                self._name
            ).items()
        }

    def _seen_before(self, version: int) -> Observation:
        return self._before.get(version, Observation())


class Rollouts:
    """
    All rollouts of a server, and the thread that looks at them while there are any.

    Args:
        counts: what versions answered.
        changed: called, with no lock held, when something was decided.
        memory: keeps what was decided.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        counts: Counts,
        changed: Callable[[], None],
        memory: RolloutMemory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counts = counts
        self._changed = changed
        self._memory = memory
        self._clock = clock
        self._lock = threading.Lock()
        self._rollouts: dict[str, Rollout] = {}
        self._base_paths: Mapping[str, str] = {}
        self._has_thread = False
        self._stopped = threading.Event()

    def set_rules(
        self, rules: Mapping[str, Canary | Shadow], base_paths: Mapping[str, str]
    ) -> Mapping[str, Rollout]:
        """
        Take *rules* as those of all rollouts, and return these, by model name.

        What was decided of a model before is known by its name and base path.
        """
        with self._lock:
            before = self._rollouts
        recalled = {
            name: self._memory.recall(name, base_paths[name])
            for name in rules.keys() - before.keys()
        }
        with self._lock:
            self._base_paths = dict(base_paths)
            self._rollouts = {}
            for name, of_model in rules.items():
                rollout = before.get(name) or Rollout(
                    name, of_model, self._counts, recalled[name]
                )
                rollout.set_rules(of_model)
                self._rollouts[name] = rollout
            return dict(self._rollouts)

    def routes(self, ready: Mapping[str, Collection[int]]) -> dict[str, Route]:
        """Take notice of what is *ready*; return how requests are divided."""
        now = self._clock()
        with self._lock:
            rollouts = dict(self._rollouts)
        routes = {
            name: route
            for name, rollout in rollouts.items()
            if (route := rollout.route(ready.get(name, ()), now)) is not None
        }
        if any(rollout.is_under_way for rollout in rollouts.values()):
            self._start_looking()
        return routes

    def look(self) -> None:
        """Judge all candidates once."""
        now = self._clock()
        with self._lock:
            rollouts = dict(self._rollouts)
        decided = [name for name, rollout in rollouts.items() if rollout.look(now)]
        if decided:
            for name in decided:
                self._keep(name)
            self._changed()

    def status(self, name: str) -> RolloutStatus | None:
        """Return where the rollout of a model is, None for a model without."""
        with self._lock:
            rollout = self._rollouts.get(name)
        return rollout.status() if rollout else None

    def promote(self, name: str, version: int | None) -> str:
        """Promote a version; see Rollout."""
        text = self._rollout(name).promote(version)
        self._keep(name)
        self._changed()
        return text

    def roll_back(self, name: str) -> str:
        """Roll a candidate back; see Rollout."""
        text = self._rollout(name).roll_back()
        self._keep(name)
        self._changed()
        return text

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _keep(self, name: str) -> None:
        with self._lock:
            rollout, base_path = self._rollouts.get(name), self._base_paths.get(name)
        if rollout is not None and base_path is not None:
            self._memory.keep(name, base_path, rollout.candidates)

    def _rollout(self, name: str) -> Rollout:
        with self._lock:
            rollout = self._rollouts.get(name)
        if rollout is None:
            raise FailedPrecondition(
                f"Model {name} has neither canary nor shadow: nothing can be decided"
            )
        return rollout

    def _start_looking(self) -> None:
        with self._lock:
            if self._has_thread or self._stopped.is_set():
                return
            self._has_thread = True
        threading.Thread(target=self._run, name="rollouts", daemon=True).start()

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_S):
            try:
                self.look()
            except Exception:  # noqa: BLE001 - our fault must not end the looking
                _log.exception("A rollout could not be looked at")
            with self._lock:
                rollouts = list(self._rollouts.values())
                if not any(rollout.is_under_way for rollout in rollouts):
                    self._has_thread = False
                    return
