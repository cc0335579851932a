"""Servers that die, hang or drip: an exception that says so, and never late."""

import asyncio
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from servable.apis import model_server_config_pb2
from servable.client import AsyncClient, Client
from servable.client._client import _model_server_config
from servable.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    ServingError,
    Unavailable,
)

Behaviour = Callable[[socket.socket, threading.Event], None]


def hang_up(connection: socket.socket, _ended: threading.Event) -> None:
    connection.recv(1)


def hang(connection: socket.socket, ended: threading.Event) -> None:
    connection.recv(1)
    ended.wait()


def drip_body(connection: socket.socket, ended: threading.Event) -> None:
    connection.recv(1)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while not ended.wait(0.05):
        connection.sendall(b" ")


def drip_head(connection: socket.socket, ended: threading.Event) -> None:
    connection.recv(1)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not ended.wait(0.05):
        connection.sendall(b"x")


def sip(connection: socket.socket, ended: threading.Event) -> None:
    while not ended.wait(0.01):
        connection.recv(1 << 16)


SMALL = {"x": b"x"}
LARGE = {"x": b"x" * 40_000_000}  # takes sips of six seconds
DRIPS = [
    pytest.param(drip_body, SMALL, id="the body"),
    pytest.param(drip_head, SMALL, id="the head"),
    pytest.param(sip, LARGE, id="what it takes of the request"),
]


