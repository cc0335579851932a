"""Versions that crash what loads them, tried in a process of their own first."""

import signal
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

import servable
from servable.client import Client
from servable.client.operations import VersionStatus

# A platform as a plug-in, whose versions do what their file says, in this process.
PLUGIN = """
import os, time
from pathlib import Path
from servable import _engine
from servable.platforms.hashmap import HashmapPlatform


class Dangerous:
    name = "dangerous"
    loads_in_process = True

    def __init__(self, options, engine):
        self._tables = HashmapPlatform()

    def loader(self, servable_id, path):
        return Loader(self._tables.loader(servable_id, path), path)


class Loader:
    def __init__(self, table, path):
        self._table, self._path = table, Path(path)
        self.servable, self.unload = table.servable, table.unload
        self.estimate_resources = table.estimate_resources

    def load(self):
        match (self._path / "does").read_text():
            case "abort":
                os.write(2, f"Check failed: {self._path}/x is no number\\n".encode())
                os.abort()
            case "exit":
                os._exit(3)
            case "hang":
                (self._path.parents[1] / "pid").write_text(str(os.getpid()))
                time.sleep(1000)
            case "raise":
                raise LookupError("no such word")
        self._table.load()
"""


def publish(base: Path, version: int, does: str) -> None:
    beside = base.parent / f"{version}.tmp"
    beside.mkdir(parents=True)
    (beside / "table.csv").write_text(f"word,id\nv,{version}\n")
    (beside / "does").write_text(does)
    base.mkdir(exist_ok=True)
    beside.rename(base / str(version))


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the platform, and return where."""
    path = tmp_path_factory.mktemp("plugin")
    (path / "dangerous.py").write_text(textwrap.dedent(PLUGIN))
    about = path / "dangerous-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: dangerous\nVersion: 1.0\n"
    )
    (about / "entry_points.txt").write_text(
        "[servable.platforms]\ndangerous = dangerous:Dangerous\n"
    )
    return path


@pytest.fixture(scope="module")
def server(
    start: Callable[..., Any],
    plugin: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Any, Path]:
    base = tmp_path_factory.mktemp("models") / "m"
    publish(base, 1, "nothing")
    path = f"{plugin}:{Path(servable.__file__).parents[1]}"
    server = start(
        "--canary_load",
        "--load_timeout_seconds=6",
        "--max_num_load_retries=0",
        "--model_platform=dangerous",
        str(base),
        environment={"PYTHONPATH": path},
        opened="Successfully loaded",
    )
    return server, base


def test_a_version_that_survives_its_trial_is_served(server: tuple[Any, Path]) -> None:
    running, _ = server
    with Client(running.grpc, attempts=1) as client:
        assert client.predict("m", {"keys": ["v"]})["id"].tolist() == [1]


@pytest.mark.parametrize(
    ("version", "does", "code", "text"),
    [
        pytest.param(
            11,
            "abort",
            "INTERNAL",
            "The process that tried the version first ended by SIGABRT: Check failed: "
            "(path) is no number",
            id="aborts",
        ),
        pytest.param(
            12,
            "exit",
            "INTERNAL",
            "The process that tried the version first ended by exit status 3",
            id="exits",
        ),
        pytest.param(
            13,
            "hang",
            "DEADLINE_EXCEEDED",
            "The load took longer than 6 s (--load_timeout_seconds)",
            id="hangs",
        ),
        pytest.param(14, "raise", "UNKNOWN", "LookupError: no such word", id="raises"),
    ],
)
def test_one_that_does_not_fails_and_the_server_goes_on(
    server: tuple[Any, Path],
    wait_until: Callable[[Callable[[], bool], str], None],
    version: int,
    does: str,
    code: str,
    text: str,
) -> None:
    running, base = server
    with Client(running.grpc, attempts=1) as client:

        def status() -> VersionStatus | None:
            return next((s for s in client.status("m") if s.version == version), None)

        def has_failed() -> bool:
            found = status()
            return found is not None and found.state == "END"

        publish(base, version, does)
        wait_until(has_failed, f"end of version {version}")
        answer = client.predict("m", {"keys": ["v"]})["id"].tolist()
        found = status()

    assert found is not None
    assert (found.code.name, found.message) == (code, text)
    assert answer == [1]
    assert running.process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_is_tried_ends_with_the_server(
    start: Callable[..., Any],
    plugin: Path,
    wait_until: Callable[[Callable[[], bool], str], None],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    base = tmp_path / "models" / "m"
    publish(base, 1, "hang")
    server = start(
        "--canary_load",
        "--model_platform=dangerous",
        str(base),
        environment={"PYTHONPATH": f"{plugin}:{Path(servable.__file__).parents[1]}"},
    )
    pid = tmp_path / "models" / "pid"

    def is_there() -> bool:
        try:
            # One that has ended and is still in the list has no command line.
            return Path(f"/proc/{pid.read_text()}/cmdline").read_bytes() != b""
        except (FileNotFoundError, ProcessLookupError):
            return False

    wait_until(lambda: pid.exists() and is_there(), "trial")
    server.process.send_signal(number)
    server.process.wait()
    wait_until(lambda: not is_there(), "end of the trial")


def test_a_saved_model_is_tried_as_it_is_loaded(
    start: Callable[..., Any],
    write_version: Callable[..., Path],
    wait_until: Callable[[Callable[[], bool], str], None],
    tmp_path: Path,
) -> None:
    base = tmp_path / "models" / "m"
    write_version(base / "1")
    server = start("--canary_load", str(base), opened="Successfully loaded")
    (base / "2").mkdir()
    (base / "2" / "saved_model.pb").write_bytes(b"no graph")
    with Client(server.grpc, attempts=1) as client:
        wait_until(lambda: len(client.status("m")) == 2, "second version")
        answer = client.predict("m", [2.0])["y"].tolist()
        statuses = client.status("m")

    assert answer == [3.0]
    assert {s.version: s.state for s in statuses}[1] == "AVAILABLE"
