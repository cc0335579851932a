"""
What commands that may take long tell those who wait for them.

On a terminal that is one line, which comes after a second and goes at the end; anywhere
else it is a line every ten seconds, so that what is quick leaves none in a log.
"""

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Final, TextIO

from servable.cli.show import size_text
from servable.cli.status_line import StatusLine
from servable.export.steps import Step, heard_by

_SEEN_AFTER_S: Final = 1.0
_TOLD_EVERY_S: Final = 10.0
_LOOK_EVERY_S: Final = 0.2


class Waiting:
    """
    Decides what is to be told when.

    Args:
        is_seen: the last line can be written over.
        now: seconds of a clock that goes on evenly.
    """

    def __init__(self, is_seen: bool, now: float) -> None:
        self._is_seen = is_seen
        self._due_at = now + (_SEEN_AFTER_S if is_seen else _TOLD_EVERY_S)
        self._step, self._since = Step(""), now

    def begin(self, step: Step, now: float) -> None:
        """Take *step* as what is done from now on."""
        self._step, self._since = step, now

    def line(self, now: float) -> str:
        """Return what to tell; "" for nothing."""
        if now < self._due_at or not self._step.what:
            return ""
        if not self._is_seen:
            self._due_at = now + _TOLD_EVERY_S
        return f"{self._step.what}{_done(self._step)} ({now - self._since:.0f} s)"


def _done(step: Step) -> str:
    if step.done is None or not step.total:
        return ""
    done = min(step.done(), step.total)
    share = f"{100 * done // step.total} %"
    return f": {share}, {size_text(done)} of {size_text(step.total)}"


@contextlib.contextmanager
def shown_steps(stream: TextIO | None = None) -> Iterator[None]:
    """Show what is done in this context on *stream*, by default stderr."""
    with contextlib.ExitStack() as stack:
        stream = stream or stack.enter_context(_stderr())
        status, lock = StatusLine(stream), threading.Lock()
        waiting = Waiting(status.is_seen, time.monotonic())
        ended = threading.Event()

        def begin(step: Step) -> None:
            with lock:
                waiting.begin(step, time.monotonic())

        def look() -> None:
            while not ended.wait(_LOOK_EVERY_S):
                with lock:
                    line = waiting.line(time.monotonic())
                if line:
                    (status.show if status.is_seen else status.print)(line)

        thread = threading.Thread(target=look, name="servable-waiting", daemon=True)
        stack.enter_context(status)
        stack.callback(thread.join)
        stack.callback(ended.set)
        stack.enter_context(heard_by(begin))
        thread.start()
        yield


@contextlib.contextmanager
def _stderr() -> Iterator[TextIO]:
    """Yield stderr, the real one where libraries' lines are kept out of it."""
    if sys.stderr is None:  # it was closed by who runs the command
        yield io.StringIO()
        return
    try:
        descriptor = os.dup(sys.stderr.fileno())
    except (OSError, ValueError):  # it is no file
        yield sys.stderr
        return
    with os.fdopen(descriptor, "w") as stream:
        yield stream
