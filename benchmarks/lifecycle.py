"""
What the control plane costs, and what it lets wait.

    python benchmarks/lifecycle.py [NAME ...] [--cycles N] [--models N]

Needs the installed package with its extra `tensorflow`; each figure is printed with
what is asked of it, and the exit status is 1 if one is missed.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import servers

from servable.apis import model_server_config_pb2, saved_model_pb2, types_pb2
from servable.client import Client, make_tensor_proto
from servable.core.servable_data import ServableData
from servable.core.storage_path import StoragePath
from servable.errors import ServingError
from servable.sources import file_system, versions

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured, and the most that it may be."""

    what: str
    value: float
    limit: float
    unit: str = ""

    def __str__(self) -> str:
        verdict = "ok" if self.value <= self.limit else "MISSED"
        told = f"{self.value:.3g} {self.unit} (at most {self.limit:g})"
        return f"{verdict:7}{self.what}: {told}"


@dataclass(frozen=True, slots=True)
class Served:
    """A server in a process of its own."""

    pid: int
    client: Client
    metrics_url: str
    grpc_port: int
    rest_port: int

    def rss_bytes(self) -> int:
        """Return the memory it holds now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    def threads(self) -> int:
        """Return how many threads it keeps."""
        # Each load has its own, which may still be ending when the next thing is done.
        counts = []
        for _ in range(20):
            counts.append(sum(1 for _ in Path(f"/proc/{self.pid}/task").iterdir()))
            time.sleep(0.05)
        return min(counts)

    def descriptors(self) -> int:
        """Return how many files and sockets it has open."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def series(self) -> int:
        """Return how many series its metrics page has."""
        with urllib.request.urlopen(self.metrics_url) as page:  # noqa: S310 - ours
            lines = page.read().decode().splitlines()
        return sum(not line.startswith("#") for line in lines)

    def wait_for_request_in_flight(self) -> None:
        """Wait until a request over gRPC is being answered."""
        waited_for = 'servable_requests_in_flight{protocol="grpc"} 1'
        while True:
            with urllib.request.urlopen(self.metrics_url) as page:  # noqa: S310 - ours
                if waited_for in page.read().decode().splitlines():
                    return
            time.sleep(0.01)

    def add(self, name: str, base_path: Path, wait_s: float = 120.0) -> None:
        """Serve a model, and wait for it unless *wait_s* is 0."""
        config = model_server_config_pb2.ModelConfig(
            name=name, base_path=str(base_path), model_platform="tensorflow"
        )
        self.client.administration.add_model(config, wait_s=wait_s)

    def remove(self, name: str) -> None:
        """Serve a model no more, and wait until it is unloaded."""
        self.client.administration.remove_model(name)
        while any(v.state != "END" for v in self.client.status(name)):
            time.sleep(0.002)

    def wait_for(self, name: str, version: int) -> None:
        """Wait until a version is available."""
        while not self.is_available(name, version):
            time.sleep(0.01)

    def is_available(self, name: str, version: int) -> bool:
        """Return whether a version is available."""
        try:
            states = self.client.status(name)
        except ServingError:
            return False
        return any(v.version == version and v.state == "AVAILABLE" for v in states)


@contextlib.contextmanager
def serving(
    config: Path,
    *flags: str,
    wait: bool = True,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Served]:
    """Start a server, *wait* until it is ready, and give it; it ends at the end."""
    grpc_port, rest_port = 18500 + os.getpid() % 1000, 19500 + os.getpid() % 1000
    command = [sys.executable, "-m", "servable", "serve"]
    command += [f"--port={grpc_port}", f"--rest_api_port={rest_port}", *flags]
    command += [f"--model_config_file={config}", "--log_level=error"]
    with subprocess.Popen(
        command, env={**os.environ, **(environment or {})}
    ) as process:
        client = Client(f"127.0.0.1:{grpc_port}", timeout=120, attempts=20)
        try:
            if wait:
                client.wait_until_ready(timeout=60)
            url = f"http://127.0.0.1:{rest_port}/metrics"
            yield Served(process.pid, client, url, grpc_port, rest_port)
        finally:
            client.close()
            process.terminate()


