"""Signals that do not end a server, and what it does when nobody reads its output."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

from servable.client import Client
from servable.errors import InvalidArgument, ServingError

WaitUntil = Callable[[Callable[[], bool], str], None]
CONFIG = """
model_config_list {{ {} }}
"""
MODEL = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" }}'


def config(base: Path, *names: str) -> str:
    return CONFIG.format("\n".join(MODEL.format(name, base) for name in names))


@pytest.mark.parametrize("supervised", [False, True], ids=["alone", "supervised"])
def test_sighup_reads_the_config_file_again(
    start: Callable[..., Any],
    write_version: Callable[..., Path],
    wait_until: WaitUntil,
    tmp_path: Path,
    supervised: bool,
) -> None:
    file = tmp_path / "models.config"
    for name in ("a", "b"):
        write_version(tmp_path / "models" / name / "1")
    file.write_text(config(tmp_path / "models", "a"))
    flags = ["--supervise"] if supervised else []
    server = start(f"--model_config_file={file}", *flags, opened="Successfully loaded")
    file.write_text("no config")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "SIGHUP changes nothing" in server.log(), "complaint")
    file.write_text(config(tmp_path / "models", "a", "b"))
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.is_serving("b"), "second model")

    assert server.is_serving("a")


@pytest.mark.parametrize("number", ["SIGPIPE", "SIGCHLD", "SIGUSR2", "SIGUSR1"])
def test_other_signals_end_nothing(shared: Any, number: str) -> None:
    shared.process.send_signal(signal.Signals[number])

    assert shared.is_serving("m")


def test_sigusr1_tells_where_all_threads_are(
    shared: Any, wait_until: WaitUntil
) -> None:
    shared.process.send_signal(signal.SIGUSR1)

    wait_until(lambda: "aspired_versions_manager.py" in stacks(shared), "stack")


def stacks(server: Any) -> str:
    return str(server.log().partition("most recent call first")[2])


@pytest.fixture(scope="module")
def shared(
    start: Callable[..., Any],
    write_version: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    base = tmp_path_factory.mktemp("models")
    write_version(base / "m" / "1")
    return start(str(base / "m"), opened="Successfully loaded")


@pytest.fixture(params=["blocked", "closed", "missing"])
def unread(request: pytest.FixtureRequest) -> Iterator[int | None]:
    """Give a pipe that takes nothing more, or has nobody at its other end, or none."""
    if request.param == "missing":
        yield None
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    if request.param == "closed":
        os.close(reading)
    else:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    yield writing
    os.close(writing)
    if request.param == "blocked":
        os.close(reading)


def test_nobody_reads_the_output(
    unread: int | None,
    write_version: Callable[..., Path],
    wait_until: WaitUntil,
    tmp_path: Path,
) -> None:
    base, socket = tmp_path / "models" / "m", tmp_path / "socket"
    write_version(base / "1")
    flags = ["--port=0", "--rest_api_port=0", f"--grpc_socket_path={socket}"]
    command = [sys.executable, "-m", "servable", "serve", *flags, str(base)]
    if unread is None:
        command = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command]
    with (
        subprocess.Popen(command, stdout=unread, stderr=unread) as process,
        contextlib.ExitStack() as at_the_end,
        Client(f"unix:{socket}", attempts=1, timeout=20) as client,
    ):
        at_the_end.callback(process.kill)

        def answers(expected: float) -> bool:
            try:
                found: list[float] = client.predict("m", [2.0])["y"].tolist()
            except ServingError:  # it is not there yet
                return False
            return found == [expected]

        wait_until(lambda: answers(3.0), "answer")
        # TensorFlow writes lines of each, from the thread of the request.
        for _ in range(200):
            with pytest.raises(InvalidArgument, match="required"):
                client.predict("m", {"inputs": [b""]}, signature="regress")
        write_version(base / "2", two=5.0)
        wait_until(lambda: answers(6.0), "second version")
        process.send_signal(signal.SIGTERM)

        assert process.wait(60) == 0
