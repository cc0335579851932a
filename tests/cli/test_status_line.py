"""What is written to a terminal, and what to a file."""

import io
import os

import pytest

from servable.cli.status_line import StatusLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def tell(stream: io.StringIO) -> str:
    with StatusLine(stream) as status:
        status.show("1 of 2\x1b[2J")
        status.show("1 of 2\x1b[2J")
        status.print("half\x07way")
        status.show("2 of 2 and so on")
    return stream.getvalue()


def test_a_terminal_sees_a_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    size = os.terminal_size((13, 24))
    monkeypatch.setattr("shutil.get_terminal_size", lambda: size)

    assert tell(Terminal()) == (
        "\r\x1b[K1 of 2\\x1b[2\r\x1b[Khalf\\x07way\n\r\x1b[K2 of 2 and s\r\x1b[K"
    )


def test_a_file_has_the_lines_that_stay() -> None:
    assert tell(io.StringIO()) == "half\\x07way\n"
