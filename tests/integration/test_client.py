"""The client against the real server, over both protocols."""

import asyncio
import importlib.util
import io
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servable.apis import saved_model_pb2, types_pb2
from servable.client import AsyncClient, Client, make_tensor_proto
from servable.client.dtypes import DTYPES
from servable.errors import InvalidArgument, NotFound

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

REST_TYPES = (
    *("float32", "float64", "bool", "string"),
    *("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"),
)
GRPC_TYPES = (*REST_TYPES, "float16", "bfloat16", "uint16", "complex64", "complex128")


def saved_model() -> saved_model_pb2.SavedModel:
    """A model that needs no TensorFlow to be made: x / 2 + 2, and an echo by type."""
    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta_graph = model.meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    graph = meta_graph.graph_def
    graph.versions.producer = 1882

    def node(name: str, op: str, *inputs: str, number: int, dtype: str = "T") -> None:
        made = graph.node.add(name=name, op=op, input=inputs)
        made.attr[dtype].type = number  # type: ignore[assignment]

    def tell(signature: str, direction: str, name: str, tensor: str, n: int) -> None:
        info = getattr(meta_graph.signature_def[signature], direction)[name]
        info.name, info.dtype = f"{tensor}:0", n
        info.tensor_shape.dim.add(size=-1)
        meta_graph.signature_def[signature].method_name = "tensorflow/serving/predict"

    node("x", "Placeholder", number=types_pb2.DT_FLOAT, dtype="dtype")
    for name, value in (("half", 0.5), ("two", 2.0)):
        node(name, "Const", number=types_pb2.DT_FLOAT, dtype="dtype")
        proto = make_tensor_proto(value, "float32").SerializeToString()
        graph.node[-1].attr["value"].tensor.MergeFromString(proto)
    node("halved", "Mul", "x", "half", number=types_pb2.DT_FLOAT)
    node("y", "AddV2", "halved", "two", number=types_pb2.DT_FLOAT)
    tell("serving_default", "inputs", "x", "x", types_pb2.DT_FLOAT)
    tell("serving_default", "outputs", "y", "y", types_pb2.DT_FLOAT)
    for dtype in DTYPES:
        if dtype.name in GRPC_TYPES:
            given, echoed = f"in_{dtype}", f"out_{dtype}"
            node(given, "Placeholder", number=dtype.number, dtype="dtype")
            node(echoed, "Identity", given, number=dtype.number)
            tell(f"echo_{dtype}", "inputs", "x", given, dtype.number)
            tell(f"echo_{dtype}", "outputs", "y", echoed, dtype.number)
            tell("all", "inputs", f"x_{dtype}", given, dtype.number)
            tell("all", "outputs", f"y_{dtype}", echoed, dtype.number)
            if dtype.name in REST_TYPES:
                tell("json", "inputs", f"x_{dtype}", given, dtype.number)
                tell("json", "outputs", f"y_{dtype}", echoed, dtype.number)
    return model


def free_ports() -> list[int]:
    sockets = [socket.socket() for _ in range(2)]
    for listener in sockets:
        listener.bind(("localhost", 0))
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


@dataclass(frozen=True)
class Server:
    grpc: str
    rest: str
    base_path: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base_path = tmp_path_factory.mktemp("models") / "half_plus_two"
    (base_path / "7").mkdir(parents=True)
    data = saved_model().SerializeToString()
    (base_path / "7" / "saved_model.pb").write_bytes(data)
    grpc_port, rest_port = free_ports()
    flags = [f"--port={grpc_port}", f"--rest_api_port={rest_port}"]
    command = [sys.executable, "-m", "servable", "serve", str(base_path), *flags]
    log = base_path.parent / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    running = Server(
        f"localhost:{grpc_port}", f"http://localhost:{rest_port}", base_path
    )
    try:
        with Client(running.grpc) as client:
            client.wait_until_ready("half_plus_two", timeout=60)
        yield running
    except Exception:
        print(log.read_text(errors="replace"))  # noqa: T201 - pytest shows it
        raise
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(params=["grpc", "rest"])
def api(request: pytest.FixtureRequest) -> str:
    param: str = request.param
    return param


@pytest.fixture
def client(server: Server, api: str) -> Iterator[Client]:
    with Client(server.grpc if api == "grpc" else server.rest, timeout=30) as client:
        yield client


def test_predicts(client: Client) -> None:
    outputs = client.predict("half_plus_two", {"x": [1.0, 2.0, 5.0]})

    assert outputs["y"].dtype == np.float32
    assert outputs["y"].tolist() == [2.5, 3.0, 4.5]


