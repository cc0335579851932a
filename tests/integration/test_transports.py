"""TLS and HTTP/2 on the REST port, and certificates that are replaced meanwhile."""

import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

pytest.importorskip("h2")
pytest.importorskip("servable._engine")

TARGET = "/v1/models/m:predict"
BODY = {"instances": [1.0, 2.0]}
ANSWER = {"predictions": [2.5, 3.0]}


class Authority:
    """Makes certificates in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._run(
            *("req", "-x509", *self._key("ca"), "-out", "ca.pem"),
            *("-days", "2", "-subj", "/CN=test root"),
        )

    def certify(self, name: str, subject: str) -> tuple[str, str]:
        """Return key and certificate of somebody at this machine, as PEM texts."""
        extensions = self.directory / f"{name}.ext"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self._run("req", *self._key(name), "-out", f"{name}.csr", "-subj", subject)
        self._run(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey"),
            *("ca.key", "-CAcreateserial", "-out", f"{name}.pem", "-days", "2"),
            *("-extfile", f"{name}.ext"),
        )
        return self.read(f"{name}.key"), self.read(f"{name}.pem")

    def read(self, name: str) -> str:
        return (self.directory / name).read_text()

    def context(self, client: str = "") -> ssl.SSLContext:
        """Return what trusts this authority, and shows the certificate of *client*."""
        context = ssl.create_default_context(cafile=str(self.directory / "ca.pem"))
        if client:
            certificate, key = (f"{client}.pem", f"{client}.key")
            context.load_cert_chain(self.directory / certificate, self.directory / key)
        return context

    def _key(self, name: str) -> tuple[str, ...]:
        curve = ("-pkeyopt", "ec_paramgen_curve:prime256v1")
        return ("-newkey", "ec", *curve, "-nodes", "-keyout", f"{name}.key")

    def _run(self, *arguments: str) -> None:
        command = ["openssl", *arguments]
        done = subprocess.run(
            command, cwd=self.directory, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make certificates")
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def base_path(
    tmp_path_factory: pytest.TempPathFactory, write_version: Callable[..., Path]
) -> Path:
    return write_version(tmp_path_factory.mktemp("models") / "m" / "1").parent


@pytest.fixture(scope="module")
def plain(start: Callable[..., Any], base_path: Path) -> Any:
    limits = ("--max_body_bytes=4096", "--rest_compression_min_bytes=2000")
    model = (f"--model_base_path={base_path}", "--model_name=m")
    return start(*model, "--wait_for_models=true", *limits)


def ssl_config(
    path: Path, key: str, certificate: str, ca: str = "", *, verify: bool = False
) -> Path:
    """Write an SSLConfig file."""
    fields = {"server_key": key, "server_cert": certificate, "custom_ca": ca}
    lines = [f"{name}: {json.dumps(text)}" for name, text in fields.items() if text]
    if verify:
        lines.append("client_verify: true")
    beside = path.with_suffix(".new")
    beside.write_text("\n".join(lines))
    return beside.rename(path)


@pytest.fixture(scope="module")
def secure(
    start: Callable[..., Any],
    base_path: Path,
    authority: Authority,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    path = tmp_path_factory.mktemp("ssl") / "ssl.config"
    ssl_config(path, *authority.certify("server", "/CN=server"))
    model = (f"--model_base_path={base_path}", "--model_name=m")
    return start(*model, "--wait_for_models=true", f"--rest_api_ssl_config_file={path}")


def client(protocol: str, context: ssl.SSLContext | bool = True) -> httpx.Client:
    is_2 = protocol == "HTTP/2"
    return httpx.Client(http1=not is_2, http2=is_2, verify=context)


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2"])
def test_a_plain_port_speaks_what_the_client_begins_with(
    plain: Any, protocol: str
) -> None:
    with client(protocol) as session:
        answers = [session.post(f"{plain.rest}{TARGET}", json=BODY) for _ in range(3)]

    assert [answer.http_version for answer in answers] == [protocol] * 3
    assert [answer.json() for answer in answers] == [ANSWER] * 3


ALIKE = {
    "an answer": ("POST", TARGET, b'{"instances": [1.0]}', {}),
    "an error": ("POST", TARGET, b"{}", {}),
    "no such model": ("GET", "/v1/models/none", b"", {}),
    "a malformed target": ("POST", "/v1/models/m:train", b"", {}),
    "a target beyond the API": ("GET", "/elsewhere", b"", {}),
    "a bad escape": ("GET", "/v1/models/%zz", b"", {}),
    "a query that is part of a name": ("GET", "/v1/models/m?x=1", b"", {}),
    "a method that is not served": ("TRACE", TARGET, b"", {}),
    "HEAD": ("HEAD", "/v1/models/m", b"", {}),
    "a preflight": ("OPTIONS", TARGET, b"", {"Origin": "http://a"}),
    "a body that is too large": ("POST", TARGET, b" " * 5000, {}),
    "too many fields": ("GET", "/v1/models/m", b"", {f"a{n}": "" for n in range(120)}),
    "a probe": ("GET", "/healthz", b"", {}),
    "a compressed answer": (
        "POST",
        TARGET,
        b'{"instances": [' + b"1," * 500 + b"1]}",
        {"Accept-Encoding": "gzip"},
    ),
}


@pytest.mark.parametrize(
    ("method", "target", "body", "fields"), ALIKE.values(), ids=ALIKE
)
def test_both_protocols_answer_alike(
    plain: Any, method: str, target: str, body: bytes, fields: dict[str, str]
) -> None:
    answers = []
    for protocol in ("HTTP/1.1", "HTTP/2"):
        with client(protocol) as session:
            answer = session.request(
                method, f"{plain.rest}{target}", content=body, headers=fields
            )
        names = ("content-type", "content-length", "content-encoding", "vary")
        shown = {name: answer.headers.get(name) for name in names}
        answers.append((answer.status_code, answer.content, shown))

    assert answers[0] == answers[1]


def test_many_requests_share_a_connection(plain: Any) -> None:
    with client("HTTP/2") as session:
        answers = [
            session.post(f"{plain.rest}{TARGET}", json={"inputs": [float(n)]})
            for n in range(300)
        ]

    expected = [{"outputs": [n / 2 + 2]} for n in range(300)]
    assert [answer.json() for answer in answers] == expected


@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2"])
def test_tls_offers_both_protocols(
    secure: Any, authority: Authority, protocol: str
) -> None:
    url = f"https://127.0.0.1:{secure.rest_port}{TARGET}"
    with client(protocol, authority.context()) as session:
        answer = session.post(url, json=BODY)

    assert (answer.http_version, answer.json()) == (protocol, ANSWER)


def test_tls_takes_no_plain_request(secure: Any) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.post(f"{secure.rest}{TARGET}", json=BODY)


def test_grpc_stays_plain_beside_it(secure: Any) -> None:
    assert secure.is_serving("m")


def mutual(authority: Authority, directory: Path) -> Path:
    """Write an SSLConfig file that asks clients for certificates, and make one."""
    key, certificate = authority.certify("mutual", "/CN=server")
    authority.certify("client", "/CN=client")
    ca = authority.read("ca.pem")
    return ssl_config(directory / "ssl.config", key, certificate, ca, verify=True)


def test_a_client_shows_who_it_is_where_that_is_asked(
    start: Callable[..., Any], base_path: Path, authority: Authority, tmp_path: Path
) -> None:
    path = mutual(authority, tmp_path)
    model = (f"--model_base_path={base_path}", "--model_name=m")
    server = start(
        *model, "--wait_for_models=true", f"--rest_api_ssl_config_file={path}"
    )
    url = f"https://127.0.0.1:{server.rest_port}{TARGET}"

    for protocol in ("HTTP/1.1", "HTTP/2"):
        with client(protocol, authority.context("client")) as session:
            assert session.post(url, json=BODY).json() == ANSWER
        with (
            client(protocol, authority.context()) as session,
            pytest.raises(httpx.TransportError),
        ):
            session.post(url, json=BODY)


def test_the_shell_completes_models_of_a_server_that_asks_who_one_is(
    start: Callable[..., Any], base_path: Path, authority: Authority, tmp_path: Path
) -> None:
    path = mutual(authority, tmp_path)
    server = start(f"--model_base_path={base_path}", f"--ssl_config_file={path}")
    files = {"ca": "ca.pem", "cert": "client.pem", "key": "client.key"}
    options = [f"--tls-{name}={authority.directory / files[name]}" for name in files]

    done = subprocess.run(
        [sys.executable, "-m", "servable"],
        env={
            **os.environ,
            "_SERVABLE_COMPLETE": "bash_complete",
            "COMP_WORDS": f"servable predict {' '.join(options)} def",
            "COMP_CWORD": "5",
            "SERVABLE_ADDRESS": f"localhost:{server.grpc_port}",
        },
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == ["plain,default"]


def subject(port: int) -> str:
    certificate = ssl.get_server_certificate(("127.0.0.1", port))
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-subject"],
        input=certificate.encode(),
        capture_output=True,
        check=True,
    )
    return shown.stdout.decode().strip().rpartition("=")[2].strip()


def test_certificates_are_replaced_on_both_ports_without_a_restart(
    start: Callable[..., Any],
    base_path: Path,
    authority: Authority,
    tmp_path: Path,
    wait_until: Callable[[Callable[[], bool], str], None],
) -> None:
    path = ssl_config(tmp_path / "s", *authority.certify("old", "/CN=old"))
    server = start(
        *(f"--model_base_path={base_path}", "--model_name=m"),
        *("--wait_for_models=true", "--ssl_config_poll_wait_seconds=1"),
        *(f"--rest_api_ssl_config_file={path}", f"--ssl_config_file={path}"),
    )
    ports = (server.grpc_port, server.rest_port)
    root = authority.read("ca.pem").encode()
    credentials = grpc.ssl_channel_credentials(root)
    assert [subject(port) for port in ports] == ["old", "old"]
    with (
        client("HTTP/1.1", authority.context()) as session,
        grpc.secure_channel(f"127.0.0.1:{ports[0]}", credentials) as channel,
    ):
        url = f"https://127.0.0.1:{server.rest_port}{TARGET}"
        status: Any = channel.unary_unary(
            "/tensorflow.serving.ModelService/GetModelStatus"
        )
        message = b"\x0a\x03\x0a\x01m"
        assert status(message, timeout=30)
        assert session.post(url, json=BODY).json() == ANSWER

        path.write_text("server_key: 'x' server_cert: 'y'")
        wait_until(lambda: "stay as they are" in server.log(), "complaint")
        assert [subject(port) for port in ports] == ["old", "old"]

        ssl_config(path, *authority.certify("new", "/CN=new"))
        wait_until(lambda: subject(ports[1]) == "new", "new certificate over REST")
        wait_until(lambda: subject(ports[0]) == "new", "new certificate over gRPC")
        # What was connected stays so.
        assert status(message, timeout=30)
        assert session.post(url, json=BODY).json() == ANSWER
