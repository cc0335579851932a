"""Servers that die, hang or drip: an exception that says so, and never late."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from servable.apis import model_server_config_pb2
from servable.client import AsyncClient, Client
from servable.client._client import _model_server_config
from servable.errors import DeadlineExceeded, InvalidArgument, ServingError, Unavailable

Behaviour = Callable[[socket.socket, threading.Event], None]


def hang_up(connection: socket.socket, _ended: threading.Event) -> None:
    connection.recv(1)


def hang(connection: socket.socket, ended: threading.Event) -> None:
    connection.recv(1)
    ended.wait()


def drip(connection: socket.socket, ended: threading.Event) -> None:
    connection.recv(1)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while not ended.wait(0.05):
        connection.sendall(b" ")


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


def test_a_server_that_drips(listen: Callable[[Behaviour], int]) -> None:
    error, took = asked(address_of("rest", listen(drip)), timeout=0.5)

    assert isinstance(error, DeadlineExceeded)
    assert took < 3


def test_a_server_that_drips_is_left_by_the_async_client(
    listen: Callable[[Behaviour], int],
) -> None:
    import asyncio  # noqa: PLC0415 - only here

    async def main() -> None:
        async with AsyncClient(address_of("rest", listen(drip))) as client:
            with pytest.raises(DeadlineExceeded):
                await client.status("m", timeout=0.5)

    begun = time.monotonic()
    asyncio.run(main())

    assert time.monotonic() - begun < 3


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
