"""
What a server holds at one time, how long it waits, and whom it refuses.

The model reads a named pipe, so that a run lasts until the test says that it ends, or
counts as far as it is told, which TensorFlow can be asked to stop.
"""

import contextlib
import gzip
import http.client
import importlib.util
import json
import os
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from servable.apis import (
    predict_pb2,
    prediction_service_pb2_grpc,
    saved_model_pb2,
    types_pb2,
)
from servable.client import Client, make_tensor_proto
from servable.errors import ResourceExhausted

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

PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
THREADS: Final = 4
FOR_EVER: Final = 2**62
# For what has to happen some time, on a machine that has other things to do.
PATIENCE_S: Final = 30.0
# TensorFlow cannot read a pipe once it is open.
RELEASED = grpc.StatusCode.INVALID_ARGUMENT
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED


def waiting_model() -> bytes:
    """Return a SavedModel that reads a file, or counts to a number."""
    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta_graph = model.meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    graph = meta_graph.graph_def
    graph.versions.producer = 1882

    def node(name: str, op: str, *inputs: str, **types: int) -> Any:
        made = graph.node.add(name=name, op=op, input=inputs)
        for attribute, number in types.items():
            made.attr[attribute].type = number  # type: ignore[assignment]
        return made

    def constant(name: str, value: int) -> None:
        tensor = make_tensor_proto(value, "int64")
        made = node(name, "Const", dtype=tensor.dtype)
        made.attr["value"].tensor.MergeFromString(tensor.SerializeToString())

    def signature(name: str, x: str, y: str, dtype: int, y_dtype: int) -> None:
        definition = meta_graph.signature_def[name]
        definition.method_name = "tensorflow/serving/predict"
        for direction, alias, tensor, number in (
            (definition.inputs, "x", x, dtype),
            (definition.outputs, "y", y, y_dtype),
        ):
            direction[alias].name, direction[alias].dtype = tensor, number  # type: ignore[assignment]
            direction[alias].tensor_shape.SetInParent()

    int64, string = types_pb2.DT_INT64, types_pb2.DT_STRING
    node("path", "Placeholder", dtype=string)
    node("content", "ReadFile", "path")
    signature("read", "path:0", "content:0", string, string)

    node("n", "Placeholder", dtype=int64)
    constant("zero", 0)
    constant("one", 1)
    for entered, is_constant in (("zero", False), ("one", True), ("n", True)):
        made = node(f"enter_{entered}", "Enter", entered, T=int64)
        made.attr["frame_name"].s = b"count"
        made.attr["is_constant"].b = is_constant
    node("merge", "Merge", "enter_zero", "next", T=int64).attr["N"].i = 2
    node("less", "Less", "merge", "enter_n", T=int64)
    node("goes_on", "LoopCond", "less")
    node("switch", "Switch", "merge", "goes_on", T=int64)
    node("add", "AddV2", "switch:1", "enter_one", T=int64)
    node("next", "NextIteration", "add", T=int64)
    node("exit", "Exit", "switch", T=int64)
    signature("serving_default", "n:0", "exit:0", int64, int64)

    node("same", "Identity", "n", T=int64)
    signature("same", "n:0", "same:0", int64, int64)
    return model.SerializeToString()


@dataclass(frozen=True)
class Answer:
    """How a request ended, over either protocol."""

    code: grpc.StatusCode
    text: str
    after_s: float
    retry_after: str | None = None


CODES: Final = {
    200: grpc.StatusCode.OK,
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    413: EXHAUSTED,
    429: EXHAUSTED,
    503: UNAVAILABLE,
    504: EXCEEDED,
}


class Asks:
    """Requests to a server over one of the protocols."""

    def __init__(self, server: Any, api: str) -> None:
        self.headers: dict[str, str] = {}
        self._server = server
        self._ask = self._over_grpc if api == "grpc" else self._over_rest

    def __call__(
        self, value: float | str, signature: str = "read", *, model: str = "first"
    ) -> Answer:
        return self._ask(value, signature, model)

    def _over_grpc(self, value: float | str, signature: str, model: str) -> Answer:
        with grpc.insecure_channel(self._server.grpc) as channel:
            began = time.monotonic()
            call = predict(channel)
            try:
                # The client has no deadline of its own: the answer is the server's.
                call(message(value, signature, model))
            except grpc.RpcError as error:
                after_s = time.monotonic() - began
                return Answer(error.code(), error.details() or "", after_s)
            return Answer(grpc.StatusCode.OK, "", time.monotonic() - began)

    def _over_rest(self, value: float | str, signature: str, model: str) -> Answer:
        body = json.dumps({"signature_name": signature, "inputs": value})
        began = time.monotonic()
        status, text, fields = rest(
            self._server, f"/v1/models/{model}:predict", body, self.headers
        )
        after_s = time.monotonic() - began
        return Answer(CODES[status], text, after_s, fields.get("Retry-After"))


