"""How a server ends while it is asked: nothing is dropped, and nothing hangs."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

import grpc
import httpx

from servable.apis import health_pb2, predict_pb2, prediction_service_pb2_grpc
from servable.client import make_tensor_proto

EACH = 250
# A version loads when there is its file `load`, and answers when there is `answer`.
GATED = """
import os, time
from servable.platforms.python import Signature, TensorSpec

class Model:
    threads = 64

    def load(self, path):
        self.path = path
        self.wait_for("load")

    def wait_for(self, name):
        while not os.path.exists(os.path.join(self.path, name)):
            time.sleep(0.02)

    def signatures(self):
        x = {"x": TensorSpec("float32", [None])}
        return {"serving_default": Signature(x, {"y": TensorSpec("float32", [None])})}

    def run(self, signature_name, inputs):
        self.wait_for("answer")
        return {"y": inputs["x"]}
"""


def write_model(base: Path, *gates: str) -> list[str]:
    """Write the model, and return the flags that serve it."""
    version = base / "m" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(textwrap.dedent(GATED))
    for gate in gates:
        (version / gate).touch()
    return [
        f"--model_base_path={base}/m",
        "--model_name=m",
        "--model_platform=python",
        "--allow_python_models",
        "--enable_grpc_healthcheck_service",
    ]


def request() -> predict_pb2.PredictRequest:
    message = predict_pb2.PredictRequest()
    message.model_spec.name = "m"
    message.inputs["x"].CopyFrom(make_tensor_proto([7.0], "float32"))
    return message


class Asking:
    """Clients of both protocols; each over REST has a connection of its own."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._channel = grpc.insecure_channel(server.grpc)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self.calls: list[Any] = []
        self.connections: list[http.client.HTTPConnection] = []

    def ask(self, count: int) -> None:
        """Send so many requests over each protocol, and wait for no answer."""
        for _ in range(count):
            self.calls.append(self._stub.Predict.future(request(), timeout=60))
            rest = http.client.HTTPConnection("127.0.0.1", self._server.rest_port)
            rest.request("POST", "/v1/models/m:predict", b'{"instances": [7.0]}')
            self.connections.append(rest)

    def answers(self) -> list[tuple[list[float], str]]:
        """Return all answers, over REST with what becomes of the connection."""
        answers = [
            (list(call.result().outputs["y"].float_val), "grpc") for call in self.calls
        ]
        for connection in self.connections:
            response = connection.getresponse()
            predictions = json.loads(response.read())["predictions"]
            answers.append((predictions, response.headers.get("connection", "kept")))
            connection.close()
        return answers

    def health(self) -> str:
        """Return what the health service says."""
        check = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        status = check(health_pb2.HealthCheckRequest(), timeout=20).status
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))

    def close(self) -> None:
        self._channel.close()
        for connection in self.connections:
            connection.close()


def in_flight(server: Any) -> int:
    page = httpx.get(f"{server.rest}/metrics", timeout=20).text
    counts = re.findall(r"^servable_requests_in_flight\{.*\} (\d+)", page, re.MULTILINE)
    return sum(map(int, counts))


def test_nothing_is_dropped_with_500_in_flight_and_more_to_come(
    start: Callable[..., Any],
    wait_until: Callable[[Callable[[], bool], str], None],
    tmp_path: Path,
) -> None:
    server = start(*write_model(tmp_path, "load"), "--lame_duck_seconds=4")
    wait_until(lambda: "Successfully loaded" in server.log(), "model")
    clients = Asking(server)
    assert clients.health() == "SERVING"
    clients.ask(EACH)
    wait_until(lambda: in_flight(server) >= 2 * EACH, "500 requests in flight")

    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: clients.health() == "NOT_SERVING", "failing health check")
    ready = httpx.get(f"{server.rest}/readyz", timeout=20)
    clients.ask(20)
    (tmp_path / "m" / "1" / "answer").touch()
    answers = clients.answers()
    status = server.process.wait(60)

    assert ready.status_code == 503
    assert len(answers) == 2 * (EACH + 20)
    assert {tuple(values) for values, _ in answers} == {(7.0,)}
    assert {fate for _, fate in answers} == {"grpc", "close"}
    assert status == 0
    clients.close()


def test_a_run_that_hangs_is_given_up_when_the_grace_is_over(
    start: Callable[..., Any],
    wait_until: Callable[[Callable[[], bool], str], None],
    tmp_path: Path,
) -> None:
    server = start(*write_model(tmp_path, "load"), "--shutdown_grace_seconds=1")
    wait_until(lambda: "Successfully loaded" in server.log(), "model")
    clients = Asking(server)
    clients.ask(1)
    wait_until(lambda: in_flight(server) >= 2, "request in flight")

    server.process.send_signal(signal.SIGTERM)
    status = server.process.wait(60)

    assert status == 0
    assert clients.calls[0].code() is grpc.StatusCode.UNAVAILABLE
    clients.close()


@pytest.mark.parametrize("wait_for_models", ["true", "false"])
def test_a_load_that_takes_long_does_not_hold_up_the_end(
    start: Callable[..., Any], tmp_path: Path, wait_for_models: str
) -> None:
    server = start(
        *write_model(tmp_path),
        f"--wait_for_models={wait_for_models}",
        "--lame_duck_seconds=1000",
        "--shutdown_grace_seconds=1000",
        opened="Loading servable version",
    )
    server.process.send_signal(signal.SIGTERM)

    assert server.process.wait(60) == 0


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="needs leave to make a namespace of processes",
)
def test_a_server_that_is_process_1_ends_like_any_other(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    in_a_namespace = ("unshare", "--pid", "--fork", "--kill-child")
    server = start(*write_model(tmp_path, "load"), within=in_a_namespace)
    parent = server.process.pid
    (pid,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    numbers = re.search(
        r"^NSpid:(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE
    )

    os.kill(int(pid), signal.SIGTERM)

    assert numbers is not None
    assert numbers[1].split()[-1] == "1"
    assert server.process.wait(60) == 0


def test_an_idle_connection_is_closed_when_the_server_stops(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    server = start(*write_model(tmp_path, "load"), "--shutdown_grace_seconds=1000")
    with (
        socket.create_connection(("127.0.0.1", server.rest_port), 60) as rest,
        socket.create_connection(("127.0.0.1", server.grpc_port), 60) as grpc_port,
    ):
        server.process.send_signal(signal.SIGINT)

        assert rest.recv(1) == b""
        while grpc_port.recv(100):
            pass  # what HTTP/2 begins with
        assert server.process.wait(60) == 0
