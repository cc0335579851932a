"""
A server that is asked for a long time while its models are replaced under it.

    python benchmarks/soak.py reload [--seconds 600]   # a new version every second
    python benchmarks/soak.py mixed [--seconds 14400]  # and cancels, bad input, metrics

Sixty-four clients, half over gRPC and half over REST, check every answer: each version
adds a number of its own, so that an answer of the wrong version, or of two, shows.  On
a connection the version never goes back.  Beside them the load generator measures
latency at a steady rate, without and then with reloads.

Prints what is asked of each figure, writes benchmarks/results/soak-NAME.json, and exits
with 1 if one is missed.
"""
# ruff: noqa: S311 - chance decides what is asked, and nothing else

import argparse
import asyncio
import contextlib
import dataclasses
import json
import multiprocessing
import os
import platform
import random
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from lifecycle import MIB, Figure, Served, empty_config, serving
from servable.apis import predict_pb2, saved_model_pb2, types_pb2
from servable.bench.runner import OpenLoop, Spec, run
from servable.client import make_tensor_proto

RESULTS: Final = Path(__file__).parent / "results"
PREDICT: Final = "/tensorflow.serving.PredictionService/Predict"
REST: Final = "/v1/models/m:predict"
VALUES: Final = 8
CLIENTS: Final = 32
PADDING: Final = 256 << 10
KEPT_VERSIONS: Final = 3
WATCHED: Final = 10  # what is held is looked at beside every so many versions


