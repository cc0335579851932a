"""TLS and mutual TLS, over both protocols, with certificates made for the test."""

import asyncio
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from servable.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
)
from servable.client import AsyncClient, Client, Tls
from servable.errors import InvalidArgument, Unavailable


@dataclass(frozen=True)
class Certificates:
    directory: Path

    def tls(self, **options: Any) -> Tls:
        return Tls(
            self.directory / "ca.pem",
            self.directory / "client.pem",
            self.directory / "client.key",
            **options,
        )

    def read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make certificates")
    directory = tmp_path_factory.mktemp("certificates")

    def run(*arguments: str) -> None:
        subprocess.run(
            [openssl, *arguments], cwd=directory, check=True, capture_output=True
        )

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run(
        *("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2"),
        *("-subj", "/CN=test root"),
    )
    (directory / "server.ext").write_text("subjectAltName=DNS:served.example\n")
    (directory / "client.ext").write_text("subjectAltName=DNS:client.example\n")
    for name in ("server", "client"):
        subject = ("-subj", f"/CN={name}")
        run("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", *subject)
        run(
            *(
                "x509",
                "-req",
                "-in",
                f"{name}.csr",
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
            ),
            *("-CAcreateserial", "-out", f"{name}.pem", "-days", "2"),
            *("-extfile", f"{name}.ext"),
        )
    return Certificates(directory)


class Models(model_service_pb2_grpc.ModelServiceServicer):
    def GetModelStatus(  # noqa: N802 - the RPC's name
        self,
        request: get_model_status_pb2.GetModelStatusRequest,
        context: grpc.ServicerContext,
    ) -> get_model_status_pb2.GetModelStatusResponse:
        del request, context
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(version=5, state=30)
        return response


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"model_version_status": [{"version": "5", "state": "AVAILABLE"}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A client that is refused is what is tested; it is no news."""


@pytest.fixture
def address(api: str, certificates: Certificates) -> Iterator[str]:
    if api == "grpc":
        server = grpc.server(futures.ThreadPoolExecutor(2))
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(), server)
        credentials = grpc.ssl_server_credentials(
            [(certificates.read("server.key"), certificates.read("server.pem"))],
            certificates.read("ca.pem"),
            require_client_auth=True,
        )
        port = server.add_secure_port("localhost:0", credentials)
        server.start()
        yield f"grpcs://localhost:{port}"
        server.stop(None).wait()
        return
    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=certificates.directory / "ca.pem"
    )
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(
        certificates.directory / "server.pem", certificates.directory / "server.key"
    )
    http_server = QuietServer(("localhost", 0), Handler)
    # The handshake belongs to the connection's thread, not to the one that accepts.
    http_server.socket = context.wrap_socket(
        http_server.socket, server_side=True, do_handshake_on_connect=False
    )
    threading.Thread(target=http_server.serve_forever, args=(0.01,)).start()
    yield f"https://localhost:{http_server.server_port}"
    http_server.shutdown()
    http_server.server_close()


def test_both_sides_show_who_they_are(address: str, certificates: Certificates) -> None:
    tls = certificates.tls(server_name="served.example")
    with Client(address, tls=tls) as client:
        assert client.status("m")[0].version == 5


@pytest.mark.parametrize(
    "tls",
    [
        pytest.param(lambda c: c.tls(), id="a server of another name"),
        pytest.param(lambda _: True, id="a root that is not trusted"),
        pytest.param(
            lambda c: Tls(c.directory / "ca.pem", server_name="served.example"),
            id="a client without a certificate",
        ),
    ],
)
def test_strangers_are_refused(
    address: str, certificates: Certificates, tls: Any
) -> None:
    async def ask() -> None:
        async with AsyncClient(address, tls=tls(certificates), timeout=5) as client:
            await client.status("m")

    with (
        Client(address, tls=tls(certificates), timeout=5) as client,
        pytest.raises(Unavailable, match=r"was not reached.*certificate one that tls="),
    ):
        client.status("m")
    with pytest.raises(
        Unavailable, match=r"was not reached.*certificate one that tls="
    ):
        asyncio.run(ask())


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        pytest.param(
            lambda d: Tls(d / "nowhere.pem"),
            "ca=.*nowhere.pem cannot be used: .*No such file",
            id="no file",
        ),
        pytest.param(
            lambda d: Tls(d / "server.ext"),
            "ca=.*server.ext cannot be used",
            id="roots that are none",
        ),
        pytest.param(
            lambda d: Tls(d / "ca.pem", d / "client.pem", d / "server.key"),
            "certificate=.*client.pem and key=.*server.key cannot be used",
            id="the key of another certificate",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(
    api: str, certificates: Certificates, tls: Any, said: str
) -> None:
    address = "localhost:1" if api == "grpc" else "https://localhost:1"

    with pytest.raises(InvalidArgument, match=said):
        Client(address, tls=tls(certificates.directory))
