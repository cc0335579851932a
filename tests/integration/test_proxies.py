"""
Peers that mean harm, behind nginx and HAProxy.

A proxy sends what many clients ask over a few connections.  Where it and the server
understand a request differently, one client is answered what another has asked.  So
after everything that could be understood in two ways, clients that behave ask for what
nobody else has asked, and have to be answered that.

The proxies let through what they may, and have one connection to the server.
"""

import contextlib
import http.client
import itertools
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import h2.config
import h2.connection
import h2.events
import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

from servable.client import Client

TIMEOUT_S: Final = 30.0
PROXIES: Final = ("nginx", "haproxy")
BODY: Final = b'{"instances": [1.0]}'
MAX_BODY: Final = 2000

NGINX: Final = """
daemon off;
master_process off;
pid {directory}/pid;
error_log {directory}/errors;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}/bodies;
  proxy_temp_path {directory}/answers;
  client_header_timeout 500ms;
  client_body_timeout 500ms;
  keepalive_timeout 500ms;
  ignore_invalid_headers off;
  underscores_in_headers on;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_request_buffering off;
  upstream rest {{ server 127.0.0.1:{rest}; keepalive 1; }}
  upstream grpc {{ server 127.0.0.1:{grpc}; keepalive 1; }}
  server {{ listen 127.0.0.1:{http_1}; location / {{ proxy_pass http://rest; }} }}
  server {{ listen 127.0.0.1:{http_2} http2; location / {{ proxy_pass http://rest; }} }}
  server {{ listen 127.0.0.1:{calls} http2; location / {{ grpc_pass grpc://grpc; }} }}
}}
"""
HAPROXY: Final = """
defaults
  mode http
  option accept-invalid-http-request
  http-reuse always
  timeout connect 30s
  timeout server 30s
  timeout client 1s
  timeout http-request 500ms
  timeout http-keep-alive 500ms
frontend requests
  bind 127.0.0.1:{http_1}
  bind 127.0.0.1:{http_2} proto h2
  default_backend rest
frontend calls
  bind 127.0.0.1:{calls} proto h2
  default_backend grpc
backend rest
  server rest 127.0.0.1:{rest}
backend grpc
  server grpc 127.0.0.1:{grpc} proto h2
"""
COMMANDS: Final = {
    "nginx": (NGINX, ["nginx", "-e", "stderr", "-c"]),
    "haproxy": (HAPROXY, ["haproxy", "-f"]),
}


@contextlib.contextmanager
def proxied(name: str, rest: int, grpc: int, directory: Path) -> Iterator[Any]:
    """Start a proxy before a server; give its ports by name."""
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name}")
    template, command = COMMANDS[name]
    ports = dict(zip(("http_1", "http_2", "calls"), free_ports(3), strict=True))
    config = directory / "config"
    config.write_text(
        template.format(rest=rest, grpc=grpc, directory=directory, **ports)
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([*command, str(config)], stdout=log, stderr=log)
    try:
        for port in ports.values():
            wait_for(port, process)
        yield ports
    finally:
        process.terminate()
        process.wait()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


def wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    while True:
        with contextlib.suppress(ConnectionRefusedError), connect(port):
            return
        assert process.poll() is None, "the proxy has ended"


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), TIMEOUT_S)


@pytest.fixture(scope="module")
def server(start: Any, write_version: Any, tmp_path_factory: Any) -> Any:
    base_path = tmp_path_factory.mktemp("models") / "m"
    write_version(base_path / "1")
    return start(str(base_path), "--wait_for_models", f"--max_body_bytes={MAX_BODY}")


@pytest.fixture(scope="module", params=PROXIES)
def proxy(request: Any, server: Any, tmp_path_factory: Any) -> Iterator[Any]:
    directory = tmp_path_factory.mktemp("proxy")
    with proxied(request.param, server.rest_port, server.grpc_port, directory) as ports:
        yield ports


# What must never be the answer to anybody else's request.
SMUGGLED: Final = b"GET /v1/models/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
# What swallows the beginning of whatever comes next.
OPEN: Final = b"GET /v1/models/smuggled HTTP/1.1\r\nX: "
HIDDEN: Final = {"a request": SMUGGLED, "half a request": OPEN}


