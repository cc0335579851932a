"""
A server in this process that answers from recorded exchanges.

`exchanges.json` holds requests and what the real server answered them; a request that
was not recorded is UNIMPLEMENTED.  Both protocols are real: grpcio and HTTP on ports
of their own.
"""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from servable.apis import POOL, predict_pb2
from servable.client import Client
from servable.client.grpc_codec import RPCS
from servable.client.tensors import make_ndarray

EXCHANGES = json.loads((Path(__file__).parent / "exchanges.json").read_text())


@dataclass
class RecordedServer:
    """
    The server; `fail_next` are errors to answer before anything else.

    Attributes:
        calls: what was asked, in order.
        metadata: the gRPC metadata of each call.
    """

    grpc_address: str = ""
    rest_address: str = ""
    calls: list[str] = field(default_factory=list)
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    fail_next: list[grpc.StatusCode] = field(default_factory=list)
    hold: threading.Event | None = None
    exchanges: dict[str, list[Any]] = field(default_factory=lambda: EXCHANGES)

    def address(self, api: str) -> str:
        return self.grpc_address if api == "grpc" else self.rest_address


def canonical(request: Any) -> Any:
    """Return a request so that equal tensors are equal, however they are encoded."""
    document = json_format.MessageToDict(
        request, preserving_proto_field_name=True, descriptor_pool=POOL
    )
    if isinstance(request, predict_pb2.PredictRequest):
        for name, tensor in request.inputs.items():
            array = make_ndarray(tensor)
            document["inputs"][name] = [tensor.dtype, array.shape, str(array.tolist())]
    return document


def parsed(document: Any, kind: type[Any]) -> Any:
    return json_format.ParseDict(document, kind(), descriptor_pool=POOL)


def answer_grpc(server: RecordedServer, path: str) -> Callable[[Any, Any], Any]:
    rpc = next(rpc for rpc in RPCS.values() if rpc.path == path)
    recorded = [
        (canonical(parsed(e["request"], rpc.request)), e)
        for e in server.exchanges["grpc"]
        if e["method"] == path
    ]

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        server.calls.append(path.rpartition("/")[2])
        server.metadata.append(dict(context.invocation_metadata()))
        if server.hold is not None:
            server.hold.wait()
        if server.fail_next:
            context.abort(server.fail_next.pop(0), "told to")
        asked = canonical(request)
        exchange = next((e for wanted, e in recorded if wanted == asked), None)
        if exchange is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"not recorded: {request}")
        if exchange["code"] != "OK":
            context.abort(getattr(grpc.StatusCode, exchange["code"]), exchange["text"])
        return json_format.ParseDict(
            exchange["response"], rpc.response(), descriptor_pool=POOL
        )

    return answer


def start_grpc(server: RecordedServer) -> grpc.Server:
    limits = [("grpc.max_receive_message_length", -1)]
    grpc_server = grpc.server(futures.ThreadPoolExecutor(16), options=limits)
    services: dict[str, dict[str, Any]] = {}
    for rpc in RPCS.values():
        _, service, method = rpc.path.split("/")
        services.setdefault(service, {})[method] = grpc.unary_unary_rpc_method_handler(
            answer_grpc(server, rpc.path),
            request_deserializer=rpc.request.FromString,
            response_serializer=rpc.response.SerializeToString,
        )
    grpc_server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(s, m) for s, m in services.items()]
    )
    server.grpc_address = f"localhost:{grpc_server.add_insecure_port('localhost:0')}"
    grpc_server.start()
    return grpc_server


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    recorded_server: RecordedServer

    def do_GET(self) -> None:
        self._answer("GET", None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer("POST", json.loads(body))

    def _answer(self, method: str, body: Any) -> None:
        server = self.recorded_server
        server.calls.append(f"{method} {self.path}")
        server.metadata.append({k.lower(): v for k, v in self.headers.items()})
        if server.hold is not None:
            server.hold.wait()
        status, text = 501, json.dumps({"error": f"not recorded: {self.path} {body}"})
        if self.path.endswith((":multi_inference", ":reload")):
            status, text = 400, json.dumps({"error": f"Malformed request: {self.path}"})
        for exchange in server.exchanges["rest"]:
            key = (exchange["method"], exchange["path"], exchange.get("body"))
            if key == (method, self.path, body):
                status, text = exchange["status"], exchange["text"]
        if server.fail_next:
            server.fail_next.pop(0)
            status, text = 503, json.dumps({"error": "told to"})
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


def start_rest(server: RecordedServer) -> ThreadingHTTPServer:
    handler = type("BoundHandler", (Handler,), {"recorded_server": server})
    http_server = ThreadingHTTPServer(("localhost", 0), handler)
    http_server.daemon_threads = True
    server.rest_address = f"http://localhost:{http_server.server_port}"
    threading.Thread(target=http_server.serve_forever, args=(0.01,)).start()
    return http_server


@pytest.fixture
def server() -> Iterator[RecordedServer]:
    yield from answering(EXCHANGES)


@pytest.fixture(scope="session", name="answering")
def _answering() -> Callable[..., Iterator[RecordedServer]]:
    return answering


def answering(exchanges: dict[str, list[Any]]) -> Iterator[RecordedServer]:
    """Run a server that answers with these, while the iterator is not exhausted."""
    server = RecordedServer(exchanges=exchanges)
    grpc_server, http_server = start_grpc(server), start_rest(server)
    yield server
    if server.hold is not None:
        server.hold.set()
    grpc_server.stop(None).wait()
    http_server.shutdown()
    http_server.server_close()


@pytest.fixture(params=["grpc", "rest"])
def api(request: pytest.FixtureRequest) -> str:
    param: str = request.param
    return param


@pytest.fixture
def client(server: RecordedServer, api: str) -> Iterator[Client]:
    with Client(server.address(api)) as client:
        yield client