def predict(channel: grpc.Channel) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
    return channel.unary_unary(PREDICT, _same, _same)


def _same(content: bytes) -> bytes:
    return content


def message(value: float | str, signature: str, model: str) -> bytes:
    """Return a PredictRequest."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    dtype = {int: "int64", float: "float32", str: "string"}[type(value)]
    request.inputs["x"].CopyFrom(make_tensor_proto(value, dtype))
    return request.SerializeToString()


def rest(
    server: Any, target: str, body: str | None = None, headers: Any = None
) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(
        "127.0.0.1", server.rest_port, timeout=2 * PATIENCE_S
    )
    with contextlib.closing(connection):
        connection.request("POST" if body else "GET", target, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())


def metric(server: Any, series: str) -> float:
    """Return the value of a series, 0 when there is none."""
    series = series if "{" in series else f"{series}{{}}"
    _, page, _ = rest(server, "/metrics")
    lines = (line for line in page.splitlines() if line.startswith(f"{series} "))
    return float(next(lines, "0").rpartition(" ")[2])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base_path = tmp_path_factory.mktemp("models") / "waiting"
    (base_path / "1").mkdir(parents=True)
    (base_path / "1" / "saved_model.pb").write_bytes(waiting_model())
    return base_path


@pytest.fixture
def serve(
    start: Any, model: Path, tmp_path: Path, write_version: Any
) -> Callable[..., Any]:
    """Return what starts a server of the model under two names, and of another."""
    other = write_version(tmp_path / "half_plus_two" / "1").parent
    models = {"first": model, "second": model, other.name: other}

    def serve(*flags: str) -> Any:
        config = tmp_path / "models.config"
        config.write_text(
            "model_config_list {"
            + "".join(
                f'config {{ name: "{name}" base_path: "{path}" '
                'model_platform: "tensorflow" }'
                for name, path in models.items()
            )
            + "}"
        )
        return start(
            f"--model_config_file={config}",
            "--wait_for_models",
            f"--compute_threads={THREADS}",
            *flags,
        )

    return serve


class Pipes:
    """Named pipes: whoever reads one waits until it is opened here."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._paths: list[Path] = []

    def make(self) -> str:
        path = self._directory / f"pipe-{len(self._paths)}"
        os.mkfifo(path)
        self._paths.append(path)
        return str(path)

    def has_reader(self, path: str) -> bool:
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    def release(self, *, but: str = "") -> None:
        """Let go whoever waits now, except for one pipe."""
        for path in self._paths:
            if str(path) != but:
                self.has_reader(str(path))


@pytest.fixture
def pipes(tmp_path: Path) -> Iterator[Pipes]:
    made = Pipes(tmp_path)
    yield made
    made.release()


@contextlib.contextmanager
def asking(
    ask: Callable[[str], Answer], values: list[str]
) -> Iterator[list["Future[Answer]"]]:
    """Ask for *values* side by side; they have their answers when this is left."""
    with ThreadPoolExecutor(len(values)) as pool:
        yield [pool.submit(ask, value) for value in values]


def in_flight(server: Any) -> float:
    return sum(
        metric(server, f'servable_requests_in_flight{{protocol="{protocol}"}}')
        for protocol in ("grpc", "rest")
    )


