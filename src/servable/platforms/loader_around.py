"""
Loaders that stand around another one, and change nothing but how that loads.

What they have in common is here: everything else is passed on.
"""

from collections.abc import Hashable, Mapping

from servable.core.loader import Loader, shared_resources
from servable.core.progress import progress_of


class LoaderAround:
    """
    A Loader that does what another one does; see Loader.

    Args:
        loader: what does everything; a subclass may put another in its place.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def estimate_resources(self) -> int:
        """Return what the loader estimates."""
        return self._loader.estimate_resources()

    def shared_resources(self) -> Mapping[Hashable, int]:
        """Return what the loader has in common with others."""
        return shared_resources(self._loader)

    def progress(self) -> str:
        """Return how far the loader says that it is."""
        return progress_of(self._loader)

    def load(self) -> None:
        """Load; raises what the loader fails with."""
        self._loader.load()

    def servable(self) -> object:
        """Return what the loader has loaded."""
        return self._loader.servable()

    def unload(self) -> None:
        """Unload."""
        self._loader.unload()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._loader!r}>"
