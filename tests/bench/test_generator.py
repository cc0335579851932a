"""The load generator of the engine against servers whose answers are known."""

import dataclasses
import http.server
import itertools
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, ClassVar

import grpc
import pytest

from servable.bench.runner import ClosedLoop, OpenLoop, Report, Spec, run

BODY = bytes(range(256))


class _Echo(grpc.GenericRpcHandler):
    """Answers by the name of the method: its own request, or an error."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self._lock = threading.Lock()

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        with self._lock:
            count = self.calls[details.method] = self.calls.get(details.method, 0) + 1
        method = details.method.rpartition("/")[2]

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if method == "Full" or (method == "EveryThird" and count % 3 == 0):
                context.abort(grpc.StatusCode.UNAVAILABLE, "100% full: überall")
            if method == "Metadata":
                return str(dict(context.invocation_metadata())["x-tried"]).encode()
            if method == "Never":
                stopped = threading.Event()
                context.add_callback(stopped.set)
                stopped.wait(30)
            return request

        return grpc.unary_unary_rpc_method_handler(answer)


@dataclasses.dataclass(frozen=True)
class Server:
    address: str
    calls: dict[str, int]


@pytest.fixture(params=["tcp", "unix"])
def grpc_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    echo = _Echo()
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[echo])
    if request.param == "tcp":
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    else:
        address = f"unix:{tmp_path}/s"
        server.add_insecure_port(address)
    server.start()
    yield Server(address, echo.calls)
    server.stop(0).wait()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    counter: ClassVar[Iterator[int]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        missing = self.path == "/missing" or (
            self.path == "/third" and next(self.counter) % 3 == 2
        )
        self.send_response(404 if missing else 200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
            return
        if self.path == "/close":
            self.send_header("Connection", "close")
        answer = b"no such model" if missing else body
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def rest_server() -> Iterator[Server]:
    handler = type("Handler", (_Handler,), {"counter": itertools.count()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Server(f"127.0.0.1:{server.server_port}", {})
        server.shutdown()
        thread.join()


def measure(server: Server, path: str, **changes: Any) -> Report:
    spec = Spec(
        protocol="grpc" if path.startswith("/e.E/") else "rest",
        address=server.address,
        path=path,
        body=BODY,
        load=ClosedLoop(4),
        requests=60,
        warmup_s=0,
        expected=BODY,
    )
    return run(dataclasses.replace(spec, **changes))


def test_sends_as_many_grpc_requests_as_asked_for(grpc_server: Server) -> None:
    report = measure(grpc_server, "/e.E/Echo", connections=2)

    assert (report["requests"], report["ok"], report["errors"]) == (60, 60, {})
    assert grpc_server.calls == {"/e.E/Echo": 60}
    assert report["response_bytes"] == len(BODY)


def test_counts_grpc_errors_by_code_beside_good_answers(grpc_server: Server) -> None:
    report = measure(grpc_server, "/e.E/EveryThird")

    assert report["errors"] == {
        "grpc 14 UNAVAILABLE": {"count": 20, "message": "100% full: überall"}
    }
    assert (report["requests"], report["ok"]) == (60, 40)


def test_an_answer_other_than_the_expected_one_is_an_error(
    grpc_server: Server, rest_server: Server
) -> None:
    by_grpc = measure(grpc_server, "/e.E/Echo", expected=b"else")
    by_rest = measure(rest_server, "/echo", expected=b"else")

    assert by_grpc["errors"]["unexpected body"]["count"] == 60
    assert by_rest["errors"]["unexpected body"]["count"] == 60


def test_metadata_arrives(grpc_server: Server) -> None:
    report = measure(
        grpc_server, "/e.E/Metadata", headers={"X-Tried": "yes"}, expected=b"yes"
    )

    assert report["ok"] == 60


def test_a_request_without_an_answer_is_given_up_after_the_timeout(
    grpc_server: Server,
) -> None:
    report = measure(
        grpc_server, "/e.E/Never", requests=3, load=ClosedLoop(3), timeout_s=0.1
    )

    assert report["errors"]["timeout"]["count"] == 3
    assert report["ok"] == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_an_open_loop_keeps_its_rate(grpc_server: Server, threads: int) -> None:
    report = measure(
        grpc_server,
        "/e.E/Echo",
        load=OpenLoop(200, "constant"),
        requests=None,
        seconds=0.5,
        threads=threads,
        connections=threads,
    )

    assert report["requests"] == report["ok"] == 100
    assert report["seconds"] >= 0.5


def test_what_waits_in_an_open_loop_waits_in_its_latency(grpc_server: Server) -> None:
    report = measure(
        grpc_server,
        "/e.E/Never",
        load=OpenLoop(100, "constant", max_in_flight=1),
        requests=4,
        timeout_s=0.2,
    )

    # Each waits for those before it: 0, 0.2, 0.4 and 0.6 s, less when it was due.
    assert report["errors"]["timeout"]["count"] == 4
    assert report["lateness_us"]["max"] > 500_000


@pytest.mark.parametrize("path", ["/echo", "/chunked", "/close"])
def test_rest_answers_of_every_framing_are_read(rest_server: Server, path: str) -> None:
    report = measure(rest_server, path)

    if path == "/close":
        # What follows an answer that closes goes over a connection of its own.
        assert report["requests"] == 60
    assert report["errors"] == {}
    assert report["ok"] == 60


def test_rest_errors_are_counted_by_status(rest_server: Server) -> None:
    report = measure(rest_server, "/third")

    assert report["errors"] == {"http 404": {"count": 20, "message": "no such model"}}
    assert report["ok"] == 40


def test_reports_what_the_watched_process_used(rest_server: Server) -> None:
    report = measure(rest_server, "/echo", pid=os.getpid(), warmup_s=0.05)

    server = report["server"]
    assert server is not None
    assert server["pid"] == os.getpid()
    assert server["cpu_us_per_request"] > 0
    assert server["peak_rss_bytes"] >= server["rss_bytes"] > 10 << 20


def test_a_watched_process_that_ends_costs_only_its_own_figures(
    rest_server: Server,
) -> None:
    with subprocess.Popen(["sleep", "60"]) as watched:
        spec = Spec(
            protocol="rest",
            address=rest_server.address,
            path="/echo",
            body=BODY,
            load=ClosedLoop(1),
            seconds=0.2,
            warmup_s=0,
            pid=watched.pid,
        )

        def end(_: float) -> None:
            watched.kill()
            watched.wait()

        report = run(spec, end)

    assert report["server"] is None
    assert report["ok"] > 0


def test_latencies_are_in_order_and_end_the_curve(rest_server: Server) -> None:
    report = measure(rest_server, "/echo")

    latency = report["latency_us"]
    values = [latency[key] for key in ("min", "p50", "p90", "p99", "p99.9", "max")]
    assert values == sorted(values)
    assert values[0] > 0
    assert tuple(report["percentiles"][-1]) == (100.0, latency["max"])


def test_progress_rises_to_the_end(rest_server: Server) -> None:
    seen: list[float] = []
    spec = Spec(
        protocol="rest",
        address=rest_server.address,
        path="/echo",
        body=BODY,
        load=ClosedLoop(1),
        seconds=0.3,
        warmup_s=0.1,
    )
    run(spec, seen.append)

    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) >= 3


def test_what_progress_raises_ends_the_run(rest_server: Server) -> None:
    spec = Spec(
        protocol="rest",
        address=rest_server.address,
        path="/echo",
        body=BODY,
        load=ClosedLoop(1),
        seconds=60,
    )

    def refuse(part: float) -> None:
        raise RuntimeError(f"stop at {part:.1f}")

    with pytest.raises(RuntimeError, match=r"stop at 0\.0"):
        run(spec, refuse)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        pytest.param(
            {"address": "127.0.0.1:1"},
            ConnectionError,
            "127.0.0.1:1",
            id="nobody listens",
        ),
        pytest.param({"address": "nonsense"}, ValueError, "nonsense", id="no port"),
        pytest.param(
            {"load": ClosedLoop(0)}, ValueError, "in flight", id="nothing in flight"
        ),
        pytest.param({"pid": 2**31 - 1}, OSError, str(2**31 - 1), id="no such process"),
    ],
)
def test_what_cannot_begin_raises(
    rest_server: Server, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        measure(rest_server, "/echo", **changes)