def refused(server: Any, limit: str) -> float:
    return metric(server, f'servable_refused_total{{limit="{limit}"}}')


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_a_model_has_so_many_waiting_and_others_have_a_queue_of_their_own(
    api: str, serve: Any, pipes: Pipes, wait_until: Any
) -> None:
    server = serve("--max_queued_requests=2")
    ask = Asks(server, api)
    running: list[Future[Answer]] = []

    def second(path: str) -> Answer:
        return ask(path, model="second")

    depth = "servable_compute_queue_depth"
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(asking(second, [pipes.make()]))
        try:
            wait_until(lambda: in_flight(server) == 1, "request to the other model")
            # Long runs of one model leave a quarter of the threads to others.
            paths = [pipes.make() for _ in range(THREADS - 1 + 2)]
            running = stack.enter_context(asking(ask, paths))
            wait_until(
                lambda: in_flight(server) == len(paths) + 1
                and metric(server, depth) == 2,
                "full queue",
            )
            answer = ask(paths[0])
            alive = [
                rest(server, path)[0]
                for path in ("/healthz", "/readyz", "/metrics", "/v1/models/first")
            ]
        finally:
            while not all(one.done() for one in (*running, *other)):
                pipes.release()

    assert answer.code is UNAVAILABLE
    assert "2 requests for first wait for a compute thread" in answer.text
    assert "--max_queued_requests allows no more" in answer.text
    assert answer.retry_after == ("1" if api == "rest" else None)
    assert alive == [200] * 4
    assert {one.result().code for one in (*running, *other)} == {RELEASED}
    assert refused(server, "queued_requests") == 1


def test_where_a_queue_is_full_room_is_made_by_who_has_most(
    serve: Any, pipes: Pipes, wait_until: Any
) -> None:
    server = serve("--max_queued_requests=2")
    own_connection = [("grpc.use_local_subchannel_pool", 1)]

    def ask(channel: grpc.Channel) -> Any:
        return predict(channel).future(message(pipes.make(), "read", "first"))

    with (
        grpc.insecure_channel(server.grpc, own_connection) as greedy,
        grpc.insecure_channel(server.grpc, own_connection) as polite,
    ):
        calls = [ask(greedy) for _ in range(THREADS + 2)]
        wait_until(
            lambda: metric(server, "servable_compute_queue_depth") == 2, "full queue"
        )
        asked = ask(polite)
        wait_until(lambda: any(call.done() for call in calls), "room")
        (given_up,) = (call for call in calls if call.done())
        while not all(call.done() for call in (*calls, asked)):
            pipes.release()

    assert given_up.code() is UNAVAILABLE
    assert "2 requests for first wait for a compute thread" in given_up.details()
    calls.remove(given_up)
    assert {call.code() for call in (*calls, asked)} == {RELEASED}
    assert refused(server, "queued_requests") == 1


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_so_many_requests_are_answered_at_one_time(
    api: str, serve: Any, pipes: Pipes, wait_until: Any
) -> None:
    server = serve("--max_concurrent_requests=2")
    ask = Asks(server, api)
    with asking(ask, [pipes.make(), pipes.make()]) as running:
        try:
            wait_until(lambda: in_flight(server) == 2, "requests in flight")
            answer = ask(1, "same", model="second")
        finally:
            while not all(one.done() for one in running):
                pipes.release()

    assert answer.code is UNAVAILABLE
    assert "--max_concurrent_requests allows no more" in answer.text
    assert ask(1, "same").code is grpc.StatusCode.OK


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_bytes_of_all_requests_have_a_budget_which_is_given_back(
    api: str, serve: Any, wait_until: Any
) -> None:
    server = serve("--max_in_flight_bytes=100000")
    ask = Asks(server, api)
    held = "servable_in_flight_bytes"
    half = b"POST /v1/models/first:predict HTTP/1.1\r\nContent-Length: 99000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.rest_port)) as other:
        other.sendall(half + b"x" * 98_000)
        wait_until(lambda: metric(server, held) == 98_000, "bytes in flight")
        answer = ask("x" * 3000)
        small = ask(1, "same")
    wait_until(lambda: metric(server, held) == 0, "bytes given back")
    alone = ask("x" * 200_000)

    assert answer.code is EXHAUSTED
    assert "--max_in_flight_bytes allows 100000 together" in answer.text
    assert answer.retry_after == ("1" if api == "rest" else None)
    assert small.code is grpc.StatusCode.OK
    assert alone.code not in (EXHAUSTED, UNAVAILABLE)
    assert refused(server, "in_flight_bytes") == 1


