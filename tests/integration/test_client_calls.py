"""Every call of the client, and everything that goes wrong, over both protocols."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("servable._engine")

from servable.client import AsyncClient, Client
from servable.errors import (
    Code,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServingError,
    Unavailable,
)

LARGE = np.zeros(4_000_000, np.float32)  # more than the sockets on the way hold


@pytest.fixture(scope="module")
def base_path(
    tmp_path_factory: pytest.TempPathFactory, write_version: Callable[..., Path]
) -> Path:
    return write_version(tmp_path_factory.mktemp("models") / "m" / "1").parent


@pytest.fixture(scope="module")
def server(start: Callable[..., Any], base_path: Path) -> Any:
    flags = (f"--model_base_path={base_path}", "--model_name=m")
    return start(*flags, "--wait_for_models=true")


@pytest.fixture(params=["grpc", "rest"])
def api(request: pytest.FixtureRequest) -> str:
    param: str = request.param
    return param


@pytest.fixture
def client(server: Any, api: str) -> Iterator[Client]:
    with Client(getattr(server, api), timeout=30) as client:
        yield client


def test_classifies_and_regresses(client: Client) -> None:
    examples = [{"x": 2.0}, {"x": 4.0}]
    tasks = {"regress": "regress", "classify": "classify"}

    classification = client.classify("m", examples, signature="classify")
    values = client.regress("m", {"x": 2.0}, signature="regress")
    both: Any = client.multi_inference("m", examples, tasks)

    assert classification.scores.tolist() == [[3.0], [4.0]]
    assert values.tolist() == [3.0]
    assert list(both) == list(tasks)
    assert both["regress"].tolist() == [3.0, 4.0]
    assert both["classify"].scores.tolist() == [[3.0], [4.0]]


def test_a_context_is_part_of_every_example(client: Client) -> None:
    values = client.regress(
        "m", [{}, {"x": 4.0}], signature="regress", context={"x": 2.0}
    )

    assert values.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize("count", [1, 100_000])
def test_outputs_are_writable_on_request(
    client: Client, writable: bool, count: int
) -> None:
    outputs = client.predict("m", np.ones(count, np.float32), writable=writable)

    assert outputs["y"].flags.writeable == writable
    assert outputs["y"].tolist() == [2.5] * count


def test_models_are_replaced(
    start: Callable[..., Any], base_path: Path, api: str
) -> None:
    server = start("--model_name=m", f"--model_base_path={base_path}")
    with Client(getattr(server, api), timeout=30) as client:
        client.reload_config({"other": str(base_path)})

        assert client.predict("other", [2.0])["y"].tolist() == [3.0]
        with pytest.raises(InvalidArgument, match="base_path"):
            client.reload_config({"other": "relative"})


REFUSED: list[Any] = [
    pytest.param(
        NotFound,
        {"model": "nope"},
        ["Servable not found for request: Latest(nope)"],
        id="an unknown model",
    ),
    pytest.param(
        FailedPrecondition,
        {"signature": "nope"},
        ["no signature 'nope'", "model 'm', version 1, has", "'serving_default'"],
        id="an unknown signature",
    ),
    pytest.param(
        InvalidArgument,
        {"inputs": {"z": [1.0]}},
        ["no input 'z'", "takes x: float32[?]", "z was given"],
        id="an unknown input",
    ),
    pytest.param(
        InvalidArgument,
        {"outputs": ["q"]},
        ["no output 'q'", "gives y: float32[?]"],
        id="an unknown output",
    ),
    pytest.param(
        InvalidArgument,
        {"inputs": {"x": ["a"]}},
        ["input 'x'", "text or bytes were given", "float32 is wanted"],
        id="text for numbers",
    ),
    pytest.param(
        InvalidArgument,
        {"inputs": {"x": np.array([0.1])}},
        ["input 'x'", "float64", "without loss", "cast them yourself"],
        id="numbers that would be rounded",
    ),
    pytest.param(
        InvalidArgument,
        {"inputs": {"x": [[1.0], [1.0, 2.0]]}},
        ["input 'x'", "element [0] has 1 values, element [1] has 2", "pad them"],
        id="ragged lists",
    ),
    pytest.param(
        InvalidArgument,
        {"inputs": {"x": np.array([1, None], object)}},
        ["input 'x'", "in an object array", "give numbers as an array"],
        id="an object array",
    ),
]


@pytest.mark.parametrize(("error", "arguments", "parts"), REFUSED)
def test_an_error_says_what_was_sent_and_what_was_expected(
    client: Client,
    error: type[ServingError],
    arguments: dict[str, Any],
    parts: list[str],
) -> None:
    with pytest.raises(error) as raised:
        client.predict(**{"model": "m", "inputs": {"x": [1.0]}, **arguments})

    assert [part for part in parts if part not in raised.value.message] == []


@pytest.mark.parametrize(("error", "arguments", "parts"), REFUSED[:1])
def test_errors_of_the_async_client_are_the_same(
    server: Any,
    api: str,
    error: type[ServingError],
    arguments: dict[str, Any],
    parts: list[str],
) -> None:
    async def main() -> None:
        async with AsyncClient(getattr(server, api), timeout=30) as client:
            await client.predict(**{"model": "m", "inputs": {"x": [1.0]}, **arguments})

    with pytest.raises(error, match=parts[0].replace("(", r"\(").replace(")", r"\)")):
        asyncio.run(main())


def test_the_rest_port_is_recognised_by_a_client_of_grpc(server: Any) -> None:
    address = server.rest.removeprefix("http://")
    with (
        Client(address) as client,
        pytest.raises(Unavailable, match=f"the address is http://{address}"),
    ):
        client.predict("m", [1.0])


@pytest.fixture
def mortal(start: Callable[..., Any], base_path: Path) -> Iterator[Any]:
    """A server of which a test may do away."""
    flags = (f"--model_base_path={base_path}", "--model_name=m")
    server = start(*flags, "--wait_for_models=true")
    yield server
    if server.process.poll() is None:
        os.kill(server.process.pid, signal.SIGCONT)


def ask(address: str) -> None:
    with Client(address) as client:
        client.predict("m", [1.0], timeout=0.5)


def ask_without_waiting(address: str) -> None:
    async def main() -> None:
        async with AsyncClient(address) as client:
            await client.predict("m", [1.0], timeout=0.5)

    asyncio.run(main())


@pytest.mark.parametrize("call", [ask, ask_without_waiting], ids=["sync", "async"])
def test_a_server_that_accepts_and_never_answers(
    mortal: Any, api: str, call: Callable[[str], None]
) -> None:
    stop(mortal)

    with pytest.raises(DeadlineExceeded, match=r"no answer from .* within 0.\d+ s"):
        call(getattr(mortal, api))


def fill_and_ask(address: str, stop_it: Callable[[], None]) -> Iterator[str]:
    with Client(address, timeout=0.5) as client:
        client.predict("m", [1.0], timeout=30)
        stop_it()
        for inputs in (LARGE, [1.0]):
            try:
                client.predict("m", inputs)
            except ServingError as exc:
                yield exc.code.name


def fill_and_ask_without_waiting(
    address: str, stop_it: Callable[[], None]
) -> Iterator[str]:
    async def main() -> list[str]:
        async with AsyncClient(address, timeout=0.5) as client:
            await client.predict("m", [1.0], timeout=30)
            stop_it()
            calls = [client.predict("m", inputs) for inputs in (LARGE, [1.0])]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            return [getattr(outcome, "code", Code.OK).name for outcome in outcomes]

    yield from asyncio.run(main())


@pytest.mark.parametrize(
    "ask_both", [fill_and_ask, fill_and_ask_without_waiting], ids=["sync", "async"]
)
def test_a_server_that_reads_no_more(
    mortal: Any, api: str, ask_both: Callable[..., Iterator[str]]
) -> None:
    """The request fills the sockets, and holds those behind it; none is late."""
    begun = time.monotonic()
    outcomes = list(ask_both(getattr(mortal, api), lambda: stop(mortal)))

    assert outcomes == ["DEADLINE_EXCEEDED"] * 2
    assert time.monotonic() - begun < 15  # gRPC alone takes twenty seconds


def test_a_server_that_dies_in_mid_call(mortal: Any, api: str) -> None:
    address = getattr(mortal, api)
    with Client(address, timeout=60, attempts=1) as client:
        client.predict("m", [1.0])
        stop(mortal)
        raised: list[BaseException] = []

        def ask_again() -> None:
            try:
                client.predict("m", [1.0])
            except ServingError as exc:
                raised.append(exc)

        thread = threading.Thread(target=ask_again)
        thread.start()
        while thread.is_alive() and not is_waiting(mortal):
            thread.join(0.01)
        mortal.process.kill()
        thread.join(60)

    (error,) = raised
    assert isinstance(error, Unavailable)
    assert f"the server at {address} was not reached" in error.message


def stop(server: Any) -> None:
    """Let the server do nothing more; return when each of its threads has stopped."""
    os.kill(server.process.pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{server.process.pid}/task")
    while {
        path.read_text().rpartition(")")[2].split()[0] for path in tasks.glob("*/stat")
    } != {"T"}:
        os.sched_yield()


def is_waiting(server: Any) -> bool:
    """Return whether something lies in a socket of the server that it has not read."""
    ports = {f"{port:04X}" for port in (server.grpc_port, server.rest_port)}
    tables = (Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6"))
    for line in "".join(tables).splitlines():
        if "local_address" in line:
            continue
        local, queues = line.split()[1], line.split()[4]
        if local.rpartition(":")[2] in ports and not queues.endswith(":00000000"):
            return True
    return False
