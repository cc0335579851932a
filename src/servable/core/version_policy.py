"""
Which step next, for all versions of one servable stream.

Policies are pure: they see a snapshot and name one action, or none.  The manager
carries it out and asks again.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from servable.core.lifecycle import FINAL, State
from servable.core.servable_id import ServableId

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VersionSnapshot:
    """What a policy may know about a version."""

    id: ServableId
    state: State
    is_aspired: bool


@dataclass(frozen=True, slots=True)
class Load:
    """Begin to load this version."""

    id: ServableId


@dataclass(frozen=True, slots=True)
class Unload:
    """Begin to unload this version."""

    id: ServableId


Action: TypeAlias = Load | Unload


class AspiredVersionPolicy(Protocol):
    """Decides the next step; entry points in `servable.version_policies`."""

    def next_action(self, versions: Sequence[VersionSnapshot]) -> Action | None:
        """
        Return what to do next with the *versions* of one stream, None for nothing.

        Only versions in NEW that are aspired can be loaded, and only those in READY
        that are not aspired unloaded.
        Called on the manager's thread: it must not block, and has no state of its own
        that matters, as one object may serve several streams.
        """


class AvailabilityPreservingPolicy:
    """Keep at least one version ready: load the new one before unloading the old."""

    def next_action(self, versions: Sequence[VersionSnapshot]) -> Action | None:
        """Return the next step; see AspiredVersionPolicy."""
        aspired = [v for v in versions if v.is_aspired]
        aspired_ready = [v for v in aspired if v.state is State.READY]
        surplus = [v for v in versions if not v.is_aspired and v.state is State.READY]

        if surplus and (not aspired or aspired_ready or len(surplus) > 1):
            return Unload(min(v.id for v in surplus))
        return _load_highest_new(aspired)


class ResourcePreservingPolicy:
    """Never hold two where one will do: unload the old before loading the new."""

    def next_action(self, versions: Sequence[VersionSnapshot]) -> Action | None:
        """Return the next step; see AspiredVersionPolicy."""
        surplus = [v for v in versions if not v.is_aspired]
        for version in surplus:
            if version.state is State.READY:
                return Unload(version.id)
        if any(v.state not in FINAL for v in surplus):
            return None
        return _load_highest_new(v for v in versions if v.is_aspired)


class BaselineFirstPolicy:
    """
    Load a new version only once those before it are there, or failed.

    For models whose newest version is compared with the one before: that one has to be
    there first, or everything would go to the newest.

    Args:
        policy: decides all the rest.
    """

    def __init__(self, policy: AspiredVersionPolicy) -> None:
        self._policy = policy

    def next_action(self, versions: Sequence[VersionSnapshot]) -> Action | None:
        """Return the next step; see AspiredVersionPolicy."""
        action = self._policy.next_action(versions)
        if not isinstance(action, Load):
            return action
        before = [v for v in versions if v.is_aspired and v.id < action.id]
        if all(v.state is State.READY or v.state in FINAL for v in before):
            return action
        new = [v.id for v in before if v.state is State.NEW]
        return Load(min(new)) if new else None


class CheckedPolicy:
    """
    A policy of others, kept to the rules.

    Where it raises, or names what cannot be done, that is logged once and the step is
    that of AvailabilityPreservingPolicy.

    Args:
        name: what the log calls it.
        policy: what decides as long as it keeps to the rules.
    """

    def __init__(self, name: str, policy: AspiredVersionPolicy) -> None:
        self._name = name
        self._policy = policy
        self._otherwise = AvailabilityPreservingPolicy()
        self._told: set[str] = set()

    def next_action(self, versions: Sequence[VersionSnapshot]) -> Action | None:
        """Return the next step; see AspiredVersionPolicy."""
        try:
            action = self._policy.next_action(versions)
        except Exception as error:  # noqa: BLE001 - whatever it is, versions go on
            self._tell(f"{type(error).__name__}: {error}")
        else:
            if action is None or is_possible(action, versions):
                return action
            self._tell(f"{action} is no step that can be taken")
        return self._otherwise.next_action(versions)

    def _tell(self, problem: str) -> None:
        if problem not in self._told:
            self._told.add(problem)
            _log.error("Version policy %s failed: %s", self._name, problem)

    def __repr__(self) -> str:
        return f"<CheckedPolicy {self._name}>"


def is_possible(action: object, versions: Collection[VersionSnapshot]) -> bool:
    """Return whether *action* is one that can be taken with *versions*."""
    match action:
        case Load(servable_id):
            wanted = VersionSnapshot(servable_id, State.NEW, is_aspired=True)
        case Unload(servable_id):
            wanted = VersionSnapshot(servable_id, State.READY, is_aspired=False)
        case _:
            return False
    return wanted in versions


def _load_highest_new(aspired: Iterable[VersionSnapshot]) -> Load | None:
    new = [v.id for v in aspired if v.state is State.NEW]
    return Load(max(new)) if new else None