def post(fields: bytes, body: bytes, target: bytes = b"/v1/models/m:predict") -> bytes:
    head = b"POST " + target + b" HTTP/1.1\r\nHost: x\r\n" + fields
    return head + b"\r\n" + body


def sized(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


def chunk(body: bytes) -> bytes:
    return b"%x\r\n" % len(body) + body + b"\r\n"


CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
END: Final = b"0\r\n\r\n"


def shapes(hidden: bytes) -> dict[str, bytes]:
    """Return what hides a request where one side may look for it, and not the other."""
    ended = END + hidden
    held = chunk(hidden) + END
    tricks = {
        f"chunks by {field!r}": post(sized(ended) + field + b"\r\n", ended)
        for field in (
            b"Transfer-Encoding: xchunked",
            b"Transfer-Encoding : chunked",
            b"Transfer-Encoding:\tchunked",
            b"Transfer-Encoding: chunked, identity",
            b"Transfer-Encoding: chunked, chunked",
            b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: \x0bchunked",
            b"Transfer-Encoding: \x00chunked",
            b"Transfer-Encoding\r\n : chunked",
            b"Transfer-Encoding:\r\n chunked",
            b"A: b\nTransfer-Encoding: chunked",
            b"A: b\rTransfer-Encoding: chunked",
            b"transfer_encoding: chunked",
            b"Connection: Content-Length\r\nTransfer-Encoding: chunked",
        )
    }
    lengths = {
        f"a length by {field!r}": post(field + b"\r\n", BODY + hidden)
        for field in (
            b"Content-Length: 20\r\nContent-Length: 999",
            b"Content-Length: 999\r\nContent-Length: 20",
            b"Content-Length: 20, 20",
            b"Content-Length: +20",
            b"Content-Length: 0x14",
            b"Content-Length: 2 0",
            b"Content-Length:\r\n 20",
            b"Content-Length: 20\nContent-Length: 0",
            b"Content-Length : 20",
            b"Content_Length: 20",
            b"Connection: close, Content-Length\r\nContent-Length: 20",
        )
    }
    bodies = {
        f"a body after {line!r}": line + b" HTTP/1.1\r\nHost: x\r\n" + fields + body
        for line in (
            b"GET /v1/models/m",
            b"GET /metrics",
            b"HEAD /v1/models/m",
            b"DELETE /v1/models/m",
            b"OPTIONS /v1/models/m:predict",
            b"POST /v1/models/m",
            b"POST /nowhere",
            b"TRACE /",
        )
        for fields, body in [(sized(hidden) + b"\r\n", hidden)]
    }
    too_large = hidden * (MAX_BODY // len(hidden) + 1)
    return {
        "chunks and a length, ended by chunks": post(sized(ended) + CHUNKED, ended),
        "chunks and a length, ended by the length": post(
            b"Content-Length: 4\r\n" + CHUNKED, held
        ),
        **tricks,
        **lengths,
        **bodies,
        "a body in chunks after a GET": b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n"
        + CHUNKED
        + b"\r\n"
        + held,
        "a body that is too large": post(sized(too_large), too_large),
        "a chunk that is too large": post(CHUNKED, chunk(too_large) + END),
        "lines that end with line feeds alone": post(sized(BODY), BODY).replace(
            b"\r\n", b"\n"
        )
        + hidden,
        "chunks that end with line feeds alone": post(
            CHUNKED, b"14\n" + BODY + b"\n0\n\n" + hidden
        ),
        "a chunk that is longer than it says": post(
            CHUNKED, b"2\r\n" + BODY + b"\r\n" + ended
        ),
        "a chunk with an extension over two lines": post(
            CHUNKED, b"14;a=\n" + BODY + b"\r\n" + ended
        ),
        "a size of a chunk that overflows": post(
            CHUNKED, b"10000000000000014\r\n" + BODY + b"\r\n" + ended
        ),
        "fields after the last chunk": post(
            CHUNKED, chunk(BODY) + b"0\r\nContent-Length: 99\r\n\r\n" + hidden
        ),
        "chunks over HTTP/1.0": post(CHUNKED, chunk(BODY) + ended).replace(
            b"1.1", b"1.0", 1
        ),
        "a body that is waited with, and comes": post(
            sized(BODY) + b"Expect: 100-continue\r\n", BODY + hidden
        ),
        "a body that is waited with, and too large": post(
            b"Content-Length: 99999\r\nExpect: 100-continue\r\n", hidden
        ),
        "a body that is waited with, where none belongs": post(
            sized(hidden) + b"Expect: 100-continue\r\n", hidden, b"/nowhere"
        ),
        "something else that is expected": post(
            sized(BODY) + b"Expect: 100-continue, y\r\n", BODY + hidden
        ),
        "another protocol": post(
            sized(BODY) + b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n",
            BODY + hidden,
        ),
        "a target with a host": post(sized(BODY), BODY + hidden, b"http://y/v1/m"),
        "a target that is a host": b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n" + hidden,
        "a target with a line in it": post(sized(BODY), BODY + hidden, b"/a%0d%0ab: c"),
        "a target with a blank": post(sized(BODY), BODY + hidden, b"/a HTTP/1.1 b"),
        "no protocol": b"GET /v1/models/m\r\n\r\n" + hidden,
        "an empty line before": b"\r\n\r\n" + post(sized(BODY), BODY + hidden),
    }


def taken(port: int, sent: bytes) -> bytes:
    """Return all that is answered to what is sent, until the other side closes."""
    with connect(port) as connection:
        answer = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
            while received := connection.recv(1 << 16):
                answer += received
        return answer


def attack(port: int, sent: bytes) -> None:
    """Send what may be understood in two ways; wait for one answer, or the end."""
    with connect(port) as connection:
        method = sent.split()[0].decode()
        answer = http.client.HTTPResponse(connection, method=method)
        with contextlib.suppress(ConnectionError, http.client.HTTPException):
            connection.sendall(sent)
            answer.begin()
            answer.read()


NUMBERS: Final = itertools.count(10)


def asked(port: int) -> tuple[float, str]:
    """Ask for what nobody else has asked; return what is expected, and the answer."""
    number = next(NUMBERS)
    body = b'{"instances": [%d]}' % number
    fields = sized(body) + b"Connection: close\r\n"
    head, _, answer = taken(port, post(fields, body)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), (head, answer)
    return number / 2 + 2, answer.decode()


def assert_in_step(port: int) -> None:
    for _ in range(3):
        expected, answer = asked(port)
        assert json.loads(answer) == {"predictions": [expected]}


@pytest.mark.parametrize("shape", shapes(SMUGGLED))
@pytest.mark.parametrize("hidden", HIDDEN)
def test_nobody_is_answered_what_another_has_asked(
    shape: str, hidden: str, proxy: Any
) -> None:
    sent = shapes(HIDDEN[hidden])[shape]
    assert_in_step(proxy["http_1"])

    attack(proxy["http_1"], sent)

    assert_in_step(proxy["http_1"])


def test_requests_that_come_together_are_answered_in_order(proxy: Any) -> None:
    numbers = [next(NUMBERS) for _ in range(50)]
    bodies = [b'{"instances": [%d]}' % number for number in numbers]
    requests = [post(sized(body), body) for body in bodies[:-1]]
    last = post(sized(bodies[-1]) + b"Connection: close\r\n", bodies[-1])

    answer = taken(proxy["http_1"], b"".join([*requests, last]))

    found = [
        json.loads(part.partition(b"]")[0].strip() + b"]")
        for part in answer.split(b'"predictions":')[1:]
    ]
    assert found == [[number / 2 + 2] for number in numbers]


# Over HTTP/2 lengths and ends are those of frames, and fields are made of them.
Fields = list[tuple[bytes, bytes]]


def stream(
    *others: tuple[bytes, bytes], path: bytes = b"/v1/models/m:predict"
) -> Fields:
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"x"),
        *others,
    ]