class Listener:
    """Accepts connections, and treats each as it was told to."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._ended = threading.Event()
        self._socket = socket.create_server(("localhost", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self.port: int = self._socket.getsockname()[1]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._treat, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _treat(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._behaviour(connection, self._ended)
            except OSError:  # the client has had enough
                return

    def close(self) -> None:
        self._ended.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def listen() -> Iterator[Callable[[Behaviour], int]]:
    listeners: list[Listener] = []

    def start(behaviour: Behaviour) -> int:
        listeners.append(Listener(behaviour))
        return listeners[-1].port

    yield start
    for listener in listeners:
        listener.close()


def address_of(api: str, port: int) -> str:
    return f"localhost:{port}" if api == "grpc" else f"http://localhost:{port}"


def asked(address: str, timeout: float) -> tuple[ServingError, float]:
    begun = time.monotonic()
    with Client(address) as client, pytest.raises(ServingError) as raised:
        client.predict("m", {"x": [1.0]}, timeout=timeout)
    return raised.value, time.monotonic() - begun


def test_a_server_that_dies_in_mid_call(
    api: str, listen: Callable[[Behaviour], int]
) -> None:
    address = address_of(api, listen(hang_up))

    error, took = asked(address, timeout=5)

    assert isinstance(error, Unavailable)
    assert f"the server at {address} was not reached" in error.message
    assert took < 5


def test_a_server_that_hangs(api: str, listen: Callable[[Behaviour], int]) -> None:
    error, took = asked(address_of(api, listen(hang)), timeout=0.5)

    assert isinstance(error, DeadlineExceeded)
    assert 0.4 < took < 3


@pytest.mark.parametrize(("drip", "example"), DRIPS)
def test_a_server_that_drips(
    drip: Behaviour, example: dict[str, bytes], listen: Callable[[Behaviour], int]
) -> None:
    begun = time.monotonic()
    with (
        Client(address_of("rest", listen(drip))) as client,
        pytest.raises(DeadlineExceeded, match="no answer from"),
    ):
        client.classify("m", example, timeout=0.5)

    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(("drip", "example"), DRIPS)
def test_a_server_that_drips_is_left_by_the_async_client(
    drip: Behaviour, example: dict[str, bytes], listen: Callable[[Behaviour], int]
) -> None:
    async def main() -> None:
        async with AsyncClient(address_of("rest", listen(drip))) as client:
            with pytest.raises(DeadlineExceeded, match="no answer from"):
                await client.classify("m", example, timeout=0.5)

    begun = time.monotonic()
    asyncio.run(main())

    assert time.monotonic() - begun < 5


def test_a_name_that_nobody_looks_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered = threading.Event(), threading.Event()

    def getaddrinfo(*_arguments: object, **_options: object) -> list[object]:
        asked.set()
        answered.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with (
        Client("http://slow.example") as client,
        pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"),
    ):
        client.status("m", timeout=0.2)
    answered.set()

    assert asked.is_set()


STATUS = b'{"model_version_status": [{"version": "5", "state": "AVAILABLE"}]}'


def answer(body: bytes, *head: bytes) -> Behaviour:
    def behaviour(connection: socket.socket, _ended: threading.Event) -> None:
        request = connection.recv(1 << 16)
        while request:
            lines = (b"Content-Length: %d" % len(body), *head, b"", body)
            connection.sendall(b"\r\n".join((b"HTTP/1.1 200 OK", *lines)))
            request = connection.recv(1 << 16)

    return behaviour


def test_an_answer_may_be_compressed(listen: Callable[[Behaviour], int]) -> None:
    port = listen(answer(gzip.compress(STATUS), b"Content-Encoding: gzip"))

    with Client(f"http://localhost:{port}") as client:
        assert client.status("m")[0].version == 5


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        pytest.param(
            answer(b"<html>Please log in</html>"),
            "begins with b'<html>Please log in",
            id="a page",
        ),
        pytest.param(
            answer(STATUS, b"Content-Encoding: gzip"),
            "in the encoding 'gzip' and cannot be read",
            id="something that is not compressed as it says",
        ),
    ],
)
def test_something_else_answers(
    behaviour: Behaviour, said: str, listen: Callable[[Behaviour], int]
) -> None:
    with (
        Client(f"http://localhost:{listen(behaviour)}") as client,
        pytest.raises(Internal) as raised,
    ):
        client.status("m")

    assert said in raised.value.message


@pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "async"])
@pytest.mark.parametrize(
    ("spared", "is_asked"),
    [("", True), ("models.invalid", False)],
    ids=["for a host", "not for one that needs none"],
)
def test_a_proxy_is_asked(
    spared: str,
    is_asked: bool,
    is_async: bool,
    listen: Callable[[Behaviour], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "all_proxy", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://localhost:{listen(answer(STATUS))}")
    monkeypatch.setenv("no_proxy", spared)

    async def ask() -> int:
        async with AsyncClient("http://models.invalid", attempts=1) as client:
            return (await client.status("m"))[0].version

    def status() -> int:
        if is_async:
            return asyncio.run(ask())
        with Client("http://models.invalid", attempts=1) as client:
            return client.status("m")[0].version

    if is_asked:
        assert status() == 5
        return
    with pytest.raises(Unavailable, match=r"models\.invalid:8501 was not reached"):
        status()


def test_a_proxy_that_is_none_for_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://localhost:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    with pytest.raises(InvalidArgument, match="socks5://localhost:1 for http://"):
        Client("http://models.invalid")


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"m": "/models/m"}, id="names and paths"),
        pytest.param(
            'model_config_list { config { name: "m" base_path: "/models/m" '
            'model_platform: "tensorflow" } }',
            id="text",
        ),
        pytest.param(
            model_server_config_pb2.ModelServerConfig.FromString(
                _model_server_config({"m": "/models/m"}).SerializeToString()
            ),
            id="the message",
        ),
    ],
)
def test_a_configuration_may_be(
    config: dict[str, str] | str | model_server_config_pb2.ModelServerConfig,
) -> None:
    (model,) = _model_server_config(config).model_config_list.config

    assert (model.name, model.base_path) == ("m", "/models/m")
    assert model.model_platform == "tensorflow"


def test_what_is_no_configuration_is_said_to_be_none() -> None:
    with pytest.raises(InvalidArgument, match="no ModelServerConfig: 1:1"):
        _model_server_config("nonsense { }")
