"""What a log line looks like, and that writing it holds nobody up."""

import io
import json
import logging
import re
import subprocess
import sys
import threading

import pytest

from servable.cli import logs
from servable.cli.logs import JsonFormatter, QueueingHandler, TextFormatter


def record(message: str, *args: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord(
        "servable.server", level, "/a/servable/server.py", 7, message, args, None
    )


@pytest.mark.parametrize(
    ("level", "letter"),
    [
        (logging.DEBUG, "D"),
        (logging.INFO, "I"),
        (logging.WARNING, "W"),
        (logging.ERROR, "E"),
        (logging.CRITICAL, "F"),
    ],
)
def test_text_lines_begin_as_tensorflows_do(level: int, letter: str) -> None:
    line = TextFormatter().format(record("model: %s", "m", level=level))

    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}: "
        + letter
        + r" servable/server\.py:7\] model: m",
        line,
    )


@pytest.mark.parametrize(
    ("level", "told"),
    [
        pytest.param("info", ["servable.server"], id="not for everybody"),
        pytest.param(
            "debug",
            ["servable.server", "httpx", "httpx2", "azure.core"],
            id="for those who look for a fault",
        ),
    ],
)
def test_libraries_tell_of_their_requests(level: str, told: list[str]) -> None:
    script = (
        "import logging, sys; from servable.cli import logs; "
        "logs.set_up('json', sys.argv[1], sys.stdout); "
        "[logging.getLogger(name).info('asked') for name in sys.argv[2:]]"
    )
    loggers = ["servable.server", "httpx", "httpx2", "azure.core"]
    done = subprocess.run(
        [sys.executable, "-c", script, level, *loggers], capture_output=True, check=True
    )

    assert [json.loads(line)["logger"] for line in done.stdout.splitlines()] == told


def with_traceback() -> logging.LogRecord:
    failed = record("outer")
    try:
        _ = 1 // 0
    except ZeroDivisionError:
        failed.exc_info = sys.exc_info()
    return failed


def test_a_traceback_follows_the_text() -> None:
    first, *rest = TextFormatter().format(with_traceback()).splitlines()

    assert first.endswith("] outer")
    assert rest[-1].startswith("ZeroDivisionError: ")


def test_json_lines_are_one_object_each() -> None:
    line = JsonFormatter().format(with_traceback())

    assert "\n" not in line
    fields = json.loads(line)
    assert fields["message"] == "outer"
    assert fields["level"] == "info"
    assert fields["place"] == "servable/server.py:7"
    assert fields["time"].endswith("Z")
    assert "ZeroDivisionError: " in fields["exception"]


class BlockedStream(io.StringIO):
    """Takes nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_blocked = threading.Event()
        self.go_on = threading.Event()

    def write(self, text: str) -> int:
        self.is_blocked.set()
        self.go_on.wait(20)
        return super().write(text)


def test_a_stream_that_blocks_holds_nobody_up() -> None:
    stream = BlockedStream()
    handler = QueueingHandler(stream, queue_lines=2)
    handler.emit(record("0"))
    stream.is_blocked.wait(20)

    for number in range(1, 6):  # two fit into the queue
        handler.emit(record(str(number)))

    assert not handler.finish(timeout_s=0.0)
    stream.go_on.set()
    assert handler.finish(timeout_s=20.0)
    assert stream.getvalue().splitlines() == [
        "0",
        "3 log lines were dropped here",
        "1",
        "2",
    ]


def test_a_stream_that_was_closed_is_survived() -> None:
    stream = io.StringIO()
    stream.close()
    handler = QueueingHandler(stream)

    handler.emit(record("a"))

    assert handler.finish(timeout_s=20.0)


@pytest.mark.parametrize(("form", "level"), [("xml", "info"), ("text", "loud")])
def test_unknown_formats_and_levels_are_refused(form: str, level: str) -> None:
    with pytest.raises(ValueError, match="--log_"):
        logs.set_up(form, level, io.StringIO())
