"""
No error tells a client of the machine: no path, no traceback, no place in a source,
nothing of the environment, no process id.

What is answered to the rows of test_error_rows, and to everything in tests/corpora as
it is, cut short and changed, is looked through.
"""

import importlib.util
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from servable.client import Client
from servable.errors import InvalidArgument

pytest.importorskip("servable._engine")

CORPORA = Path(__file__).parents[1] / "corpora"
PLACES = 5
PREDICTION = "/tensorflow.serving.PredictionService"
METHODS = (
    *(f"{PREDICTION}/{name}" for name in ("Predict", "Classify", "Regress")),
    *(f"{PREDICTION}/{name}" for name in ("MultiInference", "GetModelMetadata")),
    "/tensorflow.serving.ModelService/GetModelStatus",
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
    "/tensorflow.serving.SessionService/SessionRun",
    "/servable.Administration/AddModel",
    "/tensorflow.ProfilerService/Profile",
)
TARGETS = (
    *("models/m:predict", "models/m:classify", "models/m:regress"),
    *("models/m:multi_inference", "config:reload"),
)
# The head of a path that there may be on a machine; REST repeats targets under /v1/.
PATH = re.compile(
    r"(?<![\w.:])/(?:bin|data|dev|etc|home|lib|mnt|opt|private|proc|root|run|srv|sys|"
    r"tmp|usr|var|work)/\w"
)
PLACE = re.compile(r"\w+\.(?:py|rs|cc|cpp|h|c):\d+|\bline \d+, in\b|Traceback|panicked")


def leaks(text: str, server: Any) -> list[str]:
    """Return what *text* tells of the machine."""
    found = [match[0] for kind in (PATH, PLACE) for match in kind.finditer(text)]
    found += re.findall(rf"\b{server.process.pid}\b", text)
    return found + [
        value
        for value in (*os.environ.values(), sys.prefix, os.getcwd())  # noqa: PTH109
        # Shorter ones stand in words by chance.
        if len(value) >= 8 and value in text
    ]


@pytest.fixture(scope="module")
def server(
    start: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    write_version: Callable[..., Path],
) -> Any:
    version = write_version(tmp_path_factory.mktemp("models") / "m" / "1")
    return start(
        *(f"--model_base_path={version.parent}", "--model_name=m"),
        *("--wait_for_models=true", "--rest_api_extensions"),
        *("--enable_session_service", "--max_body_bytes=4194304"),
    )


def variations(corpus: str) -> Iterator[bytes]:
    for file in sorted((CORPORA / corpus).iterdir()):
        data = file.read_bytes()
        yield data
        for at in range(0, len(data), -(-len(data) // PLACES) or 1):
            yield data[:at]
            yield data[:at] + b"\xff" + data[at + 1 :]


def rows() -> dict[str, Any]:
    path = Path(__file__).with_name("test_error_rows.py")
    spec = importlib.util.spec_from_file_location("error_rows", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["error_rows"] = module
    spec.loader.exec_module(module)
    found: dict[str, Any] = module.ROWS
    return found


def details(channel: grpc.Channel, method: str, message: bytes) -> str:
    ask: Any = channel.unary_unary(method)
    try:
        ask(message, timeout=60)
    except grpc.RpcError as error:
        return f"{error.details()} {error.trailing_metadata()}"
    return ""


def test_no_error_that_is_specified_leaks(server: Any) -> None:
    said = []
    with grpc.insecure_channel(server.grpc) as channel, httpx.Client() as rest:
        for row in rows().values():
            if row.grpc is not None:
                method, request = row.grpc
                said.append(details(channel, method, request.SerializeToString()))
            if row.rest is not None:
                method, target, body = row.rest
                content = body if isinstance(body, bytes) else json.dumps(body)
                response = rest.request(method, server.rest + target, content=content)
                said.append(f"{response.headers} {response.text}")

    assert len(said) > 50
    assert [(text, found) for text in said if (found := leaks(text, server))] == []


def test_no_answer_to_a_broken_message_leaks(server: Any) -> None:
    messages = [b"", b"\x0a\x7f", *variations("protobuf")]
    with grpc.insecure_channel(server.grpc) as channel:
        # A prime number of variations of a file meets each method in turn.
        said = {
            details(channel, METHODS[number % len(METHODS)], message)
            for number, message in enumerate(messages)
        }

    assert len(said) > 10
    assert [(text, found) for text in said if (found := leaks(text, server))] == []


def test_no_answer_to_a_broken_document_leaks(server: Any) -> None:
    said = set()
    with httpx.Client(timeout=60) as rest:
        for number, body in enumerate(variations("json")):
            target = TARGETS[number % len(TARGETS)]
            response = rest.post(f"{server.rest}/v1/{target}", content=body)
            said.add(f"{response.headers['Content-Type']} {response.text}")
        for corpus, header in (
            ("gzip", {"Content-Encoding": "gzip"}),
            ("npy", {"Content-Type": "application/x-npy"}),
        ):
            url = f"{server.rest}/v1/models/m:predict"
            for body in variations(corpus):
                said.add(rest.post(url, content=body, headers=header).text)

    assert len(said) > 50
    assert [(text, found) for text in said if (found := leaks(text, server))] == []


def exchanged(server: Any, data: bytes) -> str:
    """Send bytes as they are, and return everything that is answered."""
    address = "127.0.0.1", server.rest_port
    with socket.create_connection(address, timeout=30) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode(
                errors="replace"
            )
        except ConnectionError:
            return ""


def test_no_answer_to_a_broken_request_leaks(server: Any) -> None:
    said = {exchanged(server, data) for data in variations("http")}
    for target in variations("url"):
        said.add(exchanged(server, b"GET " + target + b" HTTP/1.0\r\n\r\n"))

    assert len(said) > 10
    assert [(text, found) for text in said if (found := leaks(text, server))] == []


def test_a_client_writes_no_line_of_a_log_of_objects(
    start: Any, write_version: Any, tmp_path: Path
) -> None:
    base_path = write_version(tmp_path / "half_plus_two" / "1").parent
    server = start(str(base_path), "--wait_for_models", "--log_format=json")
    inputs = {"inputs": [b"\xff\nforged"]}
    # TensorFlow tells of it in the log, too, before it is answered.
    with (
        Client(server.grpc) as client,
        pytest.raises(InvalidArgument, match="\nforged"),
    ):
        client.predict("half_plus_two", inputs, signature="regress")

    assert "forged" not in server.log()


def test_what_leaks_is_found(server: Any) -> None:
    for text in (
        "cannot open /etc/passwd",
        'File "/tmp/x"',
        "session.cc:123",
        "Traceback (most recent call last)",
        f"process {server.process.pid} ended",
        f"it is {os.environ['PATH']}",
    ):
        assert leaks(text, server), text
    assert leaks("Malformed request: GET /v1/models/x/y 0.5", server) == []