def streams(hidden: bytes) -> dict[str, tuple[Fields, bytes]]:
    """Return heads and bodies of requests that are others once they are HTTP/1."""
    ended = END + hidden
    line = b"\r\nTransfer-Encoding: chunked\r\n\r\n" + hidden
    return {
        "a length that is too short": (stream((b"content-length", b"0")), hidden),
        "a length that is too long": (stream((b"content-length", b"999")), BODY),
        "two lengths": (
            stream((b"content-length", b"20"), (b"content-length", b"0")),
            BODY + hidden,
        ),
        "chunks": (stream((b"transfer-encoding", b"chunked")), ended),
        "a line in a value": (stream((b"a", b"b" + line)), BODY),
        "a line feed in a value": (
            stream((b"a", b"b\nTransfer-Encoding: chunked")),
            ended,
        ),
        "a line in a name": (stream((b"a: b\r\ntransfer-encoding", b"chunked")), ended),
        "a colon in a name": (stream((b"transfer-encoding:chunked", b"")), ended),
        "a line in the path": (stream(path=b"/ HTTP/1.1" + line), BODY),
        "a blank in the path": (stream(path=b"/a HTTP/1.1"), BODY),
        "a target with a host": (stream(path=b"http://y/v1/m"), BODY),
        "fields of the connection": (
            stream((b"connection", b"content-length"), (b"content-length", b"20")),
            BODY + hidden,
        ),
        "a line in the method": (
            [(b":method", b"GET / HTTP/1.1" + line), *stream()[1:]],
            BODY,
        ),
    }


