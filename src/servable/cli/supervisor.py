"""
The parent of a server that must not be missed: starts it again when it dies.

The sockets are the parent's, so that whoever connects while there is no server waits
for the next one instead of being refused.  What a server writes to stderr goes through
here; its last words are logged with how it ended.  When to try again is decided by
Restarts, which knows no processes and no clock.
"""

import collections
import contextlib
import ctypes
import fcntl
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Final, TypeAlias

from servable.cli import listening, logs

_logger = logging.getLogger(__name__)

_SUPERVISOR: Final = "SERVABLE_SUPERVISOR"
_RESTARTED: Final = "SERVABLE_RESTARTED"
_PR_SET_PDEATHSIG: Final = 1
_LAST_LINES: Final = 40
_PIPE_BYTES: Final = 1 << 20
# Descriptors of the child are made of ones up here, so that none is overwritten.
_OUT_OF_THE_WAY: Final = 100
_STDERR: Final = 2
# A server that was told to end has its own deadline; this is for one that hangs.
_OVERTIME_S: Final = 3.0
_FORWARDED: Final = (signal.SIGHUP, signal.SIGUSR1)
_ENDING: Final = (signal.SIGTERM, signal.SIGINT)


@dataclass(slots=True)
class Restarts:
    """
    When a server that died is started again: at once, and later each time.

    Attributes:
        first_wait_s: after the second death in a row; each wait doubles the last.
        longest_wait_s: no wait is longer.
        healthy_s: a server that lived for so long begins a new row.
    """

    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    healthy_s: float = 60.0
    in_a_row: int = 0

    def wait_s(self, lived_s: float) -> float:
        """Return how long to wait now that a server died after *lived_s*."""
        self.in_a_row = 1 if lived_s >= self.healthy_s else self.in_a_row + 1
        if self.in_a_row == 1:
            return 0.0
        # Far beyond the longest wait there is nothing to compute any more.
        doubled = min(self.in_a_row - 2, 60)
        return min(self.first_wait_s * 2.0**doubled, self.longest_wait_s)


@dataclass(frozen=True, slots=True)
class _Ended:
    status: int  # of waitpid
    words: str


@dataclass(frozen=True, slots=True)
class _Signalled:
    number: int


_Event: TypeAlias = _Ended | _Signalled


def is_supervised(environment: Mapping[str, str]) -> bool:
    """Return whether this process is a server with a supervisor."""
    return environment.get(_SUPERVISOR) == str(os.getppid())


def end_with(parent: int, by: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel end this process, *by* a signal, when its *parent* is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(by))
    if os.getppid() != parent:
        os.kill(os.getpid(), by)  # it was gone before


def is_restarted(environment: Mapping[str, str]) -> bool:
    """Return whether there was a server before this one, whose clients may wait."""
    return is_supervised(environment) and _RESTARTED in environment


def supervise(
    command: Sequence[str],
    sockets: Mapping[str, socket],
    shutdown_grace_s: float,
    log: logs.QueueingHandler,
) -> int:
    """
    Run *command*, again whenever it ends, until a signal ends both.

    Returns the exit status.  A command that ends by itself before it has ever listened
    cannot be helped by another try: its status is returned.  To be called on a thread
    that lives as long as the process, with the signals blocked.

    Args:
        command: the server; it gets the sockets as listening.inherited() has it.
        sockets: bound, by name.
        shutdown_grace_s: how long a server may take to end.
        log: where its stderr goes, and what is to be said here.
    """
    return _Supervisor(command, sockets, shutdown_grace_s, log).run()


