"""A server that dies while it is asked, and the supervisor that starts the next one."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

import httpx

from servable.client import Client
from servable.errors import ServingError

WaitUntil = Callable[[Callable[[], bool], str], None]


def child_of(pid: int) -> int:
    """Return the number of the one child of a process, 0 for none."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found[0]) if found else 0


@pytest.fixture
def supervised(
    start: Callable[..., Any], write_version: Callable[..., Path], tmp_path: Path
) -> Iterator[Any]:
    """Give a server with a supervisor, which serves half_plus_two."""
    write_version(tmp_path / "models" / "m" / "1")
    server = start(
        "--supervise",
        f"--grpc_socket_path={tmp_path}/socket",
        f"{tmp_path}/models/m",
        opened="Successfully loaded",
    )
    yield server
    server.process.terminate()
    server.process.wait(60)


def ask(server: Any) -> tuple[list[float], ...]:
    """Return the answers over both protocols and the Unix socket."""
    body = {"instances": [2.0]}
    url = f"{server.rest}/v1/models/m:predict"
    rest = httpx.post(url, json=body, timeout=60).json()["predictions"]
    socket_path = server.flags[1].partition("=")[2]
    answers = [rest]
    for address in (server.grpc, f"unix:{socket_path}"):
        with Client(address, attempts=1, timeout=60) as client:
            answers.append(client.predict("m", [2.0])["y"].tolist())
    return tuple(answers)


def test_a_killed_server_is_replaced_and_nobody_is_refused(
    supervised: Any, wait_until: WaitUntil
) -> None:
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
            time.sleep(0.001)

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
    assert re.search("The server ended by SIGKILL after .* again in 0 s", supervised.log())
