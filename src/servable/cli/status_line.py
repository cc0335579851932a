"""
One line at the bottom of a terminal that tells what goes on, below the lines that stay.

On anything but a terminal there is no such line, and those that stay are all there is.
"""

import shutil
from types import TracebackType
from typing import Final, Self, TextIO

from servable.cli.tables import printable

_CLEAR: Final = "\r\x1b[K"


class StatusLine:
    """
    A line that is written over, for as long as its context lasts.

    Args:
        stream: where it and the lines that stay are written, mostly stdout.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_seen: Final = stream.isatty()
        self._text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.show("")

    def show(self, text: str) -> None:
        """Have *text* in the line, cut to the width of the terminal."""
        text = printable(text)
        if self.is_seen and text != self._text:
            columns = shutil.get_terminal_size().columns
            self._write(f"{_CLEAR}{text[: columns - 1]}")
            self._text = text

    def print(self, line: str) -> None:
        """Write a line that stays."""
        cleared = _CLEAR if self._text else ""
        self._text = ""
        self._write(f"{cleared}{printable(line)}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
