"""A server that dies while it is asked, and the supervisor that starts the next one."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

import httpx

from servable.client import Client

WaitUntil = Callable[[Callable[[], bool], str], None]


def child_of(pid: int) -> int:
    """Return the number of the one child of a process, 0 for none."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found[0]) if found else 0


@pytest.fixture
def supervised(
    start: Callable[..., Any], write_version: Callable[..., Path], tmp_path: Path
) -> Any:
    """Return a server with a supervisor, which serves half_plus_two."""
    write_version(tmp_path / "models" / "m" / "1")
    return start(
        "--supervise",
        f"--grpc_socket_path={tmp_path}/socket",
        f"{tmp_path}/models/m",
        opened="Successfully loaded",
    )


def ask(server: Any) -> tuple[list[float], ...]:
    """Return the answers over both protocols and the Unix socket."""
    body = {"instances": [2.0]}
    url = f"{server.rest}/v1/models/m:predict"
    rest = httpx.post(url, json=body, timeout=60).json()["predictions"]
    socket_path = server.flags[1].partition("=")[2]
    answers = [rest]
    for address in (server.grpc, f"unix:{socket_path}"):
        with Client(address, attempts=10, timeout=60) as client:
            answers.append(client.predict("m", [2.0])["y"].tolist())
    return tuple(answers)


def test_a_killed_server_is_replaced_and_nobody_is_refused(supervised: Any) -> None:
    first = child_of(supervised.process.pid)
    refused: list[str] = []
    connects = 0
    is_over = threading.Event()

    def connect() -> None:
        nonlocal connects
        while not is_over.is_set():
            for port in (supervised.grpc_port, supervised.rest_port):
                try:
                    socket.create_connection(("127.0.0.1", port), 20).close()
                except OSError as error:
                    refused.append(str(error))
                connects += 1
            time.sleep(0.01)

    connecting = threading.Thread(target=connect)
    connecting.start()
    os.kill(first, signal.SIGKILL)
    answers = ask(supervised)  # waits for the next server
    is_over.set()
    connecting.join()

    assert answers == ([3.0],) * 3
    assert refused == []
    assert connects > 10
    second = child_of(supervised.process.pid)
    assert second not in (0, first)
    assert re.search(
        "The server ended by SIGKILL after .* again in 0 s", supervised.log()
    )


def test_the_last_words_of_a_server_are_kept(
    supervised: Any, wait_until: WaitUntil
) -> None:
    os.kill(child_of(supervised.process.pid), signal.SIGABRT)
    wait_until(lambda: "The server ended by SIGABRT" in supervised.log(), "obituary")
    answers = ask(supervised)

    last_words = supervised.log().partition("Its last words:")[2]
    assert "Fatal Python error: Aborted" in last_words
    assert answers == ([3.0],) * 3


def test_both_end_with_one_signal(supervised: Any, tmp_path: Path) -> None:
    child = child_of(supervised.process.pid)
    before = (tmp_path / "socket").exists()
    supervised.process.send_signal(signal.SIGTERM)

    assert supervised.process.wait(60) == 0
    assert not Path(f"/proc/{child}").exists()
    assert before
    assert not (tmp_path / "socket").exists()


def test_a_server_ends_with_its_supervisor(
    supervised: Any, wait_until: WaitUntil
) -> None:
    child = child_of(supervised.process.pid)
    supervised.process.kill()

    wait_until(lambda: has_ended(child), "end of the server")


def has_ended(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_what_no_restart_can_mend_ends_both() -> None:
    flags = ["--supervise", "--port=0", "--rest_api_port=0"]
    done = subprocess.run(
        [sys.executable, "-m", "servable", "serve", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 255
    assert done.stdout.startswith("Failed to start server. Error: INVALID_ARGUMENT: At")
