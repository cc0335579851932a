"""A server that the system gives no more memory, and requests that are allowed it."""

import contextlib
import gzip
import http.client
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

from servable.apis import predict_pb2, types_pb2
from servable.client import Client, make_tensor_proto

PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
# What the server may have beside what it has once it has answered a few requests.
SPARE: Final = 32 << 20
LARGE: Final = 64 << 20
# The allocator asks the system for so much at a time, and not for a gibibyte.
ENVIRONMENT: Final = {"MIMALLOC_ARENA_RESERVE": "64MiB"}


def request(signature: str, dtype: str, size: int) -> predict_pb2.PredictRequest:
    """Return a request of a tensor of which nothing but type and size is said."""
    made = predict_pb2.PredictRequest()
    made.model_spec.name, made.model_spec.signature_name = "m", signature
    made.inputs["x"].dtype = getattr(types_pb2, dtype)
    made.inputs["x"].tensor_shape.dim.add(size=size)
    return made


def message() -> bytes:
    made = request("serving_default", "DT_FLOAT", 0)
    values = np.zeros(LARGE // 4, np.float32)
    made.inputs["x"].CopyFrom(make_tensor_proto(values))
    return made.SerializeToString()


def tensor() -> bytes:
    return request("serving_default", "DT_FLOAT", LARGE // 4).SerializeToString()


def strings() -> bytes:
    return request("echo_STRING", "DT_STRING", LARGE // 24).SerializeToString()


def document() -> bytes:
    # Too irregular to be refused for what it was compressed to.
    return b'{"instances": [%s]}' % ",".join(map(str, range(1 << 21))).encode()


@pytest.fixture(scope="module")
def server(start: Any, write_version: Any, tmp_path_factory: Any) -> Any:
    base_path = tmp_path_factory.mktemp("models") / "m"
    write_version(base_path / "1")
    server = start(str(base_path), "--wait_for_models", environment=ENVIRONMENT)
    assert_answers(server)
    assert ask(server, b'{"instances": [1.0]}', {})[0] == http.client.OK
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (kib,) = re.findall(r"^VmSize:\s+(\d+) kB$", status, re.MULTILINE)
    limit = int(kib) * 1024 + SPARE
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (limit, limit))
    return server


def assert_answers(server: Any) -> None:
    with Client(server.grpc) as client:
        assert client.predict("m", [1.0])["y"].tolist() == [2.5]


@pytest.mark.parametrize(
    ("make", "compression"),
    [
        pytest.param(message, grpc.Compression.NoCompression, id="a large message"),
        pytest.param(message, grpc.Compression.Gzip, id="one that is inflated"),
        pytest.param(tensor, grpc.Compression.NoCompression, id="a large tensor"),
        pytest.param(strings, grpc.Compression.NoCompression, id="many strings"),
    ],
)
def test_a_call_for_which_there_is_no_memory_is_refused(
    make: Callable[[], bytes], compression: grpc.Compression, server: Any
) -> None:
    with grpc.insecure_channel(
        server.grpc, options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        call: Any = channel.unary_unary(PREDICT)
        with pytest.raises(grpc.RpcError) as refused:
            call(make(), timeout=60, compression=compression)

    error: Any = refused.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details().startswith("There is no memory for the "), error.details()
    assert_answers(server)


def ask(server: Any, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/models/m:predict", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(document(), {}, id="a document"),
        pytest.param(
            gzip.compress(document(), 1),
            {"Content-Encoding": "gzip"},
            id="one that is inflated",
        ),
    ],
)
def test_a_request_for_which_there_is_no_memory_is_refused(
    body: bytes, headers: dict[str, str], server: Any
) -> None:
    status, text = ask(server, body, headers)

    assert status == http.client.TOO_MANY_REQUESTS
    assert "There is no memory for the " in text
    assert_answers(server)
