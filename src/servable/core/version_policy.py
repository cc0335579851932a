"""
Which step next, for all versions of one servable stream.

Policies are pure: they see a snapshot and name one action, or none.  The manager
carries it out and asks again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from servable.core.lifecycle import FINAL, State
from servable.core.servable_id import ServableId


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

        Only versions in NEW can be loaded, and only those in READY unloaded.
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


def _load_highest_new(aspired: Iterable[VersionSnapshot]) -> Load | None:
    new = [v.id for v in aspired if v.state is State.NEW]
    return Load(max(new)) if new else None