@pytest.mark.parametrize("address", ["{grpc}", "http://127.0.0.1:{rest}"])
def test_a_request_has_so_many_examples(address: str, serve: Any) -> None:
    server = serve("--max_examples=3")
    told = "--max_examples allows 3"
    address = address.format(grpc=server.grpc, rest=server.rest_port)

    def examples(count: int) -> list[dict[str, float]]:
        return [{"x": 1.0}] * count

    def regress(count: int) -> Any:
        return client.regress("half_plus_two", examples(count), signature="regress")

    def multi_inference(count: int) -> Any:
        if address == server.grpc:
            heads = {"regress": "regress"}
            return client.multi_inference("half_plus_two", examples(count), heads)[
                "regress"
            ]
        # The client has none over REST, where TensorFlow Serving has none.
        task = {"signature_name": "regress", "method_name": "regress"}
        body = json.dumps({"tasks": [task], "examples": examples(count)})
        target = "/v1/models/half_plus_two:multi_inference"
        status, text, headers = rest(server, target, body)
        if status == http.HTTPStatus.TOO_MANY_REQUESTS:
            assert "Retry-After" not in headers
            raise ResourceExhausted(json.loads(text)["error"])
        return json.loads(text)["results"][0]["regressions"]

    with Client(address) as client:
        for ask in (regress, multi_inference):
            assert len(ask(3)) == 3
            with pytest.raises(ResourceExhausted, match=told):
                ask(4)


STATUS: Final = "/v1/models/half_plus_two"
HEAD: Final = "POST /v1/models/half_plus_two:predict HTTP/1.1\r\n"


def chunked(count: int) -> bytes:
    """Return a request whose body comes in *count* chunks."""
    body = b'{"instances": [1.0]}'
    parts = [body[at : at + 1] for at in range(count - 1)] + [body[count - 1 :]]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"


def compressed(size: int, spread: bytes = b"") -> bytes:
    """Return a request with a compressed body that becomes *size* bytes."""
    document = b'{"instances": [1.0], "x": "' + spread
    body = gzip.compress(document.ljust(size - 2) + b'"}')
    fields = f"Content-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    return f"{HEAD}{fields}".encode() + body


def line_of(length: int) -> bytes:
    """Return a request for a model that is not there."""
    line = "GET /v1/models/ HTTP/1.1"
    name = "a" * (length - len(line))
    return f"GET /v1/models/{name} HTTP/1.1\r\n\r\n".encode()


def fields_of(length: int, count: int = 1) -> bytes:
    """Return a request whose *count* fields have *length* bytes, with all line ends."""
    fields = "A: b\r\n" * (count - 1)
    fields += f"A: {'b' * (length - len(fields) - 7)}\r\n"
    return f"GET {STATUS} HTTP/1.1\r\n{fields}\r\n".encode()


RANDOM: Final = random.Random(0).randbytes(2 << 20).hex().encode()  # noqa: S311 - data


@pytest.mark.parametrize(
    ("flag", "allowed", "refused_with", "statuses"),
    [
        pytest.param(
            "--max_request_line_bytes=100",
            line_of(100),
            line_of(101),
            (404, 414),
            id="line",
        ),
        pytest.param(
            "--max_header_bytes=200",
            fields_of(200),
            fields_of(201),
            (200, 431),
            id="fields",
        ),
        pytest.param(
            "--max_header_fields=3",
            fields_of(99, 3),
            fields_of(99, 4),
            (200, 431),
            id="number of fields",
        ),
        pytest.param(
            "--max_header_fields=200",
            fields_of(2000, 200),
            fields_of(2000, 201),
            (200, 431),
            id="more fields than usual",
        ),
        pytest.param(
            "--max_body_chunks=3", chunked(3), chunked(4), (200, 413), id="chunks"
        ),
        pytest.param(
            "--max_inflated_bytes=1000",
            compressed(1000),
            compressed(1001),
            (200, 413),
            id="inflated bytes",
        ),
        pytest.param(
            "--max_inflation_ratio=1",
            compressed(1 << 20),
            compressed((1 << 20) + 1),
            (200, 413),
            id="ratio, beyond a mebibyte",
        ),
        pytest.param(
            "--max_inflation_ratio=3",
            compressed(3 << 20, RANDOM[: 2 << 20]),
            compressed(8 << 20, RANDOM[: 2 << 20]),
            (200, 413),
            id="ratio",
        ),
    ],
)
def test_a_request_over_rest_has_so_much_and_no_more(
    flag: str,
    allowed: bytes,
    refused_with: bytes,
    statuses: tuple[int, int],
    serve: Any,
) -> None:
    server = serve(flag)

    def answer(request: bytes) -> int:
        address = ("127.0.0.1", server.rest_port)
        with socket.create_connection(address, PATIENCE_S) as connection:
            connection.sendall(request)
            return int(connection.makefile("rb").readline().split()[1])

    asked = (allowed, refused_with, allowed)
    assert tuple(map(answer, asked)) == (*statuses, statuses[0])


