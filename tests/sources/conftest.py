"""Stores for tests: one that does as it is told, real ones, and a bad line to them."""

import contextlib
import http.client
import http.server
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from servable.core.storage_path import StoragePath
from servable.sources.cache import ModelCache
from servable.sources.store import Content, LocalContent, RemoteFile
from servable.testing import FakeTarget

PATIENCE_S = 30.0
_POLL_S = 0.02  # whether a server here is to end

_MOTO = """
import logging, sys, threading
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


# What serves gs:// says no port in public.
_GCS = """
import sys
from gcp_storage_emulator.server import create_server
server = create_server("127.0.0.1", 0, in_memory=True)
server.start()
print(server._api._httpd.server_port, flush=True)
sys.stdin.read()
server.stop()
"""
_AZURITE = [
    *("azurite-blob", "--blobHost", "127.0.0.1", "--blobPort", "0"),
    *("--inMemoryPersistence", "--skipApiVersionCheck", "--silent"),
    "--disableTelemetry",
]

_OWN_HEADERS = {"transfer-encoding", "connection", "content-length"}


class FakeStore:
    """A store in memory; what is in `broken` raises, once for each entry."""

    def __init__(self) -> None:
        self.versions: dict[str, dict[str, bytes]] = {}
        self.broken: list[Exception] = []
        self.unreadable: list[Exception] = []
        self.is_whole = False
        self.reads: list[tuple[str, int]] = []
        self.listings = 0

    def children(self) -> list[str]:
        self.listings += 1
        if self.broken:
            raise self.broken.pop(0)
        return list(self.versions)

    def content(self, child: str) -> Content | LocalContent:
        return self.of(self.versions[child])

    def of(self, files: dict[str, bytes]) -> Content:
        listed = tuple(
            RemoteFile(name, len(data), f"{name} {data!r}")
            for name, data in files.items()
        )
        return Content(listed, lambda f, start: self._read(files, f, start))

    def _read(
        self, files: dict[str, bytes], file: RemoteFile, start: int
    ) -> Iterator[bytes]:
        self.reads.append((file.name, start))
        if self.unreadable:
            raise self.unreadable.pop(0)
        yield files[file.name][start:]


class WaitingTarget(FakeTarget[StoragePath]):
    """A Target that a test can wait for."""

    def __init__(self) -> None:
        super().__init__()
        self._told = threading.Condition()

    def set_aspired_versions(self, name: str, versions: object) -> None:
        with self._told:
            super().set_aspired_versions(name, versions)  # type: ignore[arg-type]
            self._told.notify_all()

    def versions(self, name: str) -> list[int]:
        return [data.id.version for data in self.aspired.get(name, ())]

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        with self._told:
            assert self._told.wait_for(condition, PATIENCE_S), f"no {what}"

    def wait_for(self, name: str, *versions: int) -> list[Path]:
        """Wait until exactly *versions* are aspired, and return where they are."""
        self.wait_until(
            lambda: (
                self.versions(name) == list(versions)
                and all(data.data for data in self.aspired[name])
            ),
            f"{versions} of {name}; told was {self.calls[-3:]}",
        )
        return [Path(str(data.data)) for data in self.aspired[name]]


@dataclass
class Line:
    """
    A line to a server on this machine, which breaks when a test says so.

    Attributes:
        is_cut: connections end without an answer.
        refuses: what is answered instead, as 503; 0 for what the server says.
        corrupts: answers to GETs whose path ends so have their last byte changed.
        truncates: of those, only so many bytes come.
        asked: method, path and Range header of every request.
    """

    port: int
    is_cut: bool = False
    refuses: int = 0
    corrupts: str = ""
    truncates: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    _is_asked: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def note(self, method: str, path: str, requested: str) -> None:
        with self._is_asked:
            self.asked.append((method, path, requested))
            self._is_asked.notify_all()

    def wait_until_asked(self, name: str = "", times: int = 1) -> None:
        """Wait for that many more requests for what *name* is part of."""
        with self._is_asked:
            begin = len(self.asked)
            assert self._is_asked.wait_for(
                lambda: (
                    sum(name in path for _, path, _ in self.asked[begin:]) >= times
                ),
                PATIENCE_S,
            ), f"nobody asked for {name}"


class _PassOn(http.server.BaseHTTPRequestHandler):
    """Passes requests on, as far as the Line says."""

    protocol_version = "HTTP/1.1"
    line: Line
    to_port: int

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.line.note(self.command, self.path, self.headers.get("Range") or "")
        if self.line.is_cut:
            self.close_connection = True
            return
        if self.line.refuses:
            self.send_response(self.line.refuses)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.to_port)
        with contextlib.closing(upstream):
            headers = dict(self.headers.items())
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            data = self.distort(answer.read())
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _OWN_HEADERS:
                self.send_header(name, value)
        is_head = self.command == "HEAD"
        stated = answer.getheader("Content-Length") if is_head else str(len(data))
        self.send_header("Content-Length", stated or "0")
        self.end_headers()
        if not is_head:
            self.wfile.write(self.cut_short(data))

    def distort(self, data: bytes) -> bytes:
        if data and self.line.corrupts and self.file_name.endswith(self.line.corrupts):
            return data[:-1] + bytes([data[-1] ^ 1])
        return data

    def cut_short(self, data: bytes) -> bytes:
        for end, size in self.line.truncates.items():
            if self.command == "GET" and self.file_name.endswith(end):
                self.close_connection = True
                return data[:size]
        return data

    @property
    def file_name(self) -> str:
        return self.path.partition("?")[0]

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = pass_on  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def broken_line(to_port: int) -> Iterator[Line]:
    """Pass requests on to the server at *to_port*, as far as the Line says."""

    class Handler(_PassOn):
        pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        line = Handler.line = Line(server.server_address[1])
        Handler.to_port = to_port
        threading.Thread(
            target=server.serve_forever, args=[_POLL_S], daemon=True
        ).start()
        try:
            yield line
        finally:
            server.shutdown()


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(str(tmp_path / "cache"))


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def waiting_target() -> WaitingTarget:
    return WaitingTarget()


@pytest.fixture(scope="session", name="broken_line")
def _broken_line() -> Callable[[int], contextlib.AbstractContextManager[Line]]:
    return broken_line


@contextlib.contextmanager
def _server(*command: str) -> Iterator[int]:
    """Run *command*, which says in a line's last number where it listens."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        said = (re.search(r"(?:listens on http.*:|^)(\d+)$", x) for x in process.stdout)
        try:
            yield next(int(match[1]) for match in said if match)
        finally:
            process.kill()


@pytest.fixture(scope="session")
def moto_port() -> Iterator[int]:
    """Run an S3 server as a process of its own."""
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    with _server(sys.executable, "-W", "ignore", "-c", _MOTO) as port:
        yield port


@pytest.fixture(scope="session")
def gcs_port() -> Iterator[int]:
    """Run a server of Google Cloud Storage as a process of its own."""
    reason = "gcp-storage-emulator is not installed"
    pytest.importorskip("gcp_storage_emulator", reason=reason)
    with _server(sys.executable, "-W", "ignore", "-c", _GCS) as port:
        yield port


@pytest.fixture(scope="session")
def azurite_port() -> Iterator[int]:
    """Run a server of Azure Blob Storage as a process of its own."""
    if shutil.which("azurite-blob") is None:
        pytest.skip("there is no azurite; install it with: npm install -g azurite")
    with _server(*_AZURITE) as port:
        yield port


@pytest.fixture(scope="session")
def hub_port() -> Iterator[int]:
    """Run a hub of models as a process of its own."""
    with _server(sys.executable, str(Path(__file__).with_name("hub.py"))) as port:
        yield port
