"""The C++ client and a real server; `cpp/client_checks.cpp` asks what is asserted."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip("servable._engine")

from servable.apis import POOL, predict_pb2
from servable.client import make_tensor_proto

# Compiling is most of it, and other things may run beside.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
SOURCES = Path(__file__).parent / "cpp"
CLIENT = ROOT / "cpp" / "client"


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name}")
    return path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client as CMake installs it."""
    for name in ("cmake", "g++", "protoc", "pkg-config"):
        tool(name)
    packages = ["pkg-config", "--exists", "grpc++", "protobuf"]
    if subprocess.run(packages, check=False).returncode != 0:
        pytest.skip("libgrpc++-dev is not installed")
    build = tmp_path_factory.mktemp("client")
    prefix = build / "prefix"
    flags = "-O0 -Wall -Wextra -Werror"
    for command in (
        ["cmake", "-S", CLIENT, "-B", build, "-DCMAKE_BUILD_TYPE=None"],
        ["cmake", f"-DCMAKE_CXX_FLAGS={flags}", build],
        ["cmake", "--build", build, "--parallel", str(os.cpu_count())],
        ["cmake", "--install", build, "--prefix", prefix],
    ):
        run_quietly(command)
    shutil.copy(build / "ask", prefix / "ask")
    return prefix


@pytest.fixture(scope="module")
def checks(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that finds the client as a package of CMake's."""
    project = tmp_path_factory.mktemp("checks")
    (project / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\n"
        "project(checks LANGUAGES CXX)\n"
        "find_package(servable_client 0.1 REQUIRED)\n"
        f"add_executable(checks {SOURCES / 'client_checks.cpp'})\n"
        "target_compile_options(checks PRIVATE -Wall -Wextra -Werror)\n"
        "target_link_libraries(checks PRIVATE servable::client)\n"
    )
    build = project / "build"
    run_quietly(
        ["cmake", "-S", project, "-B", build, f"-DCMAKE_PREFIX_PATH={installed}"]
    )
    run_quietly(["cmake", "--build", build])
    return build / "checks"


@pytest.fixture(scope="module")
def base(
    write_version: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    base = tmp_path_factory.mktemp("models") / "half_plus_two"
    for version, two in ((1, 2.0), (2, 3.0)):
        write_version(base / str(version), two=two)
    return base


@pytest.fixture(scope="module")
def server(start: Callable[..., Any], base: Path) -> Any:
    config = base.parent / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "half_plus_two" base_path: "{base}" '
        'model_platform: "tensorflow" model_version_policy { all {} } '
        'version_labels { key: "stable" value: 1 } } }'
    )
    flag = "--allow_version_labels_for_unavailable_models=true"
    return start(f"--model_config_file={config}", "--wait_for_models=true", flag)


PREDICTED = """\
version 2: float32[3] 3.5 4 5.5
version 1: float32[3] 2.5 3 4.5
label stable: version 1
1 output: float32[] 3
output: NOT_FOUND: the answer has no output half
"""

ECHOED = """\
FLOAT same
INT8 same
BOOL same
UINT16 same
COMPLEX64 same
COMPLEX128 same
HALF same
BFLOAT16 same
STRING same
empty float32[0]
"""

EXAMPLES = """\
version 2: 4 5.5
2 examples: [] 4.5 [] 4.5
"""

DESCRIBED = """\
version 2: regress tensorflow/serving/regress inputs string[?]
version 2 available 1 OK
version 1 available 1 OK
"""

REFUSED = """\
model: NOT_FOUND: Servable not found for request: Latest(no_such)
version: NOT_FOUND: Servable not found for request: Specific(half_plus_two, 9)
label: INVALID_ARGUMENT: Unrecognized servable version label: no_such
signature: FAILED_PRECONDITION: Serving signature key "no_such" not found.
dtype: INVALID_ARGUMENT: Expects arg[0] to be float but int32 is provided
tensor: INVALID_ARGUMENT: a tensor that was never given anything is no input
element: INVALID_ARGUMENT: the elements are of type float32, and are asked for as \
float64
index: OUT_OF_RANGE: there is no element 1 of 1
no time: DEADLINE_EXCEEDED: a timeout of 0 ms leaves no time for a call
ready: DEADLINE_EXCEEDED: the model no_such was not ready within 200 ms: \
NOT_FOUND: Could not find any versions of model no_such
"""


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        pytest.param(
            "predict", PREDICTED, id="versions, labels and outputs are chosen"
        ),
        pytest.param("types", ECHOED, id="every type comes back as it went in"),
        pytest.param("examples", EXAMPLES, id="examples are classified and regressed"),
        pytest.param("describe", DESCRIBED, id="signatures and states are told"),
        pytest.param("refused", REFUSED, id="what is wrong is told"),
        pytest.param("threads", "wrong: 0\n", id="many threads share a client"),
        pytest.param("ready", "float32[1] 3.5\n", id="a model that is ready is asked"),
    ],
)
def test_a_program_gets(check: str, expected: str, checks: Path, server: Any) -> None:
    assert ask(checks, check, server.grpc) == (0, expected)


