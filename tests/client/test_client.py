"""Both clients against a server that answers as the real one was recorded to."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import grpc
import numpy as np
import pytest

from servable.client import AsyncClient, Client
from servable.errors import (
    Cancelled,
    Code,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unimplemented,
)

RecordedServer: TypeAlias = Any  # of conftest.py, which cannot be imported


@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param({"x": [2.0]}, id="a list"),
        pytest.param({"x": [2]}, id="a list of integers"),
        pytest.param({"x": np.array([2.0])}, id="an array that loses nothing"),
        pytest.param({"x": np.array([2], np.int8)}, id="an array of another kind"),
        pytest.param([2.0], id="a value for the only input"),
    ],
)
def test_predicts(client: Client, inputs: Any) -> None:
    outputs = client.predict("scale", inputs)

    assert list(outputs) == ["y"]
    assert outputs["y"].dtype == np.float32
    assert outputs["y"].tolist() == [6.0]


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        pytest.param({"version": 2}, {"y": [4.0]}, id="a version"),
        pytest.param({"label": "canary"}, {"y": [4.0]}, id="a label"),
        pytest.param(
            {"version": 2, "signature": "which"}, {"version": [2.0]}, id="a signature"
        ),
    ],
)
def test_asks_for(client: Client, which: Any, expected: Any) -> None:
    outputs = client.predict("scale", {"x": [2.0]}, **which)

    assert {name: array.tolist() for name, array in outputs.items()} == expected


def test_grpc_says_which_version_answered(server: RecordedServer) -> None:
    with Client(server.grpc_address) as client:
        assert client.predict("scale", {"x": [2.0]}).version == 3


def test_the_signature_is_asked_for_once(
    client: Client, server: RecordedServer
) -> None:
    for _ in range(3):
        client.predict("scale", {"x": [2.0]})

    assert len(server.calls) == 4
    assert sum("etadata" in call for call in server.calls) == 1


def test_classifies(client: Client, api: str) -> None:
    second = 4.0 if api == "grpc" else 4.5
    examples = [{"x": 2.0}, {"x": second}]

    classification = client.classify("hp2", examples, signature="classify_x_to_y")

    assert classification.scores.tolist() == [[3.0], [second / 2 + 2]]
    assert classification.labels.tolist() == [[""], [""]]


def test_regresses(client: Client, api: str) -> None:
    examples = [{"x": 2.0}, {"x": 4.0}] if api == "grpc" else [{"x": 2.0}]

    values = client.regress("hp2", examples, signature="regress_x_to_y")

    assert values.dtype == np.float32
    assert values.tolist() == [3.0, 4.0][: len(examples)]


def test_shows_metadata(client: Client) -> None:
    metadata = client.metadata("scale")

    assert (metadata.name, metadata.version) == ("scale", 3)
    assert str(metadata.signatures["serving_default"]) == (
        "serving_default(x: float32[?]) -> y: float32[?]"
    )


def test_shows_status(client: Client) -> None:
    statuses = client.status("scale", version=2)

    assert [(s.version, s.state, s.code) for s in statuses] == [
        (2, "AVAILABLE", Code.OK)
    ]


def test_waits_until_a_model_is_ready(client: Client, server: RecordedServer) -> None:
    server.fail_next = [grpc.StatusCode.UNAVAILABLE] * 2

    client.wait_until_ready("scale", timeout=20)

    assert len(server.calls) == 3


def test_any_answer_shows_that_a_server_is_there(client: Client) -> None:
    client.wait_until_ready(timeout=20)


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        pytest.param(
            NotFound,
            lambda c: c.predict("nope", {"x": [1.0]}),
            "Servable not found for request: Latest(nope)",
            id="an unknown model",
        ),
        pytest.param(
            FailedPrecondition,
            lambda c: c.predict("scale", {"x": [1.0]}, signature="nothing"),
            "no signature 'nothing': model 'scale', version 3, has 'serving_default'",
            id="an unknown signature",
        ),
        pytest.param(
            InvalidArgument,
            lambda c: c.predict("scale", {"z": [1.0]}),
            "no input 'z' and missing 'x': signature 'serving_default' takes "
            "x: float32[?], and z was given",
            id="an unknown input",
        ),
        pytest.param(
            InvalidArgument,
            lambda c: c.predict("scale", {"x": [1.0]}, outputs="q"),
            "no output 'q': signature 'serving_default' of model 'scale' gives y",
            id="an unknown output",
        ),
        pytest.param(
            InvalidArgument,
            lambda c: c.predict("scale", {"x": [[1.0], [2.0, 3.0]]}),
            "input 'x': the lists are ragged: element [0] has 1 values, element [1] "
            "has 2 values",
            id="ragged lists",
        ),
        pytest.param(
            InvalidArgument,
            lambda c: c.predict("scale", {"x": ["a"]}),
            "input 'x': text or bytes were given, and float32 is wanted",
            id="text for numbers",
        ),
        pytest.param(
            InvalidArgument,
            lambda c: c.predict("scale", {"x": np.array([0.1])}),
            "input 'x': float64 values cannot become float32 without loss (0.1 would "
            "be 0.10000000149011612)",
            id="an array that would lose",
        ),
        pytest.param(
            InvalidArgument,
            lambda c: c.predict("scale", {"x": np.array([1, None], object)}),
            "1 of type int in an object array is neither text nor bytes",
            id="an object array",
        ),
        pytest.param(
            InvalidArgument,
            lambda c: c.predict("scale", {"x": [1.0]}, version=1, label="a"),
            "version=1 and label='a' exclude each other",
            id="a version and a label",
        ),
        pytest.param(
            InvalidArgument,
            lambda c: c.predict("scale", [1.0], version="3"),
            "version='3' is no number",
            id="a version in quotes",
        ),
        pytest.param(
            InvalidArgument, lambda c: c.predict("", {}), "'' is none", id="no model"
        ),
        pytest.param(
            InvalidArgument, lambda c: c.predict(3, {}), "3 is none", id="a number"
        ),
        pytest.param(
            InvalidArgument,
            lambda c: c.predict("scale", {"x": 2.0}, version=2**70),
            "version=1180591620717411303424 is more than 64 bits",
            id="a version without end",
        ),
        pytest.param(
            InvalidArgument,
            lambda c: c.predict("scale", {"x": 2.0}, label=""),
            "label='' is no label",
            id="an empty label",
        ),
        pytest.param(
            InvalidArgument,
            lambda c: c.predict("scale", {"x": 2.0}, timeout="5"),
            "timeout='5' is no number of seconds",
            id="a timeout in quotes",
        ),
        pytest.param(
            InvalidArgument,
            lambda c: c.classify("examples", None),
            "NoneType is no examples",
            id="no examples",
        ),
        pytest.param(
            InvalidArgument,
            lambda c: c.multi_inference("examples", [{}], {}),
            "no tasks were given",
            id="no tasks",
        ),
        pytest.param(
            InvalidArgument,
            lambda c: c.reload_config(None),
            "None is no configuration",
            id="no configuration",
        ),
        pytest.param(
            InvalidArgument,
            lambda c: c.reload_config({1: "/models/m"}),
            "1 is none",
            id="a configuration of a number",
        ),
        pytest.param(
            DeadlineExceeded,
            lambda c: c.predict("scale", {"x": [1.0]}, timeout=0),
            "a timeout of 0 s leaves no time",
            id="no time",
        ),
    ],
)
def test_what_is_wrong_is_named(
    client: Client, error: type[Exception], call: Callable[[Client], Any], message: str
) -> None:
    with pytest.raises(error) as raised:
        call(client)

    assert message in str(raised.value)


def test_a_server_that_sheds_is_tried_again(
    client: Client, server: RecordedServer
) -> None:
    server.fail_next = [grpc.StatusCode.UNAVAILABLE] * 3

    assert client.predict("scale", {"x": [2.0]})["y"].tolist() == [6.0]


def test_attempts_are_counted(server: RecordedServer, api: str) -> None:
    server.fail_next = [grpc.StatusCode.UNAVAILABLE] * 9
    with (
        Client(server.address(api), attempts=2) as client,
        pytest.raises(Unavailable, match="told to"),
    ):
        client.status("scale")

    assert len(server.calls) == 2


def test_other_errors_are_not_tried_again(server: RecordedServer) -> None:
    server.fail_next = [grpc.StatusCode.INTERNAL]
    with Client(server.grpc_address) as client, pytest.raises(Internal):
        client.status("scale")

    assert len(server.calls) == 1


def test_a_deadline_is_kept(server: RecordedServer, api: str) -> None:
    server.hold = threading.Event()
    begun = time.monotonic()
    with (
        Client(server.address(api)) as client,
        pytest.raises(DeadlineExceeded) as raised,
    ):
        client.predict("scale", {"x": [2.0]}, timeout=0.3)
    took = time.monotonic() - begun
    server.hold.set()

    assert 0.25 < took < 5
    assert f"no answer from {server.address(api)} within 0.3 s" in str(raised.value)


@pytest.mark.parametrize("address", ["localhost:1", "http://localhost:1"])
def test_a_server_that_is_not_there_is_said_to_be_not_there(address: str) -> None:
    with Client(address, timeout=5) as client, pytest.raises(Unavailable) as raised:
        client.status("m")

    assert f"the server at {address} was not reached" in str(raised.value)
    assert "does it run" in str(raised.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param({"address": None}, "None is no address", id="no address"),
        pytest.param({"address": ["a:1", 2]}, "2 is no address", id="a number"),
        pytest.param({"tls": "ca.pem"}, "tls='ca.pem' is neither", id="roots alone"),
        pytest.param({"timeout": None}, "timeout=None is no number", id="no timeout"),
        pytest.param(
            {"keep_alive": 0}, "keep_alive=0 is no time", id="no time between"
        ),
        pytest.param({"keep_alive": "a"}, "keep_alive='a' is no number", id="text"),
    ],
)
def test_a_client_of_what_is_none_is_refused(
    kind: Callable[..., Any], arguments: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidArgument, match=text):
        kind(**{"address": "localhost:1", **arguments})


def test_a_token_that_is_no_text_is_refused(api: str, server: RecordedServer) -> None:
    token: Any = b"secret"
    with (
        Client(server.address(api), token=token) as client,
        pytest.raises(InvalidArgument, match="a token is text, and not bytes"),
    ):
        client.status("scale")


def test_a_timeout_may_be_infinite(client: Client) -> None:
    assert client.status("scale", version=2, timeout=float("inf"))


def test_calls_in_flight_are_cancelled_when_the_client_is_closed(
    server: RecordedServer, api: str
) -> None:
    server.hold = threading.Event()
    client = Client(server.address(api), timeout=60)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.status, "scale")
        while not server.calls:
            time.sleep(0)
        client.close()

        with pytest.raises(Cancelled, match="closed during the call"):
            call.result(30)


def test_calls_in_flight_are_cancelled_when_the_async_client_is_closed(
    server: RecordedServer, api: str
) -> None:
    server.hold = threading.Event()

    async def main() -> None:
        client = AsyncClient(server.address(api), timeout=60)
        call = asyncio.create_task(client.status("scale"))
        while not server.calls:  # noqa: ASYNC110 - on another thread
            await asyncio.sleep(0)
        await client.close()
        async with asyncio.timeout(30):
            await call

    with pytest.raises(Cancelled, match="closed during the call"):
        asyncio.run(main())


def test_a_cancelled_task_is_cancelled_also_when_the_client_is_closed(
    server: RecordedServer, api: str
) -> None:
    server.hold = threading.Event()

    async def main() -> None:
        async with AsyncClient(server.address(api), timeout=60) as client:
            call = asyncio.create_task(client.status("scale"))
            while not server.calls:  # noqa: ASYNC110 - on another thread
                await asyncio.sleep(0)
            call.cancel()
        await call

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())


def test_a_closed_client_is_asked_no_more(server: RecordedServer, api: str) -> None:
    client = Client(server.address(api))
    client.close()

    async def main() -> None:
        async with AsyncClient(server.address(api)) as closed:
            await closed.status("scale", version=2)
        await closed.status("scale", version=2)

    with pytest.raises(FailedPrecondition, match="this client is closed"):
        client.status("scale", version=2)
    with pytest.raises(FailedPrecondition, match="this client is closed"):
        asyncio.run(main())


def test_an_async_client_belongs_to_one_event_loop(
    server: RecordedServer, api: str
) -> None:
    client = AsyncClient(server.address(api))
    with asyncio.Runner() as runner:
        runner.run(client.status("scale", version=2))
        with (
            ThreadPoolExecutor(1) as pool,
            pytest.raises(FailedPrecondition, match="belongs to the event loop"),
        ):
            pool.submit(asyncio.run, client.status("scale", version=2)).result()
        runner.run(client.close())


def test_the_wrong_protocol_is_recognised(server: RecordedServer) -> None:
    rest_as_grpc = server.rest_address.removeprefix("http://")
    grpc_as_rest = f"http://{server.grpc_address}"

    with Client(rest_as_grpc, timeout=5) as client, pytest.raises(Unavailable) as one:
        client.status("m")
    with Client(grpc_as_rest, timeout=5) as client, pytest.raises(Unavailable) as two:
        client.status("m")

    assert f"{rest_as_grpc}" in str(one.value)
    assert "is this its REST address" in str(two.value)


def test_addresses_take_turns_and_stand_in_for_each_other(
    server: RecordedServer, api: str
) -> None:
    nobody = "localhost:1" if api == "grpc" else "http://localhost:1"
    with Client([nobody, server.address(api)]) as client:
        states = [client.status("scale", version=2)[0].state for _ in range(4)]

    assert states == ["AVAILABLE"] * 4


def test_a_token_is_sent_along(server: RecordedServer, api: str) -> None:
    tokens = iter(["one", "two"])
    with Client(server.address(api), token=lambda: next(tokens)) as client:
        client.status("scale", version=2)
        client.status("scale", version=2)

    sent = [metadata["authorization"] for metadata in server.metadata]
    assert sent == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "async"])
@pytest.mark.parametrize(
    "token",
    [
        pytest.param("secret\n", id="a line break from its file"),
        pytest.param("sécret", id="a letter that no header has"),
        pytest.param("", id="nothing"),
    ],
)
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(
    server: RecordedServer, api: str, token: str, is_async: bool
) -> None:
    address = server.address(api)

    async def wait() -> None:
        async with AsyncClient(address, token=token) as client:
            await client.predict("scale", [2.0])

    def ask() -> None:
        with Client(address, token=token) as client:
            client.predict("scale", [2.0])

    with pytest.raises(InvalidArgument, match="the token cannot be sent") as raised:
        asyncio.run(wait()) if is_async else ask()

    assert "cret" not in str(raised.value)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(
            lambda c: c.multi_inference("examples", {"x": 1.0}, {"s": "regress"}),
            id="multi_inference",
        ),
        pytest.param(lambda c: c.reload_config({"m": "/models/m"}), id="reload_config"),
    ],
)
def test_what_the_original_does_not_have_over_rest(
    server: RecordedServer, call: Callable[[Client], Any]
) -> None:
    with (
        Client(server.rest_address) as client,
        pytest.raises(Unimplemented, match="over REST; use a gRPC address"),
    ):
        call(client)


def test_multi_inference_answers_by_signature(server: RecordedServer) -> None:
    examples = [{"f": 1.5, "i": 4, "s": b"lab"}, {"f": 2.0}]
    with Client(server.grpc_address) as client:
        results = client.multi_inference("examples", examples, {"reg_col": "regress"})

    assert list(results) == ["reg_col"]
    assert np.array_equal(np.asarray(results["reg_col"]), [4.5, 6.0])


def test_what_rest_cannot_carry_is_said(server: RecordedServer) -> None:
    from servable.client.tensors import make_tensor_proto  # noqa: PLC0415

    half = make_tensor_proto([1.0], "float16")
    with (
        Client(server.rest_address) as client,
        pytest.raises(Unimplemented, match="no float16 values; use a gRPC"),
    ):
        client.predict("scale", {"x": half})


def test_many_threads_may_share_a_client(client: Client) -> None:
    def ask(_: int) -> Any:
        return client.predict("scale", {"x": [2.0]})["y"].tolist()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(64))) == [[6.0]] * 64


def test_async_calls_run_at_the_same_time_without_threads(
    server: RecordedServer, api: str
) -> None:
    async def main() -> tuple[list[Any], int]:
        async with AsyncClient(server.address(api)) as client:
            await client.predict("scale", {"x": [2.0]})
            before = threading.active_count()
            calls = [client.predict("scale", {"x": [2.0]}) for _ in range(64)]
            answers = asyncio.gather(*calls)
            ours = threading.active_count() - before  # the server's come later
            return [a["y"].tolist() for a in await answers], ours

    answers, new_threads = asyncio.run(main())

    assert answers == [[6.0]] * 64
    assert new_threads == 0


def test_async_client_has_every_call(server: RecordedServer, api: str) -> None:
    async def main() -> None:
        async with AsyncClient(server.address(api)) as client:
            await client.wait_until_ready("scale", timeout=20)
            assert (await client.metadata("scale")).version == 3
            assert (await client.status("scale", version=2))[0].version == 2
            values = await client.regress(
                "hp2",
                [{"x": 2.0}, {"x": 4.0}] if api == "grpc" else [{"x": 2.0}],
                signature="regress_x_to_y",
            )
            assert values[0] == 3.0
            with pytest.raises(NotFound):
                await client.predict("nope", {"x": [1.0]})

    asyncio.run(main())


def test_both_clients_have_the_same_calls() -> None:
    def calls(client: type) -> dict[str, Any]:
        import inspect  # noqa: PLC0415 - only here

        return {
            name: list(inspect.signature(method).parameters)
            for name, method in vars(client).items()
            if not name.startswith("_") and name != "administration"
        }

    assert calls(AsyncClient) == calls(Client)


def test_importing_the_client_imports_little() -> None:
    script = (
        "import sys; import numpy; before = set(sys.modules)\n"
        "import servable.client\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    imported = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    tops = {name.partition(".")[0] for name in imported}

    assert not tops & {"tensorflow", "grpc", "httpx", "asyncio", "ml_dtypes", "rich"}
    assert not {"servable._engine", "servable.server"} & set(imported)
    assert len(imported) < 150


def test_repr_shows_where_it_is_connected(client: Client, api: str) -> None:
    assert f"over {'gRPC' if api == 'grpc' else 'REST'}>" in repr(client)
