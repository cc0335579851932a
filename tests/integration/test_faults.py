"""What may happen to a server and to its files while it is asked: it serves on."""

import functools
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

import httpx

from servable.client import Client
from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.errors import ServingError

WaitUntil = Callable[[Callable[[], bool], str], None]
WriteVersion = Callable[..., Path]
FAKE_TIME = next(
    iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), Path("/none")
)


class Clients:
    """
    Two clients of each protocol, on connections that are kept.

    Each version adds its number to half of what it is asked.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self._is_over = threading.Event()
        self.problems: list[str] = []
        self.answers = 0
        self.newest = 0
        self._threads = [
            threading.Thread(target=self._run, args=(ask,))
            for ask in (self._grpc, self._grpc, self._rest, self._rest)
        ]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, open_client: Callable[[], Any]) -> None:
        before = 0.0
        with open_client() as ask:
            while not self._is_over.is_set():
                try:
                    added = ask([2.0, 4.0, 8.0])
                except Exception as error:  # noqa: BLE001 - all of them count
                    self.problems.append(f"{type(error).__name__}: {error}")
                    continue
                self.answers += 1
                if len(set(added)) != 1:
                    self.problems.append(f"an answer of several versions: {added}")
                if added[0] < before:
                    self.problems.append(f"{added[0]} after {before}")
                before = added[0]
                self.newest = max(self.newest, int(before))

    @contextmanager
    def _grpc(self) -> Iterator[Callable[[list[float]], list[float]]]:
        with Client(self._server.grpc, attempts=1, timeout=30) as client:

            def ask(x: list[float]) -> list[float]:
                outputs = client.predict("m", x)
                added = (outputs["y"] - [value / 2 for value in x]).tolist()
                assert set(added) == {float(outputs.version or 0)}
                return list(added)

            yield ask

    @contextmanager
    def _rest(self) -> Iterator[Callable[[list[float]], list[float]]]:
        with httpx.Client(base_url=self._server.rest, timeout=30) as client:

            def ask(x: list[float]) -> list[float]:
                reply = client.post("/v1/models/m:predict", json={"instances": x})
                y = reply.raise_for_status().json()["predictions"]
                return [b - a / 2 for a, b in zip(x, y, strict=True)]

            yield ask


def write_in_pieces(path: Path, content: bytes) -> None:
    """Write a file as slow copies do."""
    path.parent.mkdir()
    with path.open("wb") as file:
        for at in range(0, len(content), 1000):
            file.write(content[at : at + 1000])
            file.flush()


def publish(base: Path, version: int, write_version: WriteVersion, way: str) -> None:
    """Publish a version that adds its number, by rename, link or copy."""
    if way == "rename":
        write_version(base / str(version), float(version))
        return
    elsewhere = write_version(base.parent / "elsewhere" / str(version), float(version))
    if way == "link":
        (base.parent / "link").symlink_to(elsewhere)
        (base.parent / "link").rename(base / str(version))
    else:
        graph = "saved_model.pb"
        write_in_pieces(base / str(version) / graph, (elsewhere / graph).read_bytes())


@contextmanager
def failing(
    server: Any, told: Path, calls: str, how: str, *paths: Path
) -> Iterator[Callable[[int], bool]]:
    """
    Have system calls of a server fail, those that concern *paths* if there are any.

    Gives what tells whether so many have failed.
    """
    command = ["strace", "-f", "-qq", f"-o{told}", f"-p{server.process.pid}"]
    command += [f"-etrace={calls}", f"-einject={calls}:{how}"]
    command += [f"-P{path}" for path in paths]
    with subprocess.Popen(command) as tracer:
        try:
            yield lambda count: (
                told.exists()
                and len(re.findall("INJECTED|DELAYED", told.read_text())) >= count
            )
        finally:
            tracer.terminate()  # which lets go of the server


@functools.cache
def can_make_calls_fail() -> bool:
    command = ["strace", "-o/dev/null", "-einject=getpid:error=EIO", "true"]
    try:
        return subprocess.run(command, check=False).returncode == 0
    except FileNotFoundError:
        return False


needs_strace = pytest.mark.skipif(
    not can_make_calls_fail(), reason="needs strace, and leave to use it"
)


@pytest.fixture
def base(tmp_path: Path, write_version: WriteVersion) -> Path:
    """A model with version 1."""
    write_version(tmp_path / "models" / "m" / "1", 1.0)
    return tmp_path / "models" / "m"


@pytest.fixture
def server(start: Callable[..., Any], base: Path) -> Any:
    return start(str(base), opened="Successfully loaded")


def test_models_are_replaced_while_they_are_asked(
    server: Any, base: Path, write_version: WriteVersion, wait_until: WaitUntil
) -> None:
    with Clients(server) as clients:
        for version, way in enumerate(("rename", "link", "copy") * 2, start=2):
            publish(base, version, write_version, way)
            wait_until(lambda v=version: clients.newest == v, f"version {version}")  # type: ignore[misc]

    assert clients.problems == []
    assert clients.answers > 100


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda base: base.rename(base.parent / "away"), id="moved away"),
        pytest.param(lambda base: shutil.rmtree(base), id="removed"),
        pytest.param(
            lambda base: (base / "1" / "saved_model.pb").write_bytes(b"x"),
            id="overwritten under a loaded version",
        ),
        pytest.param(
            lambda base: os.truncate(base / "1" / "saved_model.pb", 10),
            id="cut under a loaded version",
        ),
    ],
)
def test_what_is_loaded_outlives_its_files(
    server: Any,
    base: Path,
    write_version: WriteVersion,
    wait_until: WaitUntil,
    fault: Callable[[Path], object],
) -> None:
    other = base.parent / "n"
    write_version(other / "1", 1.0)
    with Clients(server) as clients:
        fault(base)
        answers = clients.answers
        wait_until(lambda: clients.answers > answers + 200, "answers")
        # When it comes back, or has another version, that is found as ever.
        base.mkdir(exist_ok=True)
        publish(base, 2, write_version, "rename")
        wait_until(lambda: clients.newest == 2, "version 2")

    assert clients.problems == []


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ESTALE"])
def test_a_base_path_that_cannot_be_read_is_what_it_was(
    server: Any,
    base: Path,
    tmp_path: Path,
    write_version: WriteVersion,
    wait_until: WaitUntil,
    error: str,
) -> None:
    calls = "%file,getdents64"
    with Clients(server) as clients:
        with failing(
            server, tmp_path / "calls", calls, f"error={error}", base
        ) as failed:
            wait_until(lambda: failed(1), "failure")
            publish(base, 2, write_version, "rename")
            wait_until(lambda: failed(3), "failure of later looks")
            assert clients.newest == 1
        wait_until(lambda: clients.newest == 2, "version 2")

    assert clients.problems == []


@needs_strace
def test_a_version_that_cannot_be_read_is_tried_again(
    start: Callable[..., Any],
    base: Path,
    tmp_path: Path,
    write_version: WriteVersion,
    wait_until: WaitUntil,
) -> None:
    server = start(
        str(base), "--load_retry_interval_micros=100000", opened="Successfully loaded"
    )
    graph = base / "2" / "saved_model.pb"
    with Clients(server) as clients:
        with failing(
            server, tmp_path / "calls", "read,pread64,openat", "error=EIO", graph
        ) as failed:
            publish(base, 2, write_version, "rename")
            wait_until(lambda: failed(3), "failures")
            assert clients.newest == 1
        wait_until(lambda: clients.newest == 2, "version 2")

    assert clients.problems == []


# What clients are told whose connection broke.
BROKEN = (
    "Unavailable",
    "Cancelled",
    "RemoteProtocolError",
    "ReadError",
    "ConnectError",
)


@pytest.fixture(scope="module")
def shaken(
    start: Callable[..., Any],
    write_version: WriteVersion,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Any, Path]]:
    """Yield a server of model m, and its base path; it has to end well."""
    base = tmp_path_factory.mktemp("shaken") / "m"
    write_version(base / "1", 1.0)
    server = start(
        str(base), "--load_retry_interval_micros=100000", opened="Successfully loaded"
    )
    yield server, base
    server.process.terminate()
    assert server.process.wait(30) == 0


@needs_strace
@pytest.mark.parametrize(
    ("calls", "how", "expected"),
    [
        pytest.param(
            "%file,getdents64,read,pread64", "error=EIO:when=2+7", (), id="files"
        ),
        pytest.param(
            "recvfrom", "error=ECONNRESET:when=2+7", BROKEN, id="what is received"
        ),
        pytest.param(
            "sendto,writev", "error=EPIPE:when=2+7", BROKEN, id="what is sent"
        ),
        pytest.param("accept4", "error=EMFILE:when=1+2", (), id="connections"),
        pytest.param("clone,clone3", "error=EAGAIN:when=1+2", (), id="threads"),
        pytest.param("epoll_wait", "error=EINTR:when=2+7", (), id="waits"),
        pytest.param("futex", "delay_exit=10000:when=2+7", (), id="locks take long"),
    ],
)
def test_what_fails_now_and_then_ends_nothing(
    shaken: tuple[Any, Path],
    tmp_path: Path,
    write_version: WriteVersion,
    wait_until: WaitUntil,
    calls: str,
    how: str,
    expected: tuple[str, ...],
) -> None:
    server, base = shaken
    version = 1 + max(int(path.name) for path in base.iterdir())
    with Clients(server) as clients:
        with failing(server, tmp_path / "calls", calls, how) as failed:
            publish(base, version, write_version, "rename")
            # Each time over a new connection.
            wait_until(lambda: server.is_serving("m") and failed(1), "failure")
        wait_until(lambda: clients.newest == version, "the new version")

    assert [p for p in clients.problems if not p.startswith(expected)] == []


def test_a_disk_that_is_full_concerns_only_what_is_written(
    server: Any, base: Path, write_version: WriteVersion, wait_until: WaitUntil
) -> None:
    with Clients(server) as clients:
        # From now on each write to a file fails, those of the log among them.
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, 0))
        before = server.log()
        publish(base, 2, write_version, "rename")
        wait_until(lambda: clients.newest == 2, "version 2")

    assert clients.problems == []
    assert server.log() == before


@functools.cache
def can_mount() -> bool:
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, check=False).returncode == 0
    except FileNotFoundError:
        return False


MODEL = """model_config_list {{ config {{
  name: "m" base_path: "{base}" model_platform: "tensorflow"
  logging_config {{
    log_collector_config {{ type: "tfrecord" filename_prefix: "{scratch}/requests" }}
    sampling_config {{ sampling_rate: 1.0 }}
  }}
}} }}"""


@pytest.mark.skipif(not can_mount(), reason="needs unshare, and leave to mount")
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(["mount", "-o", "remount,ro"], id="read-only"),
        pytest.param(
            ["sh", "-c", '! cat /dev/zero >"$0"/zeros 2>/dev/null'], id="full"
        ),
    ],
)
def test_a_file_system_that_takes_nothing_more_concerns_only_what_is_written(
    start: Callable[..., Any],
    base: Path,
    tmp_path: Path,
    write_version: WriteVersion,
    wait_until: WaitUntil,
    fault: list[str],
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "config").write_text(MODEL.format(base=base, scratch=scratch))
    mounted = 'mount -t tmpfs -o size=1m none "$0" && exec "$@"'
    server = start(
        f"--model_config_file={tmp_path}/config",
        f"--model_cache_dir={scratch}/cache",
        within=["unshare", "--mount", "sh", "-c", mounted, str(scratch)],
        environment={"TMPDIR": str(scratch), "XDG_STATE_HOME": str(scratch)},
        opened="Successfully loaded",
    )
    inside = ["nsenter", f"--target={server.process.pid}", "--mount"]
    subprocess.run([*inside, *fault, str(scratch)], check=True)
    with Clients(server) as clients:
        publish(base, 2, write_version, "rename")
        wait_until(lambda: clients.newest == 2, "version 2")
        answers = clients.answers
        wait_until(lambda: clients.answers > answers + 200, "answers")

    assert clients.problems == []
    assert f"Requests cannot be logged to {scratch}/requests-*" in server.log()
    server.process.terminate()
    assert server.process.wait(30) == 0


@pytest.mark.skipif(not FAKE_TIME.exists(), reason="needs libfaketime (faketime)")
def test_a_clock_that_jumps_disturbs_nothing(
    start: Callable[..., Any],
    base: Path,
    tmp_path: Path,
    write_version: WriteVersion,
    wait_until: WaitUntil,
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    server = start(
        str(base),
        environment={
            "LD_PRELOAD": str(FAKE_TIME),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        },
        opened="Successfully loaded",
    )
    with Clients(server) as clients:
        for version, offset in enumerate(("+1d", "-1h"), start=2):
            clock.write_text(offset)
            publish(base, version, write_version, "rename")
            wait_until(lambda v=version: clients.newest == v, f"version {version}")  # type: ignore[misc]

    assert clients.problems == []
    # Whose clock it is, is seen in the log.
    assert (
        len({line[:10] for line in server.log().splitlines() if line[:2] == "20"}) > 1
    )


def test_what_was_killed_starts_again_without_any_cleaning(
    start: Callable[..., Any],
    base: Path,
    tmp_path: Path,
    write_version: WriteVersion,
    wait_until: WaitUntil,
) -> None:
    moments: Sequence[str] = ["", "Loading servable version", "Running gRPC"]
    for version, moment in enumerate(moments, start=2):
        server = start(
            str(base),
            f"--grpc_socket_path={tmp_path}/socket",
            f"--model_cache_dir={tmp_path}/cache",
            opened=moment,
        )
        publish(base, version, write_version, random.choice(["rename", "copy"]))  # noqa: S311
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    last = start(str(base), f"--grpc_socket_path={tmp_path}/socket")
    wait_until(lambda: last.is_serving("m"), "model")
    with Client(f"unix:{tmp_path}/socket", attempts=1) as client:
        assert client.predict("m", [2.0])["y"].tolist() == [5.0]


def test_no_part_of_a_graph_can_be_loaded(
    tmp_path: Path, write_version: WriteVersion
) -> None:
    from servable.platforms.tensorflow import TensorFlowPlatform  # noqa: PLC0415

    whole = (write_version(tmp_path / "m" / "1") / "saved_model.pb").read_bytes()
    cut = tmp_path / "m" / "2"
    cut.mkdir()
    platform = TensorFlowPlatform(b"", ["serve"])
    loaded = []
    for length in range(0, len(whole), len(whole) // 200):
        (cut / "saved_model.pb").write_bytes(whole[:length])
        loader = platform.loader(ServableId("m", 2), StoragePath(str(cut)))
        try:
            loader.load()
        except ServingError:
            continue
        loaded.append(length)

    assert loaded == []


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        pytest.param(
            ["--ssl_config_file={}/bad"], "INVALID_ARGUMENT", id="a bad certificate"
        ),
        pytest.param(
            ["--model_config_file={}/bad"], "INVALID_ARGUMENT", id="a bad config file"
        ),
        pytest.param(
            ["--rest_api_port=99999"], "there is no such port", id="a bad port"
        ),
    ],
)
def test_a_start_that_cannot_be_ends_with_one_line(
    tmp_path: Path, flags: list[str], told: str
) -> None:
    (tmp_path / "bad").write_text("nonsense {")
    command = [sys.executable, "-m", "servable", "serve", "--port=0"]
    command += [f"--grpc_socket_path={tmp_path}/s", f"--model_base_path={tmp_path}"]
    command += [flag.format(tmp_path) for flag in flags]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 255
    assert done.stdout.startswith("Failed to start server. Error: ")
    assert told in done.stdout
    assert done.stdout.count("\n") == 1