def saved_model(constant_bytes: int = 4) -> bytes:
    """Return a SavedModel of x + c, whose constant has about that many bytes."""
    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta_graph = model.meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    graph = meta_graph.graph_def
    graph.versions.producer = 1882
    number = types_pb2.DT_FLOAT
    graph.node.add(name="x", op="Placeholder").attr["dtype"].type = number
    constant = graph.node.add(name="c", op="Const")
    constant.attr["dtype"].type = number
    zeros = make_tensor_proto([0.0] * (constant_bytes // 4), "float32")
    constant.attr["value"].tensor.MergeFromString(zeros.SerializeToString())
    added = graph.node.add(name="y", op="AddV2", input=["x", "c"])
    added.attr["T"].type = number
    signature = meta_graph.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    for tensors, name in ((signature.inputs, "x"), (signature.outputs, "y")):
        tensors[name].name, tensors[name].dtype = f"{name}:0", number
        tensors[name].tensor_shape.dim.add(size=-1)
    return model.SerializeToString()


def publish(base: Path, version: int, content: bytes) -> None:
    """Write a version, at once."""
    beside = base.parent / f"{base.name}.{version}.tmp"
    beside.mkdir(parents=True)
    (beside / "saved_model.pb").write_bytes(content)
    base.mkdir(exist_ok=True)
    beside.rename(base / str(version))


def empty_config(directory: Path) -> Path:
    """Write a config of no models."""
    path = directory / "models.config"
    path.write_text("model_config_list {}")
    return path


def cycles(directory: Path, options: argparse.Namespace) -> Iterator[Figure]:
    """Load and unload one model again and again."""
    publish(directory / "m", 1, saved_model())

    def run(server: Served, count: int) -> None:
        for _ in range(count):
            server.add("m", directory / "m")
            server.client.predict("m", [1.0])
            server.remove("m")

    with serving(empty_config(directory)) as server:
        run(server, 50)
        before = server.rss_bytes()
        things = (server.threads(), server.descriptors(), server.series())
        began = time.monotonic()
        run(server, options.cycles)
        took_s = time.monotonic() - began
        grown = (server.rss_bytes() - before) / MIB
        more = [
            now - then
            for now, then in zip(
                (server.threads(), server.descriptors(), server.series()),
                things,
                strict=True,
            )
        ]
    print(f"{options.cycles} cycles took {took_s:.1f} s")
    yield Figure("growth of resident memory", grown, 16, "MiB")
    for what, count in zip(
        ("threads", "files and sockets", "series"), more, strict=True
    ):
        yield Figure(f"{what} left behind", count, 0)


def unloads(directory: Path, options: argparse.Namespace) -> Iterator[Figure]:
    """Load twenty models, unload them all, and see what is kept of their memory."""
    content = saved_model(options.mib * MIB)
    names = [f"m{number}" for number in range(20)]
    for name in names:
        publish(directory / name, 1, content)
    publish(directory / "first", 1, saved_model())
    with serving(empty_config(directory)) as server:
        # What the first model of all takes stays: it is TensorFlow's own.
        server.add("first", directory / "first")
        before = server.rss_bytes()
        for name in names:
            server.add(name, directory / name)
        loaded = server.rss_bytes()
        for name in names:
            server.remove(name)
        time.sleep(10)
        after = server.rss_bytes()
    print(f"{before / MIB:.0f} MiB, {loaded / MIB:.0f} loaded, {after / MIB:.0f} after")
    yield Figure("memory after unloading to that before", after / before, 1.1)


def asked(directory: Path, _: argparse.Namespace) -> Iterator[Figure]:
    """Load twenty models, ask them, unload them all, and see what is kept."""
    path = servers.build_models() / "matrices"
    x = np.ones((4, 1024), np.float32)
    names = [f"m{number}" for number in range(20)]
    # TensorFlow's own allocator, which keeps what it has, and the system's.
    for environment in ({}, {"TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1"}):
        with serving(empty_config(directory), environment=environment) as server:
            server.add("first", path)
            server.client.predict("first", {"x": x})
            before = server.rss_bytes()
            for name in names:
                server.add(name, path)
                server.client.predict(name, {"x": x})
            loaded = server.rss_bytes()
            for name in names:
                server.remove(name)
            time.sleep(10)
            after = server.rss_bytes()
        settings = " ".join(f"{name}={value}" for name, value in environment.items())
        print(
            f"{settings or 'as it is'}: {before / MIB:.0f} MiB, "
            f"{loaded / MIB:.0f} loaded, {after / MIB:.0f} after"
        )
    yield Figure(
        f"memory after unloading to that before, {settings}", after / before, 1.1
    )


def kills(directory: Path, options: argparse.Namespace) -> Iterator[Figure]:
    """Kill a server that is being asked, at any moment, and start it again."""
    used, config = _place(directory / "used")
    publish(used / "m", 1, saved_model(MIB))
    chance = random.Random()  # noqa: S311 - any moment will do
    cold, killed = [_start_s(config, 1)], []
    answers: list[bool] = []
    for version in range(2, options.kills + 2):
        publish(used / "m", version, saved_model(MIB))
        shutil.rmtree(used / "m" / str(version - 1))
        with serving(config, f"--grpc_socket_path={used}/socket", wait=False) as it:
            is_over = threading.Event()
            asking = [
                threading.Thread(target=_ask_until, args=(it, is_over, answers))
                for _ in range(4)
            ]
            for thread in asking:
                thread.start()
            time.sleep(chance.random() * 2 * statistics.median(cold))
            os.kill(it.pid, signal.SIGKILL)
            is_over.set()
            for thread in asking:
                thread.join()
        if version % 10 == 0:
            killed.append(_start_s(config, version))
            # Beside one that never was there, so that both meet the same machine.
            fresh, its_config = _place(directory / f"fresh{version}")
            publish(fresh / "m", 1, saved_model(MIB))
            cold.append(_start_s(its_config, 1))
    print(
        f"{options.kills} kills with four clients who got {len(answers)} answers; "
        f"a cold start takes {statistics.median(cold):.2f} s"
    )
    yield Figure("wrong answers", answers.count(False), 0)
    yield Figure(
        "start after kills to a cold start",
        statistics.median(killed) / statistics.median(cold),
        1.1,
    )
    left = {path.name for path in used.iterdir()} - {"m", config.name, "socket"}
    yield Figure("files left behind", len(left), 0)


def _place(directory: Path) -> tuple[Path, Path]:
    """Make a place for a server of the model m; return it, and the config file."""
    directory.mkdir()
    config = directory / "models.config"
    config.write_text(
        'model_config_list { config { name: "m" model_platform: "tensorflow" '
        f'base_path: "{directory}/m" }} }}'
    )
    return directory, config


def _start_s(config: Path, version: int) -> float:
    """Return how long a server takes until it has a version of m, and kill it."""
    began = time.monotonic()
    with serving(config, f"--grpc_socket_path={config.parent}/socket") as server:
        server.wait_for("m", version)
        took_s = time.monotonic() - began
        os.kill(server.pid, signal.SIGKILL)
    return took_s


def _ask_until(server: Served, is_over: threading.Event, answers: list[bool]) -> None:
    with Client(f"127.0.0.1:{server.grpc_port}", timeout=5, attempts=1) as client:
        while not is_over.is_set():
            try:
                y = client.predict("m", [7.0])["y"]
            except ServingError:
                is_over.wait(0.01)
            else:
                answers.append(bool((y == 7.0).all()))


def isolation(directory: Path, _: argparse.Namespace) -> Iterator[Figure]:
    """Switch models while one is broken, and one has a request that never ends."""
    publish(directory / "m", 1, saved_model())
    publish(directory / "hung", 1, endless_model())
    (directory / "broken" / "1").mkdir(parents=True)
    (directory / "broken" / "1" / "saved_model.pb").write_bytes(b"no model")

    def switch(server: Served, name: str, version: int) -> float:
        publish(directory / name, version, saved_model())
        began = time.monotonic()
        server.wait_for(name, version)
        return time.monotonic() - began

    with serving(
        empty_config(directory),
        "--file_system_poll_wait_seconds=1",
        "--shutdown_grace_seconds=0",
    ) as server:
        server.add("m", directory / "m")
        alone = max(switch(server, "m", version) for version in range(2, 6))
        server.add("broken", directory / "broken", wait_s=0)
        server.add("hung", directory / "hung")
        asking = threading.Thread(target=_ask_in_vain, args=(server.client,))
        asking.start()
        server.wait_for_request_in_flight()
        own, beside = [], []
        for number in range(10):
            own.append(switch(server, "hung", 2 + number))
            beside.append(switch(server, "m", 6 + number))
        is_hung = asking.is_alive()
    asking.join()
    yield Figure("requests that ended, of one that never does", not is_hung, 0)
    yield Figure("delay of another model's switch", max(beside) - alone, 3, "s")
    yield Figure("delay of the model's own switch", max(own) - alone, 3, "s")


def endless_model() -> bytes:
    """Return a SavedModel that waits for an element of a queue that nobody fills."""
    model = saved_model_pb2.SavedModel.FromString(saved_model())
    graph = model.meta_graphs[0].graph_def
    kinds = [types_pb2.DT_FLOAT]
    queue = graph.node.add(name="queue", op="FIFOQueueV2")
    queue.attr["component_types"].list.type.extend(kinds)
    element = graph.node.add(name="element", op="QueueDequeueV2", input=["queue"])
    element.attr["component_types"].list.type.extend(kinds)
    next(node for node in graph.node if node.name == "y").input[1] = "element"
    return model.SerializeToString()


def _ask_in_vain(client: Client) -> None:
    with contextlib.suppress(ServingError):
        client.predict("hung", [0.0], version=1, timeout=600)


def loads(directory: Path, options: argparse.Namespace) -> Iterator[Figure]:
    """Load many models of 1 MB, with one thread and with four."""
    content = saved_model(MIB)
    names = [f"m{number}" for number in range(options.models)]
    for name in names:
        publish(directory / name, 1, content)
    took_s = {}
    for threads in (1, 4):
        with serving(
            empty_config(directory), f"--num_load_threads={threads}"
        ) as server:
            publish(directory / f"first{threads}", 1, content)
            server.add(f"first{threads}", directory / f"first{threads}")
            began = time.monotonic()
            server.client.reload_config(
                {name: str(directory / name) for name in names}, timeout=600
            )
            took_s[threads] = time.monotonic() - began
    print(f"{len(names)} models: {took_s[1]:.1f} s by 1 thread, {took_s[4]:.1f} s by 4")
    yield Figure("time of 4 threads to that of 1", took_s[4] / took_s[1], 1.1)


class _Nobody:
    """A Target that does nothing with what it is told."""

    def set_aspired_versions(
        self, name: str, versions: Sequence[ServableData[StoragePath]]
    ) -> None:
        """See Target."""


def polling(directory: Path, _: argparse.Namespace) -> Iterator[Figure]:
    """Look at a thousand base paths once a second."""
    content = saved_model()
    for number in range(1000):
        publish(directory / f"m{number}", 1, content)
    config = versions.FileSystemStoragePathSourceConfig(
        tuple(
            versions.ServableToMonitor(f"m{number}", str(directory / f"m{number}"))
            for number in range(1000)
        )
    )
    source = file_system.FileSystemStoragePathSource(
        config, 1.0, is_available=lambda _: True
    )
    source.set_target(_Nobody())
    time.sleep(3)  # the first looks are others
    began, cpu = time.monotonic(), time.process_time()
    time.sleep(10)
    part = (time.process_time() - cpu) / (time.monotonic() - began)
    source.stop()
    yield Figure("processor time of polling 1,000 models", 100 * part, 2, "% of a core")


FIGURES: Final[dict[str, Callable[[Path, argparse.Namespace], Iterator[Figure]]]] = {
    "cycles": cycles,
    "unloads": unloads,
    "asked": asked,
    "kills": kills,
    "isolation": isolation,
    "loads": loads,
    "polling": polling,
}


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*FIGURES, []], metavar="NAME")
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--mib", type=int, default=50, help="of a model of unloads")
    parser.add_argument("--kills", type=int, default=200)
    options = parser.parse_args()
    missed = 0
    for name in options.names or FIGURES:
        print(f"{name}: {FIGURES[name].__doc__}", flush=True)
        with tempfile.TemporaryDirectory() as directory:
            for figure in FIGURES[name](Path(directory), options):
                print(f"  {figure}", flush=True)
                missed += figure.value > figure.limit
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
