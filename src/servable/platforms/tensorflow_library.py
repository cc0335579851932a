"""
The C library of a TensorFlow wheel: where it is, and the operations it knows.

It is found without importing Python's TensorFlow, and opened by the engine.
"""

import glob
import importlib.util
import logging
import os
import threading
from collections.abc import Sequence

from servable import _engine
from servable.errors import (
    FailedPrecondition,
    NotFound,
    ServingError,
    from_exception,
)

_logger = logging.getLogger(__name__)


class TensorFlowLibrary:
    """
    The C library of the installed TensorFlow, opened once for the process.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version: str | None = None

    def open(self) -> str:
        """
        Open the library, unless it is open, and return its version.  Blocks.

        Raises:
            FailedPrecondition: TensorFlow is not installed, or has no such library.
        """
        with self._lock:
            if self._version is None:
                directory = self.directory()
                try:
                    self._version = _engine.load_tensorflow(directory)
                except _engine.EngineError as error:
                    raise from_exception(error) from error
            return self._version

    def load_op_libraries(self, paths: Sequence[str]) -> None:
        """
        Load operations that models need beside TensorFlow's own; for good.  Blocks.

        A directory stands for all libraries in it.

        Raises:
            NotFound: There is no such file, or none in the directory.
            FailedPrecondition: TensorFlow is not installed, or cannot load one.
        """
        files = [file for path in paths for file in _op_libraries_at(path)]
        if files:
            self.open()
        for path in files:
            try:
                _engine.load_op_library(path)
            except _engine.EngineError as error:
                raise FailedPrecondition(
                    f"--load_op_library: TensorFlow {self._version} cannot load "
                    f"{path}: {error.message}"
                ) from error
            _logger.info("Loaded the operations in %s", path)

    def open_in_background(self) -> None:
        """Begin to open it; what goes wrong is told by the next open()."""

        def attempt() -> None:
            try:
                self.open()
            except ServingError as error:
                _logger.debug("TensorFlow cannot be opened yet: %s", error.message)

        threading.Thread(target=attempt, name="tensorflow", daemon=True).start()

    def directory(self) -> str:
        """
        Return where the library is.

        Raises:
            FailedPrecondition: TensorFlow is not installed.
        """
        spec = importlib.util.find_spec("tensorflow")
        if spec is None or not spec.submodule_search_locations:
            raise FailedPrecondition(
                "TensorFlow is not installed: pip install 'servable[tensorflow]'"
            )
        return next(iter(spec.submodule_search_locations))


def _op_libraries_at(path: str) -> list[str]:
    found = sorted(glob.glob(os.path.join(glob.escape(path), "*.so")))
    if os.path.isfile(path):
        found = [path]
    if not found:
        raise NotFound(f"--load_op_library: there is no library at {path}")
    return found


LIBRARY = TensorFlowLibrary()
