"""Take versions up in their order, and let none go before the newest is there."""

from collections.abc import Sequence

from servable.core.lifecycle import State
from servable.core.version_policy import Action, Load, Unload, VersionSnapshot


class OldestFirstPolicy:
    """For versions that hand something over: each must have been served once."""

    def next_action(self, versions: Sequence[VersionSnapshot]) -> Action | None:
        """Return the next step; see servable.core.version_policy."""
        new = [v.id for v in versions if v.is_aspired and v.state is State.NEW]
        if new:
            return Load(min(new))
        aspired = [v for v in versions if v.is_aspired]
        surplus = [
            v.id for v in versions if not v.is_aspired and v.state is State.READY
        ]
        if surplus and all(v.state is State.READY for v in aspired):
            return Unload(min(surplus))
        return None