def test_a_call_has_so_much_metadata_and_no_more(serve: Any) -> None:
    server = serve("--max_header_bytes=2000")
    with grpc.insecure_channel(server.grpc) as channel:

        def code(size: int) -> grpc.StatusCode:
            asked = message(1.0, "serving_default", "half_plus_two")
            call = predict(channel).future(asked, metadata=(("x", "a" * size),))
            return call.code()

        # The fields that every call has come before it.
        assert code(1000) is grpc.StatusCode.OK
        assert code(2000) is not grpc.StatusCode.OK
        assert code(1000) is grpc.StatusCode.OK


def test_a_tensor_becomes_so_much_and_no_more(serve: Any) -> None:
    server = serve("--max_expanded_bytes=4000")
    with Client(server.grpc) as client:

        def answered(elements: int) -> int:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "half_plus_two"
            one = make_tensor_proto(1.0, shape=[elements], dtype="float32")
            request.inputs["x"].CopyFrom(one)
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            outputs = stub.Predict(request, timeout=PATIENCE_S).outputs
            return int(outputs["y"].tensor_shape.dim[0].size)

        with grpc.insecure_channel(server.grpc) as channel:
            assert answered(1000) == 1000
            with pytest.raises(grpc.RpcError, match="--max_expanded_bytes") as refused:
                answered(1001)
        # What is sent in full may be as large as ever.
        whole = client.predict("half_plus_two", [1.0] * 2000)

    assert refused.value.code() is EXHAUSTED
    assert whole["y"].shape == (2000,)


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_the_deadline_is_kept_and_runs_that_get_stuck_are_told_of_and_shed(
    api: str, serve: Any, pipes: Pipes, wait_until: Any
) -> None:
    server = serve(
        "--abandoned_run_seconds=0.2",
        "--grpc_default_timeout_ms=1000",
        f"--tensorflow_inter_op_parallelism={THREADS // 2}",
    )
    ask = Asks(server, api)
    ask.headers = {"X-Request-Timeout-Ms": "1000"}
    stuck = 'servable_stuck_runs{model="first"}'

    answers = [ask(pipes.make()) for _ in range(THREADS // 2)]
    wait_until(lambda: metric(server, stuck) == THREADS // 2, "stuck runs")
    wait_until(lambda: "although nobody has waited" in server.log(), "warning")
    shed = ask(1, "same")
    # They hold all threads that TensorFlow's sessions share.
    others = [
        ask(1.0, "serving_default", model="half_plus_two"),
        ask(3, "serving_default", model="second"),
    ]
    health = rest(server, "/healthz")[0]
    for _ in range(THREADS // 2):
        ask(pipes.make(), model="second")
    wait_until(lambda: rest(server, "/healthz")[0] == 503, "failing probe")
    total = "servable_stuck_runs_total"
    wait_until(lambda: metric(server, total) == THREADS, "count of them")

    def have_ended() -> bool:
        pipes.release()
        return not any(
            metric(server, f'servable_stuck_runs{{model="{name}"}}')
            for name in ("first", "second")
        )

    wait_until(have_ended, "end of all runs")

    assert {answer.code for answer in answers} == {EXCEEDED}
    assert all(answer.after_s >= 1 for answer in answers)
    assert shed.code is UNAVAILABLE
    assert "hold 2 of 4 threads; it is not run until some of them end" in shed.text
    assert [other.code for other in others] == [grpc.StatusCode.OK] * 2
    assert health == 200
    assert rest(server, "/healthz")[0] == 200
    assert ask(1, "same").code is grpc.StatusCode.OK


def test_a_loop_ends_soon_after_its_deadline(serve: Any, wait_until: Any) -> None:
    server = serve("--abandoned_run_seconds=0.1", "--grpc_default_timeout_ms=1000")
    ask = Asks(server, "grpc")
    # What is known to be short would otherwise run where it cannot be stopped.
    for _ in range(20):
        assert ask(3, "serving_default").code is grpc.StatusCode.OK

    assert ask(FOR_EVER, "serving_default").code is EXCEEDED
    wait_until(lambda: metric(server, 'servable_stuck_runs{model="first"}') == 0, "end")
    busy_s = server.cpu_s()
    assert ask(3, "serving_default").code is grpc.StatusCode.OK
    wait_until(lambda: server.cpu_s() - busy_s < 0.2, "rest")


def grpc_call(server: Any, path: str) -> Callable[[], None]:
    """Ask over gRPC; return what cancels the call."""
    channel = grpc.insecure_channel(server.grpc)
    call = predict(channel).future(message(path, "read", "first"))

    def leave() -> None:
        call.cancel()
        channel.close()

    return leave


def rest_call(server: Any, path: str) -> Callable[[], None]:
    """Ask over HTTP; return what closes the connection."""
    connection = socket.create_connection(("127.0.0.1", server.rest_port))
    body = json.dumps({"signature_name": "read", "inputs": path}).encode()
    head = f"POST /v1/models/first:predict HTTP/1.1\r\nContent-Length: {len(body)}"
    connection.sendall(head.encode() + b"\r\n\r\n" + body)
    return connection.close


def rest_call_to_be_reset(server: Any, path: str) -> Callable[[], None]:
    """Ask over HTTP; return what resets the connection."""
    connection = socket.create_connection(("127.0.0.1", server.rest_port))
    body = json.dumps({"signature_name": "read", "inputs": path}).encode()
    head = f"POST /v1/models/first:predict HTTP/1.1\r\nContent-Length: {len(body)}"
    connection.sendall(head.encode() + b"\r\n\r\n" + body)
    at_once = struct.pack("ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    return connection.close


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(grpc_call, id="a call is cancelled"),
        pytest.param(rest_call, id="an HTTP client closes"),
        pytest.param(rest_call_to_be_reset, id="an HTTP client resets"),
    ],
)
def test_what_waits_for_a_client_that_has_left_is_never_run(
    call: Callable[[Any, str], Callable[[], None]],
    serve: Any,
    pipes: Pipes,
    wait_until: Any,
) -> None:
    server = serve()
    ask = Asks(server, "grpc")
    path = pipes.make()
    with asking(ask, [pipes.make() for _ in range(THREADS)]) as running:
        try:
            wait_until(lambda: in_flight(server) == THREADS, "requests in flight")
            leave = call(server, path)
            depth = "servable_compute_queue_depth"
            wait_until(lambda: in_flight(server) == THREADS + 1, "request that came")
            wait_until(lambda: metric(server, depth) == 1, "request that waits")
            leave()
            wait_until(lambda: in_flight(server) == THREADS, "end of its wait")
            wait_until(lambda: metric(server, depth) == 0, "room in the queue")
        finally:
            while not all(one.done() for one in running):
                pipes.release(but=path)
    # What comes after it has been run, and so would it have been.
    assert ask(1, "same").code is grpc.StatusCode.OK

    assert not pipes.has_reader(path)


def test_connections_are_limited_in_all_and_for_each_peer(
    serve: Any, wait_until: Any
) -> None:
    server = serve("--max_connections=6", "--max_connections_per_peer=4")
    count = "servable_connections"

    def connect(address: str, port: int) -> socket.socket:
        connection = socket.create_connection(
            ("127.0.0.1", port), source_address=(address, 0), timeout=PATIENCE_S
        )
        stack.callback(connection.close)
        return connection

    def is_closed(connection: socket.socket) -> bool:
        # An HTTP/2 server speaks first, or closes.
        with contextlib.suppress(ConnectionResetError):
            return connection.recv(1) == b""
        return True

    with contextlib.ExitStack() as stack:
        for port in (server.grpc_port, server.rest_port, server.grpc_port):
            connect("127.0.0.1", port)
        # The one that asks for the metrics is one, too, and may be there for a moment.
        wait_until(lambda: metric(server, count) == 4, "connections")
        wait_until(
            lambda: not is_closed(connect("127.0.0.1", server.grpc_port)), "room"
        )
        assert is_closed(connect("127.0.0.1", server.rest_port))
        assert is_closed(connect("127.0.0.1", server.grpc_port))
        for _ in range(2):
            assert not is_closed(connect("127.0.0.2", server.grpc_port))
        assert is_closed(connect("127.0.0.3", server.rest_port))

    def is_alone() -> bool:
        with contextlib.suppress(OSError):
            return metric(server, count) == 1
        return False

    wait_until(is_alone, "closed connections")

    assert refused(server, "connections_per_peer") >= 2
    assert refused(server, "connections") >= 1