def taken_2(port: int, fields: Fields, body: bytes) -> None:
    """Send one request over HTTP/2 as it stands; wait until it is over."""
    config = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False
    )
    speaks = h2.connection.H2Connection(config)
    speaks.initiate_connection()
    speaks.send_headers(1, fields)
    speaks.send_data(1, body, end_stream=True)
    over = (
        h2.events.StreamEnded,
        h2.events.StreamReset,
        h2.events.ConnectionTerminated,
    )
    with connect(port) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(speaks.data_to_send())
        while received := connection.recv(1 << 16):
            if any(isinstance(e, over) for e in speaks.receive_data(received)):
                return
            connection.sendall(speaks.data_to_send())


@pytest.mark.parametrize("shape", streams(SMUGGLED))
@pytest.mark.parametrize("hidden", HIDDEN)
def test_requests_that_become_http_1_stay_what_they_are(
    shape: str, hidden: str, proxy: Any
) -> None:
    assert_in_step(proxy["http_1"])

    taken_2(proxy["http_2"], *streams(HIDDEN[hidden])[shape])

    assert_in_step(proxy["http_1"])


@pytest.mark.parametrize("shape", streams(SMUGGLED))
def test_calls_are_answered_each_for_itself(shape: str, proxy: Any) -> None:
    fields, body = streams(SMUGGLED)[shape]
    fields = [
        (name, value.replace(b"/v1/models/m:predict", CALL)) for name, value in fields
    ]
    fields += [(b"te", b"trailers"), (b"content-type", b"application/grpc")]

    taken_2(proxy["calls"], fields, body)

    with Client(f"127.0.0.1:{proxy['calls']}", attempts=1) as client:
        for _ in range(3):
            number = next(NUMBERS)
            answer = client.predict("m", [float(number)])["y"].tolist()
            assert answer == [number / 2 + 2]


CALL: Final = b"/tensorflow.serving.PredictionService/Predict"


@pytest.mark.parametrize("name", PROXIES)
def test_a_server_that_reads_no_bodies_would_be_noticed(
    name: str, tmp_path: Path
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        proxied(name, listener.getsockname()[1], 9, tmp_path) as ports,
    ):
        threading.Thread(target=read_no_bodies, args=(listener,), daemon=True).start()
        shape = shapes(OPEN)["a body after b'GET /v1/models/m'"]
        first = taken(ports["http_1"], shape)
        second = taken(ports["http_1"], b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n")

    assert b"asked /v1/models/m" in first
    assert b"asked /v1/models/smuggled" in second


def read_no_bodies(listener: socket.socket) -> None:
    """Answer each head with its target, as a server that desynchronises does."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(ConnectionError):
                received = b""
                while more := connection.recv(1 << 16):
                    received += more
                    while b"\r\n\r\n" in received:
                        head, _, received = received.partition(b"\r\n\r\n")
                        said = b"asked " + head.split(b" ")[1]
                        connection.sendall(
                            b"HTTP/1.1 200 OK\r\n" + sized(said) + b"\r\n" + said
                        )
