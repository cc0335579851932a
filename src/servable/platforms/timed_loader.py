"""
Loads that may take only so long.

A load cannot be interrupted: whoever hangs in a file system or in a runtime hangs.  It
is given up instead, on a thread of its own, so that the next version of its model can
be loaded; should it succeed all the same, what it has loaded is let go of.
"""

import logging
import threading
from collections.abc import Callable

from servable.core.loader import Loader
from servable.errors import DeadlineExceeded
from servable.platforms.loader_around import LoaderAround

_logger = logging.getLogger(__name__)


class TimedLoader(LoaderAround):
    """
    A Loader that fails when a load takes too long; see Loader.

    Args:
        new_loader: makes what does everything; again after a load that was given up.
        limit_s: how long a load may take, warm-up included.
    """

    def __init__(self, new_loader: Callable[[], Loader], limit_s: float) -> None:
        super().__init__(new_loader())
        self._new_loader = new_loader
        self._limit_s = limit_s

    def load(self) -> None:
        """
        Load.

        Raises:
            DeadlineExceeded: It takes too long.
            ServingError: The loader fails.
        """
        load = _Load(self._loader)
        thread = threading.Thread(target=load.run, name="load", daemon=True)
        thread.start()
        if not load.is_over.wait(self._limit_s) and load.give_up():
            self._loader = self._new_loader()
            raise DeadlineExceeded(
                f"The load took longer than {self._limit_s:g} s "
                "(--load_timeout_seconds)"
            )
        thread.join()
        if load.error is not None:
            raise load.error


class _Load:
    """One load, and whether anybody still waits for it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._lock = threading.Lock()
        self._is_given_up = False
        self.error: BaseException | None = None
        self.is_over = threading.Event()

    def run(self) -> None:
        try:
            self._loader.load()
        except BaseException as error:  # noqa: BLE001 - loaders raise what they like
            self.error = error
        with self._lock:
            self.is_over.set()
            if not self._is_given_up or self.error is not None:
                return
        _logger.warning("%r was loaded after it was given up", self._loader)
        self._loader.unload()

    def give_up(self) -> bool:
        """Wait no more; return whether it was not over at the last moment."""
        with self._lock:
            self._is_given_up = not self.is_over.is_set()
            return self._is_given_up