def adds(number: int) -> bytes:
    """Return a SavedModel of x + number, with some weight to copy."""
    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta_graph = model.meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    graph = meta_graph.graph_def
    graph.versions.producer = 1882
    dtype = types_pb2.DT_FLOAT
    graph.node.add(name="x", op="Placeholder").attr["dtype"].type = dtype
    for name, value in (
        ("number", [float(number)]),
        ("padding", [0.5] * (PADDING // 4)),
    ):
        constant = graph.node.add(name=name, op="Const")
        constant.attr["dtype"].type = dtype
        tensor = make_tensor_proto(value, "float32")
        constant.attr["value"].tensor.MergeFromString(tensor.SerializeToString())
    added = graph.node.add(name="y", op="AddV2", input=["x", "number"])
    added.attr["T"].type = dtype
    signature = meta_graph.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    for tensors, name in ((signature.inputs, "x"), (signature.outputs, "y")):
        tensors[name].name, tensors[name].dtype = f"{name}:0", dtype
        tensors[name].tensor_shape.dim.add(size=-1)
    return model.SerializeToString()


def by_rename(base: Path, version: int, content: bytes) -> None:
    """Write a version elsewhere, and move it into place."""
    beside = base.parent / f"{version}.tmp"
    beside.mkdir()
    (beside / "saved_model.pb").write_bytes(content)
    beside.rename(base / str(version))


def by_link(base: Path, version: int, content: bytes) -> None:
    """Write a version elsewhere, and have a link lead there."""
    elsewhere = base.parent / "elsewhere" / str(version)
    elsewhere.mkdir(parents=True)
    (elsewhere / "saved_model.pb").write_bytes(content)
    link = base.parent / "link"
    link.symlink_to(elsewhere)
    link.rename(base / str(version))


def by_copy(base: Path, version: int, content: bytes) -> None:
    """Write a version where it is served from, in two halves."""
    (base / str(version)).mkdir()
    with (base / str(version) / "saved_model.pb").open("wb") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        time.sleep(0.3)
        file.write(content[len(content) // 2 :])


WAYS: Final = (by_rename, by_link, by_copy)


class Publisher:
    """Publishes one version after the other, and takes the oldest ones away."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self.version = 0
        base.mkdir()

    def publish(self) -> int:
        """Publish the next version, in another way than the last; return its number."""
        self.version += 1
        WAYS[self.version % len(WAYS)](self._base, self.version, adds(self.version))
        gone = self._base / str(self.version - KEPT_VERSIONS)
        if gone.is_symlink():
            shutil.rmtree(gone.resolve())
            gone.unlink()
        elif gone.exists():
            shutil.rmtree(gone)
        return self.version


@dataclass
class Tally:
    """What the clients of one protocol have seen."""

    answers: int = 0
    versions: set[int] = field(default_factory=set)
    wrong: Counter[str] = field(default_factory=Counter)
    provoked: Counter[str] = field(default_factory=Counter)


class Client:
    """One connection that asks again and again, and checks what it is told."""

    def __init__(self, tally: Tally, rate: float, mischief: float) -> None:
        self._tally = tally
        self._pause_s = 1 / rate
        self._mischief = mischief
        self._newest = 0

    async def run(self, until: float) -> None:
        """Ask until a time of time.monotonic()."""
        due = time.monotonic() + random.random() * self._pause_s
        while due < until:
            await asyncio.sleep(max(due - time.monotonic(), 0))
            due = max(due + self._pause_s, time.monotonic() - 1)
            if random.random() < self._mischief:
                misbehave = random.choice((self.cancel, self.ask_nonsense))
                self._tally.provoked[await misbehave()] += 1
                continue
            x = [float(random.randrange(1000)) for _ in range(VALUES)]
            try:
                y, version = await self.ask(x)
            except Exception as error:  # noqa: BLE001 - each is told of
                self._tally.wrong[f"{type(error).__name__}: {error}"[:200]] += 1
                await self.connect()
                continue
            self._check(x, y, version)

    def _check(self, x: list[float], y: list[float], version: int | None) -> None:
        added = {int(b - a) for a, b in zip(x, y, strict=True)}
        self._tally.answers += 1
        if len(added) != 1:
            self._tally.wrong["an answer of several versions"] += 1
        (number, *_) = added
        if version is not None and version != number:
            self._tally.wrong["an answer of another version than it says"] += 1
        if number < self._newest:
            self._tally.wrong["an older version than before"] += 1
        self._newest = number
        self._tally.versions.add(number)

    async def connect(self) -> None:
        """Connect, or connect anew."""
        raise NotImplementedError

    async def ask(self, x: list[float]) -> tuple[list[float], int | None]:
        """Return the answer, and its version if it says that."""
        raise NotImplementedError

    async def cancel(self) -> str:
        """Give up on a request; return what became of it."""
        raise NotImplementedError

    async def ask_nonsense(self) -> str:
        """Ask what has no answer; return the status."""
        raise NotImplementedError


class GrpcClient(Client):
    """A channel with a connection of its own."""

    def __init__(self, address: str, *rest: Any) -> None:
        super().__init__(*rest)
        self._address = address
        self._channel: Any = None

    async def connect(self) -> None:
        """See Client."""
        if self._channel is not None:
            await self._channel.close()
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.aio.insecure_channel(self._address, options)
        self._predict = self._channel.unary_unary(
            PREDICT, None, predict_pb2.PredictResponse.FromString
        )

    async def ask(self, x: list[float]) -> tuple[list[float], int | None]:
        """See Client."""
        response = await self._predict(_request(x), timeout=30)
        return list(response.outputs["y"].float_val), response.model_spec.version.value

    async def cancel(self) -> str:
        """See Client."""
        call = self._predict(_request([1.0] * VALUES), timeout=30)
        await asyncio.sleep(random.random() / 1000)
        call.cancel()
        return str((await call.code()).name)

    async def ask_nonsense(self) -> str:
        """See Client."""
        try:
            await self._predict(_request([1.0], name="z"), timeout=30)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        return "answered"


def _request(x: list[float], name: str = "x") -> bytes:
    message = predict_pb2.PredictRequest()
    message.model_spec.name = "m"
    message.inputs[name].CopyFrom(make_tensor_proto(x, "float32"))
    return message.SerializeToString()


class RestClient(Client):
    """A connection that is kept alive."""

    def __init__(self, port: int, *rest: Any) -> None:
        super().__init__(*rest)
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self) -> None:
        """See Client."""
        if self._writer is not None:
            self._writer.close()
        opened = await asyncio.open_connection("127.0.0.1", self._port)
        self._reader, self._writer = opened

    async def ask(self, x: list[float]) -> tuple[list[float], int | None]:
        """See Client."""
        status, body = await self._exchange({"instances": x})
        if status != 200:
            raise ValueError(f"{status}: {body[:100]!r}")
        return json.loads(body)["predictions"], None

    async def cancel(self) -> str:
        """See Client."""
        await self._send({"instances": [1.0] * VALUES})
        await asyncio.sleep(random.random() / 1000)
        if self._writer is not None:
            reset = struct.pack("ii", 1, 0)
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        await self.connect()
        return "reset"

    async def ask_nonsense(self) -> str:
        """See Client."""
        status, _ = await self._exchange({"instances": "a"})
        return str(status)

    async def _send(self, document: Any) -> None:
        body = json.dumps(document).encode()
        if self._writer is not None:
            head = f"POST {REST} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
            self._writer.write(head.encode() + body)
            await self._writer.drain()

    async def _exchange(self, document: Any) -> tuple[int, bytes]:
        await self._send(document)
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 30)
        status, length = int(head.split(maxsplit=2)[1]), 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return status, await self._reader.readexactly(length)


def clients(
    protocol: str,
    port: int,
    seconds: float,
    rate: float,
    mischief: float,
    to: Connection,
) -> None:
    """Run the clients of one protocol in a process of their own; tell what they saw."""
    tally = Tally()

    async def run_all() -> None:
        each = rate / CLIENTS
        all_of_them: list[Client] = [
            GrpcClient(f"127.0.0.1:{port}", tally, each, mischief)
            if protocol == "grpc"
            else RestClient(port, tally, each, mischief)
            for _ in range(CLIENTS)
        ]
        for client in all_of_them:
            await client.connect()
        until = time.monotonic() + seconds
        await asyncio.gather(*(client.run(until) for client in all_of_them))

    asyncio.run(run_all())
    to.send(tally)


@contextlib.contextmanager
def asking(
    server: "Ports", seconds: float, rate: float, mischief: float
) -> Iterator[Callable[[], dict[str, Tally]]]:
    """Ask over both protocols for some time; give what waits and says how it went."""
    context = multiprocessing.get_context("spawn")
    running = {}
    for protocol, port in (("grpc", server.grpc), ("rest", server.rest)):
        ours, theirs = context.Pipe(duplex=False)
        arguments = (protocol, port, seconds, rate / 2, mischief, theirs)
        process = context.Process(target=clients, args=arguments, daemon=True)
        process.start()
        running[protocol] = ours
    yield lambda: {protocol: pipe.recv() for protocol, pipe in running.items()}


@dataclass(frozen=True)
class Ports:
    """Where a server listens."""

    grpc: int
    rest: int


def latency_ms(ports: Ports, seconds: float) -> dict[str, float]:
    """Return latencies at a steady rate, by percentile."""
    spec = Spec(
        "grpc", f"127.0.0.1:{ports.grpc}", PREDICT, _request([1.0] * VALUES),
        OpenLoop(200.0), seconds=seconds, connections=4,
    )  # fmt: skip
    report = run(spec)
    if report["errors"]:
        raise RuntimeError(f"requests failed: {report['errors']}")
    return {name: us / 1e3 for name, us in report["latency_us"].items()}


@dataclass(frozen=True)
class Held:
    """What a server holds at one time."""

    rss_bytes: int
    descriptors: int
    threads: int
    mappings: int
    series: int

    @classmethod
    def usual(cls, all_of_them: Sequence["Held"]) -> "Held":
        """Return the median of each."""
        columns = zip(*map(dataclasses.astuple, all_of_them), strict=True)
        return cls(*(statistics.median_low(column) for column in columns))

    @classmethod
    def of(cls, server: Served) -> "Held":
        """Look at a server."""
        mappings = Path(f"/proc/{server.pid}/maps").read_text().count("\n")
        return cls(
            server.rss_bytes(),
            server.descriptors(),
            server.threads(),
            mappings,
            server.series(),
        )


def replace(
    server: Served,
    publisher: Publisher,
    every_s: float,
    until: float,
    watch: list[Held],
) -> list[float]:
    """
    Publish versions until a time, and say how long each took to be served.

    What the server holds is looked at now and then, as a look takes a second.
    """
    delays: list[float] = []
    due = time.monotonic()
    while due < until and time.monotonic() < until:
        time.sleep(max(due - time.monotonic(), 0))
        due += every_s
        version = publisher.publish()
        began = time.monotonic()
        while not server.is_available("m", version):
            time.sleep(0.02)
            if time.monotonic() > began + 60:
                raise RuntimeError(f"version {version} does not come")
        delays.append(time.monotonic() - began)
        if len(delays) % WATCHED == 1:
            watch.append(Held.of(server))
    return delays


def soak(
    seconds: float, rate: float, *, every_s: float, mischief: float
) -> tuple[list[Figure], dict[str, Any]]:
    """Do it; return the figures, and all that was seen."""
    watch: list[Held] = []
    with tempfile.TemporaryDirectory() as directory:
        publisher = Publisher(Path(directory) / "m")
        publisher.publish()
        with serving(
            empty_config(Path(directory)), "--file_system_poll_wait_seconds=1"
        ) as server:
            server.add("m", Path(directory) / "m")
            ports = Ports(server.grpc_port, server.rest_port)
            steady_s = min(max(seconds / 4, 20), 300)
            with asking(ports, steady_s + seconds + 15, rate, mischief) as tallies:
                time.sleep(3)  # until the clients are there
                before = latency_ms(ports, steady_s)
                latencies: dict[str, float] = {}
                measuring = threading.Thread(
                    target=lambda: latencies.update(latency_ms(ports, seconds))
                )
                measuring.start()
                until = time.monotonic() + seconds
                delays = replace(server, publisher, every_s, until, watch)
                measuring.join()
                tally = tallies()
    wrong = sum((t.wrong for t in tally.values()), Counter[str]())
    answers = sum(t.answers for t in tally.values())
    # A version that is just being let go of is seen or not: what is usual counts.
    part = max(len(watch) // 5, 1)
    settled = Held.usual(watch[len(watch) // 10 :][:part])
    last = Held.usual(watch[-part:])
    figures = [
        Figure("requests that failed or were answered wrongly", wrong.total(), 0),
        Figure(
            "p99.9 to that without reloads", latencies["p99.9"] / before["p99.9"], 2
        ),
        Figure("growth of p99.9", latencies["p99.9"] - before["p99.9"], 10, "ms"),
        Figure("slowest switch", max(delays), 3, "s"),
        Figure(
            "growth of memory", (last.rss_bytes - settled.rss_bytes) / MIB, 16, "MiB"
        ),
        Figure("files and sockets", last.descriptors - settled.descriptors, 0),
        Figure("threads", last.threads - settled.threads, 0),
        Figure("mappings", last.mappings - settled.mappings, 20),
        # Each code that is answered for the first time has one.
        Figure("series", last.series - settled.series, 10),
    ]
    seen = {
        "answers": answers,
        "reloads": len(delays),
        "versions answered": len(set.union(*(t.versions for t in tally.values()))),
        "wrong": dict(wrong),
        "provoked": {name: dict(t.provoked) for name, t in tally.items()},
        "latency_ms": {"steady": before, "reloading": latencies},
        "switch_s": {"median": sorted(delays)[len(delays) // 2], "max": max(delays)},
        "held": {
            "settled": dataclasses.asdict(settled),
            "last": dataclasses.asdict(last),
        },
    }
    return figures, seen


def main() -> int:
    """Run as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["reload", "mixed"])
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--rate", type=float, default=1700, help="requests a second")
    parser.add_argument("--note", default="", help="kept with the result")
    options = parser.parse_args()
    is_mixed = options.name == "mixed"
    seconds = options.seconds or (14_400 if is_mixed else 600)
    figures, seen = soak(
        seconds,
        options.rate,
        every_s=min(60.0, seconds / 20) if is_mixed else 1.0,
        mischief=0.02 if is_mixed else 0.0,
    )
    print(
        f"{seen['answers']} answers checked, {seen['reloads']} reloads, {seconds:g} s"
    )
    for figure in figures:
        print(f"  {figure}")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    result = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "note": options.note,
        "seconds": seconds,
        "figures": [dataclasses.asdict(figure) for figure in figures],
        **seen,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"soak-{options.name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")
    return any(figure.value > figure.limit for figure in figures)


if __name__ == "__main__":
    sys.exit(main())