class _Supervisor:
    def __init__(
        self,
        command: Sequence[str],
        sockets: Mapping[str, socket],
        shutdown_grace_s: float,
        log: logs.QueueingHandler,
    ) -> None:
        self._command = list(command)
        self._sockets = dict(sockets)
        self._grace_s = shutdown_grace_s
        self._log = log
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._restarts = Restarts()
        self._has_served = False
        self._pid = 0

    def run(self) -> int:
        threading.Thread(target=self._wait_for_signals, daemon=True).start()
        while True:
            began = time.monotonic()
            self._start()
            match self._wait():
                case int(status):
                    return status
                case _Ended() as ended:
                    pass
            lived_s = time.monotonic() - began
            self._has_served |= any(map(listening.is_listening, self._sockets.values()))
            if os.WIFEXITED(ended.status) and not self._has_served:
                return os.WEXITSTATUS(ended.status)
            wait_s = self._restarts.wait_s(lived_s)
            _logger.error(
                "The server ended by %s after %.1f s, and is started again in %g s.  "
                "Its last words:\n%s",
                _described(ended.status),
                lived_s,
                wait_s,
                ended.words or "(none)",
            )
            if self._is_told_to_end_within(wait_s):
                return os.EX_OK

    def _start(self) -> None:
        reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(writing, False)  # nothing in a server waits for its log
        names = list(self._sockets)
        files = [writing, *(bound.fileno() for bound in self._sockets.values())]
        numbers = [_STDERR]
        numbers += [listening.FIRST_DESCRIPTOR + at for at in range(len(names))]
        moved = [
            fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for file in files
        ]
        environment = listening.without_variables(os.environ)
        environment |= listening.handed_over(names, os.getpid())
        environment[_SUPERVISOR] = str(os.getpid())
        if self._has_served:
            environment[_RESTARTED] = "1"
        self._pid = os.posix_spawn(
            sys.executable,
            self._command,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, file, number)
                for file, number in zip(moved, numbers, strict=True)
            ],
            setsigmask=(),
        )
        for file in (writing, *moved):
            os.close(file)
        threading.Thread(
            target=self._attend, args=(self._pid, reading), daemon=True
        ).start()

    def _attend(self, pid: int, reading: int) -> None:
        """Pass on what a server writes, and tell when it has ended."""
        last: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        passed_on = threading.Thread(
            target=self._pass_on, args=(reading, last), daemon=True
        )
        passed_on.start()
        _, status = os.waitpid(pid, 0)
        # Processes of its models may hold the pipe for a moment longer.
        passed_on.join(0.2)
        self._events.put(_Ended(status, "\n".join(list(last))))

    def _pass_on(self, reading: int, last: "collections.deque[str]") -> None:
        with os.fdopen(reading, errors="backslashreplace") as lines:
            for line in lines:
                text = line.rstrip("\n")
                last.append(text)
                self._log.relay(text)

    def _wait(self) -> _Ended | int:
        """Return how the server ended, or the exit status when both were told to."""
        while True:
            match self._events.get():
                case _Ended() as ended:
                    return ended
                case _Signalled(number) if number in _ENDING:
                    return self._end(number)
                case _Signalled(number):
                    self._send(number)

    def _end(self, number: int) -> int:
        # Who connects now is refused as soon as the server does not accept any more.
        for bound in self._sockets.values():
            if bound.family == AF_UNIX:
                with contextlib.suppress(OSError):
                    Path(bound.getsockname()).unlink()
            bound.close()
        self._send(number)
        give_up_at = time.monotonic() + self._grace_s + _OVERTIME_S
        while True:
            try:
                event = self._events.get(timeout=max(give_up_at - time.monotonic(), 0))
            except queue.Empty:
                _logger.error("The server hangs: it is killed")  # noqa: TRY400
                self._send(signal.SIGKILL)
                give_up_at = time.monotonic() + _OVERTIME_S
                continue
            match event:
                case _Ended(status):
                    return _exit_status(status)
                case _Signalled(again):
                    self._send(again)

    def _is_told_to_end_within(self, wait_s: float) -> bool:
        until = time.monotonic() + wait_s
        while (left_s := until - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=left_s)
            except queue.Empty:
                return False
            if isinstance(event, _Signalled) and event.number in _ENDING:
                return True
        return False

    def _send(self, number: int) -> None:
        try:
            os.kill(self._pid, number)
        except ProcessLookupError:
            return  # its end is in the queue

    def _wait_for_signals(self) -> None:
        while True:
            self._events.put(_Signalled(signal.sigwait((*_ENDING, *_FORWARDED))))


def own_command() -> list[str]:
    """Return what starts a process like this one."""
    return [sys.executable, *sys.orig_argv[1:]]


def _described(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return signal.Signals(number).name
        except ValueError:
            return f"signal {number}"
    return f"exit status {os.WEXITSTATUS(status)}"


def _exit_status(status: int) -> int:
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)
