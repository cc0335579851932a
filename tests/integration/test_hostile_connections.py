"""
Connections that break HTTP/2, flood, or never begin, against a real server.

Each is ended by the server, and a client that behaves is answered all the same.
"""

import contextlib
import http.client
import importlib.util
import json
import socket
import struct
from pathlib import Path
from typing import Any, Final

import pytest

from servable.client import Client

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.skipif(
        importlib.util.find_spec("servable._engine") is None,
        reason="the engine is not built",
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow"
    ),
]

MODEL: Final = "half_plus_two"
TIMEOUT_S: Final = 60.0
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_HEADERS: Final = 4
CANCEL: Final = struct.pack(">I", 8)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    length = struct.pack(">I", len(payload))[1:]
    return length + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """Return a header field as HPACK has it without tables."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


CALL: Final = b"".join(
    literal(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/tensorflow.serving.PredictionService/Predict"),
        (b":authority", b"x"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
)
BEGIN: Final = PREFACE + frame(SETTINGS, 0, 0)


def resets() -> bytes:
    return b"".join(
        frame(HEADERS, END_HEADERS, stream, CALL) + frame(RESET, 0, stream, CANCEL)
        for stream in range(1, 20_001, 2)
    )


FLOODS: Final = {
    "no HTTP/2 at all": b"\x16\x03\x01\x02\x00" + b"\xff" * 100 + b"\n",
    "HTTP/1 on the port of gRPC": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a preface that is nearly one": PREFACE.replace(b"SM", b"SN"),
    "a frame larger than allowed": BEGIN + b"\xff\xff\xff\x00\x00\0\0\0\1",
    "headers on stream 0": BEGIN + frame(HEADERS, END_HEADERS, 0, CALL),
    "headers on a stream of the server's": BEGIN + frame(HEADERS, END_HEADERS, 2, CALL),
    "data on a stream that was never opened": BEGIN + frame(DATA, 0, 7, b"x"),
    "fields that no table has": BEGIN + frame(HEADERS, END_HEADERS, 1, b"\xff" * 64),
    "a window that overflows": BEGIN
    + frame(WINDOW, 0, 0, struct.pack(">I", 2**31 - 1)) * 2,
    "a ping of seven bytes": BEGIN + frame(PING, 0, 0, b"x" * 7),
    "headers that something interrupts": BEGIN
    + frame(HEADERS, 0, 1, CALL)
    + frame(PING, 0, 0, b"x" * 8),
    "headers without end": BEGIN
    + frame(HEADERS, 0, 1, CALL)
    + frame(CONTINUATION, 0, 1, literal(b"a", b"b" * 100) * 150) * 2000,
    "ten thousand calls that are taken back": BEGIN + resets(),
}


@pytest.fixture(scope="module")
def server(start: Any, write_version: Any, tmp_path_factory: Any) -> Any:
    base_path = tmp_path_factory.mktemp("models") / MODEL
    write_version(base_path / "1")
    return start(str(base_path), "--wait_for_models")


@pytest.mark.parametrize("api", ["grpc", "rest"])
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_a_connection_that_breaks_the_protocol_is_ended(
    flood: bytes, api: str, server: Any
) -> None:
    port = server.grpc_port if api == "grpc" else server.rest_port
    before_mib = server.resident_mib()
    # The server may have had enough before everything is sent.
    with (
        socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection,
        contextlib.suppress(ConnectionError),
    ):
        connection.sendall(flood)
        while connection.recv(1 << 16):
            pass

    assert server.process.poll() is None
    assert server.resident_mib() - before_mib <= 16
    with Client(server.grpc) as client:
        assert client.predict(MODEL, [1.0, 2.0])["y"].tolist() == [2.5, 3.0]
    status = json.loads(get(server, f"/v1/models/{MODEL}"))
    assert status["model_version_status"][0]["state"] == "AVAILABLE"


def promises(api: str) -> tuple[int, bytes]:
    """Return how many connections begin so to send megabytes, and go no further."""
    if api == "rest":
        head = b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\n"
        return 300, head + b"Content-Length: 4000000\r\n\r\n{"
    begun = struct.pack(">BI", 0, 4_000_000) + b"\x0a"
    calls = (
        frame(HEADERS, END_HEADERS, stream, CALL) + frame(DATA, 0, stream, begun)
        for stream in range(1, 201, 2)
    )
    return 3, BEGIN + b"".join(calls)


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_what_is_promised_costs_little(api: str, server: Any, wait_until: Any) -> None:
    port = server.grpc_port if api == "grpc" else server.rest_port
    count, begun = promises(api)
    with Client(server.grpc) as client, contextlib.ExitStack() as stack:
        client.predict(MODEL, [1.0])
        before_mib = server.resident_mib()
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
            stack.callback(connection.close)
            connection.sendall(begun)
        # Each has sent one byte of what it has promised.
        held = b"servable_in_flight_bytes{} 300\n"
        wait_until(lambda: held in get(server, "/metrics"), "all that have begun")

        assert server.resident_mib() - before_mib <= 300 * 0.15
        assert client.predict(MODEL, [1.0, 2.0])["y"].tolist() == [2.5, 3.0]


def test_idle_connections_cost_little_and_leave_nothing(
    start: Any, write_version: Any, wait_until: Any, tmp_path: Path
) -> None:
    write_version(tmp_path / MODEL / "1")
    # Of several threads each gives back what is its own when it has something to do.
    server = start(str(tmp_path / MODEL), "--wait_for_models", "--io_threads=1")
    count = 1000
    with Client(server.grpc) as client:
        # What is made once is no growth.
        get(server, "/metrics")
        assert client.predict(MODEL, [1.0, 2.0])["y"].tolist() == [2.5, 3.0]
        before_mib = server.resident_mib()
        with contextlib.ExitStack() as stack:
            for at in range(count):
                port = server.grpc_port if at % 2 else server.rest_port
                connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
                stack.callback(connection.close)
                connection.sendall(BEGIN)
                assert connection.recv(1)
            assert client.predict(MODEL, [1.0, 2.0])["y"].tolist() == [2.5, 3.0]
            grown_mib = server.resident_mib() - before_mib

        assert grown_mib * 1024 / count <= 40
        wait_until(
            lambda: (
                client.predict(MODEL, [1.0]) is not None
                and server.resident_mib() - before_mib <= grown_mib / 2
            ),
            "memory given back",
        )
        page = get(server, "/metrics")
    assert b"servable_connections{} 2\n" in page  # the client's, and the asking one


def get(server: Any, target: str) -> bytes:
    connection = http.client.HTTPConnection(
        "127.0.0.1", server.rest_port, timeout=TIMEOUT_S
    )
    with contextlib.closing(connection):
        connection.request("GET", target)
        return connection.getresponse().read()
