"""
TensorFlow's profiler, for the engine to offer over gRPC.

The extension module that TensorFlow's Python API has for it is opened on its own,
when the first profile is taken: it watches the library that the engine runs models
with, and the rest of TensorFlow in Python is not imported.
"""

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Protocol

from servable.errors import Code, FailedPrecondition, ServingError

_logger = logging.getLogger(__name__)

_MODULE: Final = "python/profiler/internal/_pywrap_profiler.so"


class Session(Protocol):
    """What the module has for one profile."""

    def start(self, logdir: str, options: dict[str, int]) -> None:
        """Begin to watch."""

    def export_to_tb(self) -> None:
        """End, and write below logdir what was seen, as an XSpace."""


def open_session(directory: Path) -> Session:
    """
    Return a session of the TensorFlow installed in *directory*.

    Raises:
        FailedPrecondition: It has no profiler.
    """
    path = directory / _MODULE
    spec = importlib.util.spec_from_file_location("_pywrap_profiler", path)
    if spec is None or spec.loader is None or not path.exists():
        raise FailedPrecondition("This TensorFlow has no profiler")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        session: Session = module.ProfilerSession()
    except (ImportError, AttributeError) as error:
        raise FailedPrecondition("This TensorFlow has another profiler") from error
    return session


class Profiler:
    """
    Takes one profile at a time; see _engine.Profiler.

    Args:
        new_session: makes what takes the next profile.
    """

    def __init__(self, new_session: Callable[[], Session]) -> None:
        self._new_session = new_session
        self._running: tuple[Session, TemporaryDirectory[str]] | None = None

    def start(self, host: int, device: int, python: int) -> tuple[int, str]:
        """Begin to watch, at these levels of detail."""
        try:
            session = self._new_session()
            levels = {
                "host_tracer_level": host,
                "device_tracer_level": device,
                "python_tracer_level": python,
            }
            directory = TemporaryDirectory(prefix="servable-profile-")
            session.start(directory.name, levels)
        except ServingError as error:
            return error.code, error.message
        except Exception as error:
            # What the extension module raises has no base of its own.
            _logger.exception("A profile cannot be taken")
            return Code.UNAVAILABLE, str(error)
        self._running = session, directory
        return Code.OK, ""

    def stop(self) -> tuple[int, str, bytes]:
        """End what was begun, and return a serialized XSpace."""
        if self._running is None:
            return Code.FAILED_PRECONDITION, "No profile is being taken", b""
        (session, directory), self._running = self._running, None
        with directory as path:
            try:
                session.export_to_tb()
                files = sorted(Path(path).glob("**/*.xplane.pb"))
                return Code.OK, "", files[0].read_bytes() if files else b""
            except Exception as error:
                _logger.exception("A profile is lost")
                return Code.INTERNAL, str(error), b""
