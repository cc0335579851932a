"""
The servers that are compared, started on a core of their own.

Each is a context that gives a Process; leaving it ends the process.
"""

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from servable.bench.runner import ClosedLoop, Spec, run

HERE = Path(__file__).parent
BUILD = HERE / "build"
SERVER_CORE = 0
LOAD_CORE = 1

OURS = (
    "{python} -c 'from servable.cli.tensorflow_model_server import main; main()' "
    "--port={grpc_port} --rest_api_port={rest_port} --model_config_file={config} "
    "--file_system_poll_wait_seconds=1"
)


@dataclass(frozen=True)
class Process:
    """A server that runs: what it listens on, and when it was started."""

    name: str
    pid: int
    grpc_address: str
    rest_address: str
    started: float  # of time.monotonic()
    log: Path = field(repr=False)

    def rss_bytes(self, kind: str = "VmRSS") -> int:
        """Return the memory it holds; ``RssAnon`` is that without files."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(kind))
        return int(line.split()[1]) * 1024


class Missing(Exception):
    """A server cannot be started on this machine; the text says what it needs."""


def pin_load() -> None:
    """Keep this process, which makes the load, off the core of the servers."""
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {LOAD_CORE})


def build_peers() -> None:
    """
    Compile the C++ peers that are older than their sources.

    Raises:
        Missing: there is no compiler or no gRPC for it.
    """
    if not (shutil.which("g++") and shutil.which("pkg-config")):
        raise Missing("the C++ peers need g++ and pkg-config")
    found = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "grpc++"],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise Missing("the C++ peers need gRPC for C++ (Debian: libgrpc++-dev)")
    BUILD.mkdir(exist_ok=True)
    for name in ("echo", "load"):
        source, binary = HERE / "peers" / "cpp" / f"{name}.cc", BUILD / name
        if binary.exists() and binary.stat().st_mtime > source.stat().st_mtime:
            continue
        print(f"compiling {source.name} …", file=sys.stderr)
        command = ["g++", "-O2", "-std=c++17", str(source), "-o", str(binary)]
        subprocess.run([*command, *found.stdout.split()], check=True)


def build_models() -> Path:
    """Make the models that are not there, in another process; return where."""
    directory = BUILD / "models"
    names = ("half_plus_two", "image_mean", "matrices", "resnet50")
    if not all((directory / name / "1").exists() for name in names):
        print("making the models with TensorFlow …", file=sys.stderr)
        made = [sys.executable, str(HERE / "models.py"), str(directory)]
        subprocess.run(made, check=True, capture_output=True)
    return directory


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """Use the core of the servers meanwhile, at the priority of a model's load."""
    code = f"import os; os.nice(10); os.sched_setaffinity(0, {{{SERVER_CORE}}})\n"
    with subprocess.Popen([sys.executable, "-c", code + "while True: pass"]) as loop:
        try:
            yield
        finally:
            loop.kill()


@contextlib.contextmanager
def echo() -> Iterator[Process]:
    """Run the C++ echo."""
    build_peers()
    address = f"127.0.0.1:{_free_port()}"
    with _started("echo", [str(BUILD / "echo"), address], address) as process:
        yield process


@contextlib.contextmanager
def ours(
    models: Mapping[str, Path],
    template: str = OURS,
    platforms: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Process]:
    """
    Run this project's server with *models*, or whatever server *template* starts.

    Models that *platforms* does not name are SavedModels.

    In the template stand {python}, {grpc_port}, {rest_port} and {config}, the latter
    for a model_config_list in a file.
    """
    grpc_port, rest_port = _free_port(), _free_port()
    config = BUILD / f"models-{grpc_port}.config"
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{path.resolve()}" '
        f'model_platform: "{platforms.get(name, "tensorflow")}" }}\n'
        for name, path in models.items()
    )
    config.write_text(f"model_config_list {{\n{entries}}}\n")
    command = template.format(
        python=sys.executable, grpc_port=grpc_port, rest_port=rest_port, config=config
    )
    grpc_address, rest_address = f"127.0.0.1:{grpc_port}", f"127.0.0.1:{rest_port}"
    try:
        with _started("ours", shlex.split(command), grpc_address, rest_address) as one:
            yield one
    finally:
        config.unlink()


@contextlib.contextmanager
def reference(mode: str, model: Path) -> Iterator[Process]:
    """Run the Python reference, *mode* ``sync`` or ``asyncio``."""
    address = f"127.0.0.1:{_free_port()}"
    script = HERE / "peers" / "grpcio_reference.py"
    command = [sys.executable, str(script), mode, address, str(model / "1")]
    with _started(f"grpcio {mode}", command, address) as process:
        yield process


@contextlib.contextmanager
def _started(
    name: str, command: Sequence[str], grpc_address: str, rest_address: str = ""
) -> Iterator[Process]:
    if (os.cpu_count() or 1) > 1:
        # taskset becomes the server: what is measured is the process started here.
        command = ["taskset", "-c", str(SERVER_CORE), *command]
    BUILD.mkdir(exist_ok=True)
    log = BUILD / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield Process(name, process.pid, grpc_address, rest_address, started, log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_answering(process: Process, spec: Spec, timeout_s: float = 120) -> float:
    """
    Send *spec*'s request until it is answered well; return seconds since the start.

    Raises:
        Missing: the process has died, or does not answer within timeout_s.
    """
    one = Spec(
        spec.protocol, spec.address, spec.path, spec.body, ClosedLoop(1), requests=1,
        warmup_s=0, timeout_s=10,
    )  # fmt: skip
    problem = "nothing"
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            report = run(one)
        except ConnectionError as error:
            problem = str(error)
        else:
            if report["ok"]:
                return time.monotonic() - process.started
            problem = next(iter(report["errors"].values()))["message"]
        if _has_died(process.pid):
            tail = process.log.read_text(errors="replace")[-2000:]
            raise Missing(f"{process.name} has died:\n{tail}")
        time.sleep(0.005)
    raise Missing(f"{process.name} does not answer: {problem}")


def _has_died(pid: int) -> bool:
    found, _ = os.waitpid(pid, os.WNOHANG)
    return found == pid


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
