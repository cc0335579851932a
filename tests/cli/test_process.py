"""How a serving process ends, seen from its main thread."""

import queue
import signal
import threading
from typing import cast

import pytest

from servable.cli import process
from servable.cli.process import _Event, _Signalled
from servable.config.server_options import ServerOptions
from servable.errors import NotFound
from servable.server import Server


class StuckServer:
    """Starts, or fails to, and stops only when it is let."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.may_stop = threading.Event()

    def start(self) -> None:
        if self._error:
            raise self._error

    def stop(self, *, unload_s: float) -> bool:
        del unload_s
        return self.may_stop.wait(20)


@pytest.fixture
def events() -> "queue.SimpleQueue[_Event]":
    return queue.SimpleQueue()


def serve(server: StuckServer, events: "queue.SimpleQueue[_Event]") -> int:
    return process._serve_until_signalled(
        cast("Server", server), ServerOptions(), events
    )


def test_a_second_signal_waits_for_nothing_and_is_told_of(
    events: "queue.SimpleQueue[_Event]", caplog: pytest.LogCaptureFixture
) -> None:
    server = StuckServer()
    events.put(_Signalled(signal.SIGTERM, at=10.0))
    events.put(_Signalled(signal.SIGTERM, at=11.0))

    status = serve(server, events)

    server.may_stop.set()
    assert status == 128 + signal.SIGTERM
    assert "SIGTERM: giving up the requests in flight" in caplog.text


def test_the_same_signal_once_more_does_not(
    events: "queue.SimpleQueue[_Event]",
) -> None:
    server = StuckServer()
    events.put(_Signalled(signal.SIGTERM, at=10.0))
    events.put(_Signalled(signal.SIGTERM, at=10.1))
    server.may_stop.set()

    assert serve(server, events) == 0


def test_a_failed_start_is_told_of(
    events: "queue.SimpleQueue[_Event]", capsys: pytest.CaptureFixture[str]
) -> None:
    status = serve(StuckServer(NotFound("x")), events)

    assert status == 255
    assert capsys.readouterr().out == ("Failed to start server. Error: NOT_FOUND: x\n")
