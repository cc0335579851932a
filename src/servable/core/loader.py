"""What the manager asks of anything that can load a servable."""

from collections.abc import Hashable, Mapping
from typing import Protocol, runtime_checkable


class Loader(Protocol):
    """
    How to load and unload one version.

    The manager calls at most one method of a Loader at a time, on threads of its
    pools, and after a failed load may call `estimate_resources` and `load` again.
    Any exception, of whatever class, counts as a failure with the status that
    `servable.errors.from_exception` gives it.
    """

    def estimate_resources(self) -> int:
        """Return how many bytes of memory the servable will need.  May block."""

    def load(self) -> None:
        """
        Make the servable ready to be run, warm-up included.  May block.

        A load that raises leaves nothing behind.
        """

    def servable(self) -> object:
        """Return what requests are run on.  Only called after a load; never blocks."""

    def unload(self) -> None:
        """
        Wait for the last handle of this servable, and free what it holds.

        Called once after a load that succeeded, when no new handle can be taken.
        May block for as long as a request runs.
        """


@runtime_checkable
class SharingLoader(Loader, Protocol):
    """A Loader of something that has a part in common with other servables."""

    def shared_resources(self) -> Mapping[Hashable, int]:
        """
        Return the bytes of what is in common, by what it is; not in the estimate.

        Each part is counted once for all servables that name it.  Asked after the
        estimate.  May block.
        """


def shared_resources(loader: Loader) -> Mapping[Hashable, int]:
    """Return what *loader* has in common with others, nothing for most."""
    return loader.shared_resources() if isinstance(loader, SharingLoader) else {}