VALUES: dict[str, Any] = {
    "string": [b"a\0", b"", b"\xff\xfe", "é".encode()],
    "bool": [True, False],
    "int64": [-(2**63), 2**63 - 1],
    "uint64": [2**64 - 1, 0],
    "float64": [0.1, -0.0, 5e300],
    "float32": [0.1, -0.0, 3.4e38],
    "complex64": [1 + 2j],
    "complex128": [1 + 2j],
}


@pytest.mark.parametrize(
    ("protocol", "dtype"),
    [
        *(pytest.param("grpc", dtype, id=f"grpc-{dtype}") for dtype in GRPC_TYPES),
        *(pytest.param("rest", dtype, id=f"rest-{dtype}") for dtype in REST_TYPES),
    ],
)
def test_every_type_comes_back_as_it_went(
    server: Server, protocol: str, dtype: str
) -> None:
    with Client(server.grpc if protocol == "grpc" else server.rest) as client:
        values = VALUES.get(dtype, [1, 0, 1])
        outputs = client.predict("half_plus_two", values, signature=f"echo_{dtype}")
        again = client.predict(
            "half_plus_two", outputs["y"], signature=f"echo_{dtype}"
        )["y"]

    assert again.dtype == outputs["y"].dtype
    assert again.tolist() == outputs["y"].tolist()
    if not dtype.startswith("float"):
        assert again.tolist() == values
    assert [math.copysign(1, v) for v in values if v == 0] == [
        math.copysign(1, v) for v in again.tolist() if v == 0
    ]


def test_nothing_finite_over_rest(server: Server) -> None:
    values = [math.nan, math.inf, -math.inf]
    with Client(server.rest) as client:
        (back,) = client.predict(
            "half_plus_two", values, signature="echo_float64"
        ).values()

    assert np.array_equal(back, values, equal_nan=True)


def test_an_empty_array_keeps_its_type(client: Client) -> None:
    outputs = client.predict("half_plus_two", {"x": []})

    assert outputs["y"].dtype == np.float32
    assert outputs["y"].shape == (0,)


def test_only_the_wanted_outputs_are_given(server: Server) -> None:
    inputs = {f"x_{dtype}": VALUES.get(dtype, [1, 0, 1])[:1] for dtype in GRPC_TYPES}
    with Client(server.grpc) as client:
        outputs = client.predict(
            "half_plus_two", inputs, signature="all", outputs=["y_int64", "y_string"]
        )

    assert {name: array.tolist() for name, array in outputs.items()} == {
        "y_int64": [-(2**63)],
        "y_string": [b"a\0"],
    }


def test_metadata_and_status_agree_over_both_protocols(server: Server) -> None:
    with Client(server.grpc) as over_grpc, Client(server.rest) as over_rest:
        name = "half_plus_two"

        assert over_grpc.metadata(name) == over_rest.metadata(name)
        assert over_grpc.status(name) == over_rest.status(name)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        pytest.param({"model": "nope"}, NotFound, id="an unknown model"),
        pytest.param({"version": 8}, NotFound, id="an unknown version"),
        pytest.param({"label": "canary"}, InvalidArgument, id="an unknown label"),
    ],
)
def test_errors_are_the_same_over_both_protocols(
    client: Client, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        client.predict(**{"model": "half_plus_two", "inputs": [1.0], **arguments})


def test_a_hundred_calls_at_once(server: Server, api: str) -> None:
    async def main() -> list[list[float]]:
        address = server.grpc if api == "grpc" else server.rest
        async with AsyncClient(address, timeout=30) as client:
            calls = [
                client.predict("half_plus_two", {"x": [float(i)]}) for i in range(100)
            ]
            return [outputs["y"].tolist() for outputs in await asyncio.gather(*calls)]

    assert asyncio.run(main()) == [[i / 2 + 2] for i in range(100)]


def test_a_large_tensor_goes_through(server: Server) -> None:
    values = np.arange(3_000_000, dtype=np.float32)
    with Client(server.grpc, timeout=60) as client:
        y = client.predict("half_plus_two", values)["y"]

    assert np.array_equal(y, values / 2 + 2)


def shell(server: Server, *arguments: str, stdin: bytes = b"") -> Any:
    from click.testing import CliRunner  # noqa: PLC0415 - only here

    from servable.cli.commands import servable  # noqa: PLC0415 - only here

    env = {"SERVABLE_ADDRESS": server.grpc, "COLUMNS": "80"}
    return CliRunner().invoke(servable, arguments, input=stdin, env=env)


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        pytest.param(
            ["-i", "x=[1, 2, 5]"], "y: float32[3]\n[2.5 3.  4.5]\n", id="as text"
        ),
        pytest.param(
            ["-i", "x=[1, 2, 5]", "--json"], '{"y": [2.5, 3.0, 4.5]}\n', id="as JSON"
        ),
        pytest.param(
            ["-i", "x=[1, 2, 5]", "--batch-size", "2", "--json"],
            '{"y": [2.5, 3.0, 4.5]}\n',
            id="two rows at a time",
        ),
        pytest.param(
            ["-i", "[1, 2]", "--format", "table"],
            "     y float32[]\n\u2500\n 0   2.5\n 1   3.0\n",
            id="as a table",
        ),
    ],
)
def test_the_command_prints(server: Server, arguments: list[str], output: str) -> None:
    result = shell(server, "predict", "half_plus_two", *arguments)

    lines = (re.sub("\u2500+", "\u2500", line) for line in result.output.splitlines())
    assert [line.rstrip() for line in lines] == output.splitlines()