def test_the_example_asks_a_server(installed: Path, server: Any) -> None:
    done = subprocess.run(
        [installed / "ask", server.grpc, "half_plus_two", "1", "2", "5"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "version 2 takes x: float32[?]\ny: 3.5 4 5.5\n"


def test_a_server_that_is_not_there_is_unavailable(
    checks: Path, tmp_path: Path
) -> None:
    code, output = ask(checks, "dead", f"unix:{tmp_path}/none")

    assert code == 1
    assert output.startswith("UNAVAILABLE: ")


class Scripted(grpc.GenericRpcHandler):
    """Answers every Predict as the script says."""

    def __init__(self, script: list[grpc.StatusCode | None]) -> None:
        self.script = script
        self.authorizations: list[str] = []

    def service(self, details: Any) -> Any:
        assert details.method == "/tensorflow.serving.PredictionService/Predict"
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, _request: bytes, context: Any) -> bytes:
        metadata = dict(context.invocation_metadata())
        self.authorizations.append(metadata.get("authorization", ""))
        code = self.script.pop(0)
        if code is not None:
            context.abort(code, "as the script says")
        response = predict_pb2.PredictResponse()
        response.outputs["y"].CopyFrom(make_tensor_proto([7.0], "float32"))
        return response.SerializeToString()


@pytest.fixture
def scripted() -> Iterator[Callable[..., tuple[str, Scripted]]]:
    servers: list[Any] = []

    def start(*script: grpc.StatusCode | None) -> tuple[str, Scripted]:
        handler = Scripted(list(script))
        server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[handler])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}", handler

    yield start
    for server in servers:
        server.stop(0).wait()


UNAVAILABLE, ABORTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param(
            [UNAVAILABLE, UNAVAILABLE, None],
            (0, "float32[1] 7\n"),
            id="an unavailable server is tried again",
        ),
        pytest.param(
            [UNAVAILABLE] * 4,
            (1, "UNAVAILABLE: as the script says\n"),
            id="and not for ever",
        ),
        pytest.param(
            [ABORTED], (1, "ABORTED: as the script says\n"), id="others are not"
        ),
    ],
)
def test_attempts_go_with_their_token(
    script: list[grpc.StatusCode | None],
    expected: tuple[int, str],
    checks: Path,
    scripted: Callable[..., tuple[str, Scripted]],
) -> None:
    address, handler = scripted(*script)

    assert ask(checks, "token", address) == expected
    assert handler.authorizations == ["Bearer secret"] * len(script)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root, and what it says of server and client."""
    openssl = tool("openssl")
    directory = tmp_path_factory.mktemp("certificates")

    def run(*arguments: str) -> None:
        run_quietly([openssl, *arguments], cwd=directory)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    (directory / "extensions").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.csr")
        run("req", *key, *files, "-subj", f"/CN={name}")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        files = ("-in", f"{name}.csr", "-out", f"{name}.pem")
        run("x509", "-req", *files, *signing, "-extfile", "extensions")
    return directory


@pytest.fixture(scope="module")
def secured(start: Callable[..., Any], certificates: Path, base: Path) -> Any:
    """A server that asks its clients for certificates."""

    def quoted(name: str) -> str:
        return (certificates / name).read_text().replace("\n", "\\n")

    config = certificates / "ssl.config"
    config.write_text(
        f'server_key: "{quoted("server.key")}" server_cert: "{quoted("server.pem")}" '
        f'custom_ca: "{quoted("ca.pem")}" client_verify: true'
    )
    return start(
        "--model_name=half_plus_two",
        f"--model_base_path={base}",
        "--wait_for_models=true",
        f"--ssl_config_file={config}",
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            ["ca.pem", "client.pem", "client.key"],
            (0, "float32[1] 3.5\n"),
            id="with a certificate of its own",
        ),
        pytest.param(["ca.pem"], (1, "UNAVAILABLE"), id="without one"),
        pytest.param(
            ["client.pem", "client.pem", "client.key"],
            (1, "UNAVAILABLE"),
            id="trusting somebody else",
        ),
    ],
)
def test_a_server_with_tls_is_asked(
    files: list[str],
    expected: tuple[int, str],
    checks: Path,
    certificates: Path,
    secured: Any,
) -> None:
    paths = [str(certificates / name) for name in files]
    code, output = ask(checks, "tls", secured.grpc, *paths)

    assert (code, output[: len(expected[1])]) == expected


def test_the_clients_part_of_the_signatures_is_that_of_the_contract() -> None:
    text = (CLIENT / "proto" / "signature_def.proto").read_text()
    messages = re.findall(
        r"^message (\w+) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL
    )
    assert len(messages) == 5
    for name, body in messages:
        package = (
            "tensorflow"
            if name in ("SignatureDef", "TensorInfo")
            else "tensorflow.serving"
        )
        fields = POOL.FindMessageTypeByName(f"{package}.{name}").fields_by_name
        for field, number in re.findall(r"(\w+) = (\d+);", body):
            assert fields[field].number == int(number), f"{name}.{field}"


def ask(program: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


def run_quietly(command: list[Any], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
