"""The drop-in as a process: what it prints, how it ends.  Needs the built engine."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from servable.cli.tensorflow_model_server import run

pytest.importorskip("servable._engine")

COMMAND = "from servable.cli.tensorflow_model_server import main; main()"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the drop-in with some arguments; it is gone when the test is over."""
    processes: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", COMMAND, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def read_until(stream: IO[str] | None, text: str) -> list[str]:
    assert stream is not None
    lines = []
    for line in stream:
        lines.append(line)
        if text in line:
            return lines
    pytest.fail(f"{text!r} is not in {''.join(lines)}")


@pytest.fixture
def empty(tmp_path: Path) -> str:
    """Flags of a server without models, on a Unix socket."""
    (tmp_path / "c").write_text("model_config_list {}")
    return f"--model_config_file={tmp_path}/c"


def socket_flags(tmp_path: Path) -> list[str]:
    return ["--port=0", f"--grpc_socket_path={tmp_path}/s"]


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--help"], id="help"),
        pytest.param(["--port=abc"], id="a malformed value"),
        pytest.param(["--version", "--port=abc"], id="a malformed value and version"),
    ],
)
def test_usage_is_printed_and_nothing_served(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status = run("prog", arguments)

    assert status == 255
    assert capsys.readouterr().out.startswith("usage: prog\nFlags:\n\t--port=8500")


def test_a_malformed_value_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    run("prog", ["--port=abc"])

    assert capsys.readouterr().err == "Couldn't interpret value abc for flag port.\n"


def test_version_has_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    status = run("prog", ["--version"])

    ours, theirs = capsys.readouterr().out.splitlines()
    assert status == 0
    assert ours.startswith("TensorFlow ModelServer: ")
    assert theirs.startswith("TensorFlow Library: ")


def test_a_failure_is_told_on_stdout(start: Start) -> None:
    out, _ = start().communicate(timeout=60)

    assert out == (
        "Failed to start server. Error: INVALID_ARGUMENT: Both "
        "server_options.model_base_path and server_options.model_config_file are "
        "empty!\n"
    )


def test_a_failure_is_exit_status_255(start: Start) -> None:
    process = start("--model_config_file=/no/such")
    process.communicate(timeout=60)

    assert process.returncode == 255


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_ends_it_with_0(
    start: Start, empty: str, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(empty, *socket_flags(tmp_path))
    read_until(process.stderr, "Running gRPC ModelServer at UNIX socket")

    process.send_signal(number)
    _, rest = process.communicate(timeout=60)

    assert process.returncode == 0
    assert f"{number.name}: finishing the requests in flight" in rest


def test_one_signal_that_comes_twice_counts_once(
    start: Start, empty: str, tmp_path: Path
) -> None:
    process = start(empty, *socket_flags(tmp_path))
    read_until(process.stderr, "Running gRPC ModelServer at UNIX socket")

    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)

    assert process.returncode == 0


def test_a_signal_ends_a_start_that_waits_for_models(
    start: Start, tmp_path: Path
) -> None:
    process = start(f"--model_base_path={tmp_path}/none", *socket_flags(tmp_path))
    read_until(process.stderr, "Could not find base path")

    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    assert not out


def test_unknown_arguments_are_told_of_and_served_with(
    start: Start, empty: str, tmp_path: Path
) -> None:
    process = start(empty, *socket_flags(tmp_path), "--aa=1", "--bb")

    out = read_until(process.stdout, "usage: ")
    read_until(process.stderr, "Running gRPC ModelServer")

    assert out[0] == "unknown argument: --aa=1\n"
    assert process.poll() is None


def test_a_port_that_is_taken_is_told_of(start: Start, empty: str) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))  # noqa: S104 - where the server listens
        taken.listen()
        process = start(empty, f"--port={taken.getsockname()[1]}")
        out, _ = process.communicate(timeout=60)

    assert process.returncode == 255
    assert out.endswith("INVALID_ARGUMENT: Failed to BuildAndStart gRPC server\n")


def test_flags_without_effect_are_told_of_once(
    start: Start, empty: str, tmp_path: Path
) -> None:
    process = start(empty, *socket_flags(tmp_path), "--grpc_max_threads=5")
    lines = read_until(process.stderr, "Running gRPC ModelServer")

    assert sum("--grpc_max_threads has no effect" in line for line in lines) == 1
