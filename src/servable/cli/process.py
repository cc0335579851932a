"""
A process that serves: logging, signals, and how it ends.

The main thread only waits for what happens: whatever blocks runs on other threads,
so that a signal is always noticed.  Signals have a thread that waits for them, since
a Python handler runs only when the main thread next gets to it.
"""

import dataclasses
import logging
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from servable.cli import logs
from servable.cli.flags import Flag, ParsedFlags
from servable.errors import ServingError, from_exception

if TYPE_CHECKING:
    from servable.config.server_options import ServerOptions
    from servable.server import Server

_logger = logging.getLogger(__name__)

_FAILURE = 255
_SAME_SIGNAL_S = 0.5
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclasses.dataclass(frozen=True, slots=True)
class _Failed:
    error: ServingError


@dataclasses.dataclass(frozen=True, slots=True)
class _Signalled:
    number: int
    at: float


@dataclasses.dataclass(frozen=True, slots=True)
class _Stopped:
    pass


_Event: TypeAlias = _Failed | _Signalled | _Stopped


def serve(
    parsed: ParsedFlags, flags: Sequence[Flag], *, rest_is_optional: bool = False
) -> int:
    """
    Serve as the flags say until a signal ends it; return the exit status.

    The first SIGTERM or SIGINT lets requests finish, the second ends the process.
    """
    # All threads inherit this, so that a signal comes to the one that waits for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        logs.set_up(
            str(parsed.values["log_format"]),
            str(parsed.values["log_level"]),
            sys.stderr,
        )
    except ValueError as error:
        return _fail(from_exception(error))
    events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
    _in_background(lambda: _wait_for_signals(events))

    # TensorFlow writes its own log; who asked for less of ours wants less of that.
    quiet = {"warning": "1", "error": "2"}.get(str(parsed.values["log_level"]))
    if quiet:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", quiet)

    # This imports the engine: the thread that does so must live as long as the
    # process, or its allocator crashes.
    # Not for --help.
    from servable.platforms import tensorflow, tensorflow_library  # noqa: PLC0415

    if parsed.values["model_config_file"] or parsed.values["model_platform"] == (
        tensorflow.TensorFlowPlatform.name
    ):
        # Opening TensorFlow's library takes longer than all that is imported here.
        tensorflow_library.LIBRARY.open_in_background()

    from servable.config.server_options import ServerOptions  # noqa: PLC0415
    from servable.server import Server  # noqa: PLC0415

    options = dataclasses.replace(
        ServerOptions.from_flags(parsed.values, parsed.given),
        rest_is_optional=rest_is_optional,
    )
    _warn(parsed, flags, options)
    return _serve_until_signalled(Server(options), options, events)


def _warn(parsed: ParsedFlags, flags: Sequence[Flag], options: "ServerOptions") -> None:
    for flag in parsed.without_effect(flags):
        _logger.warning("--%s has no effect: %s", flag.name, flag.inert)
    precision = options.session.mixed_precision
    if precision not in ("", "bfloat16"):
        _logger.warning("--mixed_precision=%s is not known; ignored", precision)


def _serve_until_signalled(
    server: "Server", options: "ServerOptions", events: "queue.SimpleQueue[_Event]"
) -> int:
    _in_background(lambda: _start(server, events))
    stopping_since = math.inf
    while True:
        match events.get():
            case _Failed(error) if stopping_since == math.inf:
                return _fail(error)
            case _Failed():
                pass  # it was stopped while it started
            case _Signalled(number, at) if stopping_since == math.inf:
                stopping_since = at
                _logger.info(
                    "%s: finishing the requests in flight for up to %g s",
                    signal.Signals(number).name,
                    options.shutdown_grace_s,
                )
                _in_background(lambda: _stop(server, events))
            case _Signalled(number, at) if at - stopping_since >= _SAME_SIGNAL_S:
                return 128 + number
            case _Signalled():
                pass  # `timeout` and others signal a process and then its group
            case _Stopped():
                _logger.info("Stopped")
                return os.EX_OK


def _start(server: "Server", events: "queue.SimpleQueue[_Event]") -> None:
    try:
        server.start()
    except Exception as error:
        if not isinstance(error, ServingError):
            _logger.exception("The server could not be started")
        events.put(_Failed(from_exception(error)))


def _stop(server: "Server", events: "queue.SimpleQueue[_Event]") -> None:
    try:
        if not server.stop():
            _logger.warning("Some requests were given up")
    finally:
        events.put(_Stopped())


def _wait_for_signals(events: "queue.SimpleQueue[_Event]") -> None:
    while True:
        number = signal.sigwait(_SIGNALS)
        events.put(_Signalled(number, time.monotonic()))


def _in_background(call: Callable[[], None]) -> None:
    threading.Thread(target=call, daemon=True).start()


def leave(status: int) -> NoReturn:
    """
    End the process, with what was printed and logged written out.

    Neither threads nor the exit handlers of C libraries are waited for: threads may
    still run in them.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logs.QueueingHandler):
            handler.finish(timeout_s=2.0)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # nobody reads
    os._exit(status)


def servable_version() -> str:
    """Return the version of this package."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("servable")
    except PackageNotFoundError:
        return "unknown"


def tensorflow_version() -> str:
    """Return the version of the TensorFlow that would be used, or why there is none."""
    from servable.platforms import tensorflow_library  # noqa: PLC0415

    try:
        return tensorflow_library.LIBRARY.open()
    except ServingError as error:
        return f"none ({error.message})"


def _fail(error: ServingError) -> int:
    print(f"Failed to start server. Error: {error.status_text}", flush=True)
    return _FAILURE
