"""Who says which versions are aspired, and who listens."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from servable.core.servable_data import ServableData

T_contra = TypeVar("T_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)


class Target(Protocol[T_contra]):
    """Takes what a Source says."""

    def set_aspired_versions(
        self, name: str, versions: Sequence[ServableData[T_contra]]
    ) -> None:
        """
        Take *versions* as all that are wanted of the stream *name*, from now on.

        It supersedes the previous call for that name: a version that is omitted is
        to be unloaded, and an empty list unloads the stream.  Every id in the list
        has that name.  Called from any thread; never blocks.
        """


class Source(Protocol[T_co]):
    """Says which versions are aspired, for as long as it runs."""

    def set_target(self, target: "Target[T_co]") -> None:
        """Tell *target* what is aspired, from now on.  Called once."""
