"""What those who wait for a command are told."""

import io
import queue
import subprocess
import sys

import pytest

from servable.cli import waiting
from servable.cli.waiting import Waiting, shown_steps
from servable.export.steps import Step, begin

MEBI = 1 << 20


@pytest.mark.parametrize(
    ("is_seen", "times", "expected"),
    [
        pytest.param(True, [0.5, 0.9], ["", ""], id="nothing of what is quick"),
        pytest.param(
            True,
            [1.0, 1.2, 5.0],
            ["copying (1 s)", "copying (1 s)", "copying (5 s)"],
            id="after a second on a terminal",
        ),
        pytest.param(
            False,
            [9.9, 10.0, 10.2, 19.9, 20.0],
            ["", "copying (10 s)", "", "", "copying (20 s)"],
            id="every ten seconds in a log",
        ),
    ],
)
def test_when_something_is_told(
    is_seen: bool, times: list[float], expected: list[str]
) -> None:
    told = Waiting(is_seen, now=100.0)
    told.begin(Step("copying"), now=100.0)

    assert [told.line(100.0 + after) for after in times] == expected


def test_a_step_has_time_of_its_own() -> None:
    told = Waiting(is_seen=True, now=0.0)

    assert told.line(5.0) == ""  # nothing has begun
    told.begin(Step("copying"), now=5.0)
    told.begin(Step("writing"), now=7.0)
    assert told.line(9.0) == "writing (2 s)"


@pytest.mark.parametrize(
    ("done", "total", "expected"),
    [
        pytest.param(
            1 * MEBI, 4 * MEBI, "copying: 25 %, 1.0 MiB of 4.0 MiB (2 s)", id="some"
        ),
        pytest.param(5, 4, "copying: 100 %, 4 bytes of 4 bytes (2 s)", id="no more"),
        pytest.param(0, 0, "copying (2 s)", id="of nothing"),
    ],
)
def test_how_far_it_is(done: int, total: int, expected: str) -> None:
    told = Waiting(is_seen=True, now=0.0)
    told.begin(Step("copying", lambda: done, total), now=0.0)

    assert told.line(2.0) == expected


class Terminal(io.StringIO):
    """Hands over what is written."""

    def __init__(self, *, is_one: bool) -> None:
        super().__init__()
        self.written: queue.Queue[str] = queue.Queue()
        self.is_one = is_one

    def isatty(self) -> bool:
        return self.is_one

    def write(self, text: str) -> int:
        self.written.put(text)
        return len(text)


@pytest.mark.parametrize(
    ("is_one", "first", "last"),
    [
        pytest.param(True, "\r\x1b[Kcopying (", "\r\x1b[K", id="a terminal"),
        pytest.param(False, "copying (", " s)\n", id="a log"),
    ],
)
def test_what_goes_on_is_shown_and_goes(
    monkeypatch: pytest.MonkeyPatch, is_one: bool, first: str, last: str
) -> None:
    monkeypatch.setattr(waiting, "_SEEN_AFTER_S", 0.0)
    monkeypatch.setattr(waiting, "_TOLD_EVERY_S", 0.0)
    terminal = Terminal(is_one=is_one)

    with shown_steps(terminal):
        begin("copying")
        shown = left = terminal.written.get(timeout=60)

    while not terminal.written.empty():
        left = terminal.written.get()
    assert shown.startswith(first)
    assert left.endswith(last)


def test_who_has_closed_stderr_is_told_nothing() -> None:
    program = """
from servable.cli.quiet import quiet_import
from servable.cli.waiting import shown_steps
from servable.export.steps import begin
with shown_steps(), quiet_import():
    begin("copying")
print("done")
"""
    shell = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, program]

    assert subprocess.run(shell, capture_output=True, check=False).stdout == b"done\n"


def test_nobody_is_told_afterwards() -> None:
    terminal = Terminal(is_one=True)
    with shown_steps(terminal):
        pass

    begin("copying")
    assert terminal.written.empty()
