"""
Logging of a server process: one line a record on stderr, written by its own thread.

Whoever logs never waits for whoever reads: when stderr is blocked, lines pile up in
a queue, and when that is full, new ones are counted and dropped.
"""

import atexit
import json
import logging
import os
import queue
import stat
import sys
import threading
import time
from typing import Final, TextIO

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_QUEUE_LINES: Final = 10_000
# Libraries that stores are asked with, and that tell of each request they make.
_TELL_OF_REQUESTS: Final = ("httpx", "httpx2", "azure")
_LETTERS: Final = {
    logging.DEBUG: "D",
    logging.INFO: "I",
    logging.WARNING: "W",
    logging.ERROR: "E",
    logging.CRITICAL: "F",
}


class TextFormatter(logging.Formatter):
    """Lines as TensorFlow writes them: `2026-07-30 10:11:12.123456: I file:1] text`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and below it the traceback if there is one."""
        seconds, fraction = divmod(record.created, 1)
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
        letter = _LETTERS.get(record.levelno, "I")
        line = (
            f"{at}.{int(fraction * 1e6):06}: {letter} {_place(record)}] "
            f"{record.getMessage()}"
        )
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the time in UTC, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object."""
        seconds, fraction = divmod(record.created, 1)
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        fields = {
            "time": f"{at}.{int(fraction * 1e6):06}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "place": _place(record),
            "thread": record.threadName,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


class QueueingHandler(logging.Handler):
    """
    Has a thread of its own write the lines to *stream*.

    Thread-safe; emit() never blocks.
    """

    def __init__(self, stream: TextIO, queue_lines: int = _QUEUE_LINES) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(queue_lines)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the line of *record*, or count it as dropped."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a record that cannot be formatted
            self.handleError(record)
        else:
            self.relay(line)

    def relay(self, line: str) -> None:
        """Queue a line that another process has made, or count it as dropped."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def finish(self, timeout_s: float) -> bool:
        """Write what is queued; return whether *timeout_s* was long enough."""
        deadline = time.monotonic() + timeout_s
        try:
            self._lines.put(None, timeout=timeout_s)
        except queue.Full:
            return False
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        return not self._thread.is_alive()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            dropped, self._dropped = self._dropped, 0
            if dropped:
                line = f"{dropped} log lines were dropped here\n{line}"
            try:
                self._stream.write(line + "\n")
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                continue  # nobody reads any more; there is nowhere left to say so
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return


def open_what_is_closed() -> None:
    """
    Have /dev/null stand where a standard stream was closed by who started this process.

    Otherwise the next file or connection would take its number, and get what TensorFlow
    writes to stderr.
    """
    for descriptor, name, mode in (
        (0, "stdin", "r"),
        (1, "stdout", "w"),
        (2, "stderr", "w"),
    ):
        try:
            os.fstat(descriptor)
        except OSError:
            # It takes the lowest number there is.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            stream = open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def stderr_of_its_own() -> TextIO:
    """
    Return stderr for the log, and have nothing else in this process wait for it.

    TensorFlow writes to it from threads that run requests.  Where it is a pipe that
    nobody empties, such a line is lost from now on; the log has a thread that waits.
    """
    stream = os.fdopen(os.dup(2), "w", errors="backslashreplace")
    for descriptor in (1, 2):
        try:
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                again = os.open(
                    f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK
                )
                os.dup2(again, descriptor)
                os.close(again)
        except OSError:
            continue  # it is somebody else's pipe, or there is none
    return stream


def set_up(log_format: str, log_level: str, stream: TextIO) -> QueueingHandler:
    """
    Send all logging of this process to *stream*; finished when the process ends.

    Of what libraries tell of their requests it has only what is wrong, unless the level
    is "debug".

    Raises:
        ValueError: There is no such format or level.
    """
    if log_format not in ("text", "json"):
        raise ValueError(f'--log_format is "text" or "json", not "{log_format}"')
    if log_level not in LEVELS:
        raise ValueError(f"--log_level is one of {', '.join(LEVELS)}, not {log_level}")
    handler = QueueingHandler(stream)
    handler.setFormatter(TextFormatter() if log_format == "text" else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[log_level])
    if log_level != "debug":
        for name in _TELL_OF_REQUESTS:
            logging.getLogger(name).setLevel(logging.WARNING)
        # It sets its own level, and writes of each new attempt past this log.
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    atexit.register(handler.finish, 2.0)
    return handler


def _place(record: logging.LogRecord) -> str:
    parts = record.pathname.rsplit(os.sep, 2)
    return f"{'/'.join(parts[-2:])}:{record.lineno}"
