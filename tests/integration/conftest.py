"""Real servers, as processes of their own, and a model that needs no TensorFlow."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from servable.apis import saved_model_pb2, types_pb2
from servable.client import Client, make_tensor_proto
from servable.errors import ServingError

DEADLINE_S = 30.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def half_plus_two(two: float = 2.0) -> bytes:
    """
    Return a SavedModel of x / 2 + *two*, with echoes of some types.

    Signatures `regress` and `classify` take the feature x of examples.
    """
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

    def constant(name: str, value: object, dtype: str = "float32") -> None:
        tensor = make_tensor_proto(value, dtype)
        node(name, "Const", number=tensor.dtype, dtype="dtype")
        graph.node[-1].attr["value"].tensor.MergeFromString(tensor.SerializeToString())

    def halve_plus_two(x: str, y: str) -> None:
        node(f"{y}_halved", "Mul", x, "half", number=types_pb2.DT_FLOAT)
        node(y, "AddV2", f"{y}_halved", "two", number=types_pb2.DT_FLOAT)

    node("x", "Placeholder", number=types_pb2.DT_FLOAT, dtype="dtype")
    constant("half", 0.5)
    constant("two", two)
    halve_plus_two("x", "y")
    tell("serving_default", "inputs", "x", "x", types_pb2.DT_FLOAT)
    tell("serving_default", "outputs", "y", "y", types_pb2.DT_FLOAT)

    node("examples", "Placeholder", number=types_pb2.DT_STRING, dtype="dtype")
    constant("names", [], "string")
    constant("key", b"x", "string")
    constant("default", [], "float32")
    made = graph.node.add(
        name="parsed",
        op="ParseExample",
        input=["examples", "names", "key", "default"],
    )
    made.attr["Nsparse"].i, made.attr["Ndense"].i = 0, 1
    made.attr["sparse_types"].list.SetInParent()
    made.attr["Tdense"].list.type.append(types_pb2.DT_FLOAT)
    made.attr["dense_shapes"].list.shape.add().dim.add(size=1)
    halve_plus_two("parsed", "score")
    for method, output in (("regress", "outputs"), ("classify", "scores")):
        tell(method, "inputs", "inputs", "examples", types_pb2.DT_STRING)
        tell(method, "outputs", output, "score", types_pb2.DT_FLOAT)
        name = f"tensorflow/serving/{method}"
        meta_graph.signature_def[method].method_name = name

    tell("scalar", "inputs", "x", "x", types_pb2.DT_FLOAT)
    tell("scalar", "outputs", "half", "half", types_pb2.DT_FLOAT)
    meta_graph.signature_def["scalar"].method_name = "other"
    for signature, outputs in (("constant", ("two",)), ("both", ("half", "two"))):
        for output in outputs:
            tell(signature, "outputs", output, output, types_pb2.DT_FLOAT)

    for echoed in (
        *("FLOAT", "STRING", "INT8", "HALF", "BOOL", "RESOURCE"),
        *("BFLOAT16", "UINT16", "COMPLEX64", "COMPLEX128"),
    ):
        number = types_pb2.DataType.Value(f"DT_{echoed}")
        node(f"in_{echoed}", "Placeholder", number=number, dtype="dtype")
        node(f"out_{echoed}", "Identity", f"in_{echoed}", number=number)
        tell(f"echo_{echoed}", "inputs", "x", f"in_{echoed}", number)
        tell(f"echo_{echoed}", "outputs", "y", f"out_{echoed}", number)
    return model.SerializeToString()


def write_version(path: Path, two: float = 2.0) -> Path:
    """Write half_plus_two as the version directory *path*, at once."""
    beside = path.parent.parent / f"{path.parent.name}-{path.name}.tmp"
    beside.mkdir(parents=True)
    (beside / "saved_model.pb").write_bytes(half_plus_two(two))
    path.parent.mkdir(exist_ok=True)
    beside.rename(path)
    return path


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for another process; fail when it takes half a minute."""
    give_up_at = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < give_up_at, f"no {what} within {DEADLINE_S} s"
        time.sleep(0.01)


@dataclass
class ServingProcess:
    """A server that runs; `flags` are those that it was given."""

    process: "subprocess.Popen[bytes]"
    grpc_port: int
    rest_port: int
    log_path: Path
    flags: list[str] = field(default_factory=list)

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def rest(self) -> str:
        return f"http://127.0.0.1:{self.rest_port}"

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def is_serving(self, model: str, version: int | None = None) -> bool:
        with Client(self.grpc, attempts=1) as client:
            try:
                return client.predict(model, [0.0], version=version) is not None
            except ServingError:
                return False

    def cpu_s(self) -> float:
        """Return the processor time that it has used, in seconds."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / TICKS_PER_S

    def resident_mib(self, *, at_most: bool = False) -> float:
        """Return its resident memory, or the most since forget_peak()."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        name = "VmHWM" if at_most else "VmRSS"
        (kib,) = re.findall(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
        return int(kib) / 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


@pytest.fixture(scope="session", name="write_version")
def _write_version() -> Callable[..., Path]:
    return write_version


@pytest.fixture(scope="session", name="wait_until")
def _wait_until() -> Callable[[Callable[[], bool], str], None]:
    return wait_until


@pytest.fixture(scope="module")
def start(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., ServingProcess]]:
    """
    Return what starts a server with flags, and returns when its ports are open.

    It may be started *within* another command, with variables beside our own, and
    waited for with another text of its log than that its ports are *opened*.
    """
    with contextlib.ExitStack() as running:

        def start(
            *flags: str,
            within: Sequence[str] = (),
            environment: Mapping[str, str] | None = None,
            opened: str = "Exporting HTTP/REST API",  # the second port
        ) -> ServingProcess:
            grpc_port, rest_port = _free_ports()
            log_path = tmp_path_factory.mktemp("log") / "log"
            ports = [f"--port={grpc_port}", f"--rest_api_port={rest_port}"]
            command = [sys.executable, "-m", "servable", "serve", *ports, *flags]
            output = running.enter_context(log_path.open("wb"))
            process = subprocess.Popen(
                [*within, *command],
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
            )
            running.callback(_end, process)
            server = ServingProcess(process, grpc_port, rest_port, log_path, [*flags])
            wait_until(
                lambda: opened in server.log() or process.poll() is not None,
                "open port",
            )
            assert process.poll() is None, server.log()
            return server

        yield start


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports() -> list[int]:
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(2)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]