def test_the_command_calls_texts_by_the_type_that_metadata_has(server: Server) -> None:
    inputs = [f"x_{dtype}={json.dumps(['a'] if dtype == 'string' else [1])}"
              for dtype in REST_TYPES]  # fmt: skip
    more = [argument for text in inputs for argument in ("-i", text)]
    asked = ("predict", "half_plus_two", "--signature", "json", *more)

    text = shell(server, *asked, "--output", "y_string")
    table = shell(server, *asked, "--output", "y_string", "--format", "table")

    assert text.output == "y_string: string[1]\n[b'a']\n"
    assert table.output.split()[:2] == ["y_string", "string[]"]


def test_the_command_writes_npy_and_npz(server: Server) -> None:
    one = shell(server, "predict", "half_plus_two", "-i", "[1, 2]", "--format", "npy")
    inputs = [f"x_{dtype}={json.dumps(['a'] if dtype == 'string' else [1])}"
              for dtype in REST_TYPES]  # fmt: skip
    more = [argument for text in inputs for argument in ("-i", text)]
    wanted = ("--output", "y_string", "--output", "y_int8")
    many = shell(
        server,
        *("predict", "half_plus_two", "--signature", "json", "--format", "npy"),
        *(*more, *wanted),
    )

    assert np.load(io.BytesIO(one.stdout_bytes)).tolist() == [2.5, 3.0]
    archive = np.load(io.BytesIO(many.stdout_bytes))
    assert {name: archive[name].tolist() for name in archive.files} == {
        "y_int8": [1],
        "y_string": [b"a"],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-i", "x=1", "--batch-size", "2"], "x is one value; --batch-size needs rows"),
        (["-i", "z=[1]"], "no input 'z' and missing 'x'"),
        (["-i", "[]", "--batch-size", "2"], "the input has 0"),
    ],
)
def test_what_the_command_refuses_is_one_line(
    server: Server, arguments: list[str], message: str
) -> None:
    result = shell(server, "predict", "half_plus_two", *arguments)

    assert result.exit_code == 1
    assert message in result.output
    assert result.output.count("\n") == 1


def test_what_the_server_does_not_have_comes_with_where_to_look(server: Server) -> None:
    result = shell(server, "predict", "nothing", "-i", "x=1")

    assert result.exit_code == 1
    assert result.output == (
        "NOT_FOUND: Servable not found for request: Latest(nothing); the server "
        "answers nothing for model 'nothing': which versions it has, and in "
        "which state, is said by client.status('nothing') or `servable status`\n"
    )


def test_what_grpc_logs_is_not_shown(server: Server) -> None:
    """Here that a handshake failed, each time it was tried."""
    command = ("status", "half_plus_two", "--address", server.grpc, "--tls")
    result = subprocess.run(
        [sys.executable, "-m", "servable", *command],
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 1
    assert result.stderr.startswith(f"UNAVAILABLE: the server at {server.grpc} was")
    assert result.stderr.count("\n") == 1


def test_the_printed_program_and_curl_do_what_the_command_does(server: Server) -> None:
    call = ("predict", "half_plus_two", "-i", "x=[1.0, 2.0]")
    program = shell(server, *call, "--python").output
    curl = shell(server, *call, "--curl", "--address", server.rest).output

    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "array([2.5, 3. ], dtype=float32)" in ran.stdout
    if shutil.which("curl"):
        got = subprocess.run(
            ["bash", "-c", f"{curl.strip()} -s"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(got.stdout) == {"outputs": [2.5, 3.0]}


def test_the_shell_completes_the_models_of_the_server(server: Server) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "servable"],
        env={
            **os.environ,
            "_SERVABLE_COMPLETE": "bash_complete",
            "COMP_WORDS": "servable predict half",
            "COMP_CWORD": "2",
            "SERVABLE_ADDRESS": server.grpc,
        },
        capture_output=True,
        text=True,
        check=True,
    )

    assert completed.stdout.split() == ["plain,half_plus_two"]


def test_status_is_a_table(server: Server) -> None:
    result = shell(server, "status", "half_plus_two")

    assert re.search(r"^ 7 +AVAILABLE *$", result.output, re.MULTILINE)
