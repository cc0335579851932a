"""
A process that serves: logging, signals, and how it ends.

The main thread only waits for what happens: whatever blocks runs on other threads,
so that a signal is always noticed.  Signals have a thread that waits for them, since
a Python handler runs only when the main thread next gets to it.
"""

import dataclasses
import faulthandler
import logging
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn, TypeAlias, cast

from servable.cli import listening, logs, supervisor
from servable.cli.flags import Flag, ParsedFlags
from servable.errors import ServingError, from_exception

if TYPE_CHECKING:
    from servable.config.server_options import ServerOptions
    from servable.server import Server

_logger = logging.getLogger(__name__)

_FAILURE = 255
_SAME_SIGNAL_S = 0.5
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Leaving a process needs no unloading; this is for what has to be told.
_UNLOAD_S = 1.0
# How long those who connected while there was no server wait for its models.
_HOLD_S = 30.0
# How long after the grace period a stop that hangs is waited for.
_OVERTIME_S = 0.5


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
    SIGHUP reads the model config file again, or ends a server that was started from
    a terminal; SIGUSR1 writes to stderr where all threads are.
    """
    logs.open_what_is_closed()
    # All threads inherit this, so that a signal comes to the one that waits for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, (*_SIGNALS, signal.SIGUSR1))
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        log = logs.set_up(
            str(parsed.values["log_format"]),
            str(parsed.values["log_level"]),
            logs.stderr_of_its_own(),
        )
    except ValueError as error:
        return _fail(from_exception(error))
    if supervisor.is_supervised(os.environ):
        supervisor.end_with(os.getppid())
    elif parsed.values["supervise"]:
        return _supervise(parsed, log)
    _show_stacks()
    events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
    _in_background(lambda: _wait_for_signals(events))

    # TensorFlow writes its own log; who asked for less of ours wants less of that.  Its
    # warnings repeat what clients sent, and no line of it is JSON.
    quiet = {"warning": "1", "error": "2"}.get(str(parsed.values["log_level"]))
    if parsed.values["log_format"] == "json":
        quiet = "2"
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
    if supervisor.is_restarted(os.environ):
        # Those who wait for an answer are not to get that there is no such model.
        options = dataclasses.replace(
            options, wait_for_models=False, hold_connections_s=_HOLD_S
        )
    try:
        listeners = listening.inherited(os.environ, os.getpid(), os.getppid())
        options = listening.with_listeners(options, listeners)
    except ServingError as error:
        return _fail(error)
    _warn(parsed, flags, options)
    return _serve_until_signalled(Server(options), options, events)


def _warn(parsed: ParsedFlags, flags: Sequence[Flag], options: "ServerOptions") -> None:
    for flag in parsed.without_effect(flags):
        _logger.warning("--%s has no effect: %s", flag.name, flag.inert)
    precision = options.session.mixed_precision
    if precision not in ("", "bfloat16"):
        _logger.warning("--mixed_precision=%s is not known; ignored", precision)


def _supervise(parsed: ParsedFlags, log: logs.QueueingHandler) -> int:
    sockets = listening.bind(
        cast("int", parsed.values["port"]),
        str(parsed.values["grpc_socket_path"]),
        cast("int", parsed.values["rest_api_port"]),
    )
    grace_s = cast("float", parsed.values["shutdown_grace_seconds"])
    return supervisor.supervise(supervisor.own_command(), sockets, grace_s, log)


def _show_stacks() -> None:
    """Write to stderr where the thread that crashes is, and all upon SIGUSR1."""
    faulthandler.enable(all_threads=False)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])


def _serve_until_signalled(
    server: "Server", options: "ServerOptions", events: "queue.SimpleQueue[_Event]"
) -> int:
    _in_background(lambda: _start(server, events))
    # Who started it by hand closes the terminal to end it.
    is_interactive = os.isatty(0)
    stopping_since = forced_at = math.inf
    while True:
        try:
            event = events.get(timeout=_seconds_until(forced_at))
        except queue.Empty:
            _logger.error("The server hangs: the process ends without it")  # noqa: TRY400
            return os.EX_OK
        match event:
            case _Failed(error) if stopping_since == math.inf:
                return _fail(error)
            case _Failed():
                pass  # it was stopped while it started
            case _Signalled(signal.SIGHUP) if not is_interactive:
                _in_background(lambda: _read_config_again(server))
            case _Signalled(number, at) if stopping_since == math.inf:
                stopping_since = at
                forced_at = time.monotonic() + options.shutdown_grace_s + _OVERTIME_S
                _logger.info(
                    "%s: finishing the requests in flight for up to %g s%s",
                    signal.Signals(number).name,
                    options.shutdown_grace_s,
                    f", of which new ones are taken for {options.lame_duck_s:g} s"
                    if options.lame_duck_s
                    else "",
                )
                _in_background(lambda: _stop(server, events))
            case _Signalled(number, at) if at - stopping_since >= _SAME_SIGNAL_S:
                name = signal.Signals(number).name
                _logger.warning("%s: giving up the requests in flight", name)
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


def _seconds_until(when: float) -> float | None:
    if when == math.inf:
        return None
    return min(max(when - time.monotonic(), 0.0), threading.TIMEOUT_MAX)


def _read_config_again(server: "Server") -> None:
    try:
        server.reload_config_file()
    except ServingError as error:
        _logger.error("SIGHUP changes nothing: %s", error.status_text)  # noqa: TRY400


def _stop(server: "Server", events: "queue.SimpleQueue[_Event]") -> None:
    try:
        if not server.stop(unload_s=_UNLOAD_S):
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
