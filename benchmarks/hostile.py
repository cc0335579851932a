"""
What peers that mean harm do to everybody else.

    python benchmarks/hostile.py                       all attacks, about six minutes
    python benchmarks/hostile.py idle --count 1000     one of them, smaller

While an attack goes on, a client asks for x/2+2 over gRPC 200 times a second; its p99
is compared with what it was just before.  Attackers live in a process of their own.
Servers run on core 0, attackers and the client on core 1, where the client goes first:
what is left of the attackers' own cost disturbs it all the same.

Who never reads asks for answers of megabytes, of the client's model; that is over when
the load begins, and what is measured is answers that nobody takes.  leaving is of
clients that go while they are answered: a hundred thousand, in all ways to go.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import multiprocessing
import os
import resource
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np
import servers
from servers import Process

import batching
from servable.apis import types_pb2
from servable.bench import requests
from servable.bench.probe import PREDICT_METHOD
from servable.bench.runner import OpenLoop, Spec, run

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS: Final = b"\0\0\0\x04\0\0\0\0\0"
FLAGS: Final = "--max_connections=20000 --max_connections_per_peer=20000"
PATH: Final = b"/tensorflow.serving.PredictionService/Predict"
LARGE_BODY: Final = b'{"instances": [' + b"1.0," * (1 << 20) + b"1.0]}"


@dataclass
class Peers:
    """What the attackers have done so far."""

    address: tuple[str, int]
    opened: int = 0
    refused: int = 0
    closed_s: list[float] = dataclasses.field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Return a connection, unless there is none for us."""
        try:
            connected = await asyncio.open_connection(*self.address, limit=1 << 12)
        except OSError:
            self.refused += 1
            return None
        self.opened += 1
        return connected

    async def until_closed(self, reader: asyncio.StreamReader, began: float) -> None:
        """Take what comes until the server closes, and how long that took."""
        with contextlib.suppress(OSError):
            while await reader.read(1 << 16):
                pass
        self.closed_s.append(time.monotonic() - began)


async def idle(peers: Peers) -> None:
    """Connect and say nothing more than an honest client would."""
    if (connected := await peers.connect()) is None:
        return
    reader, writer = connected
    began = time.monotonic()
    writer.write(PREFACE + SETTINGS)
    await peers.until_closed(reader, began)


async def slow_head(peers: Peers) -> None:
    """Send a byte of a head every second."""
    if (connected := await peers.connect()) is None:
        return
    reader, writer = connected
    closed = asyncio.ensure_future(peers.until_closed(reader, time.monotonic()))
    with contextlib.suppress(OSError):
        for byte in b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nA: " * 20:
            writer.write(bytes([byte]))
            if (await asyncio.wait([closed], timeout=1))[0]:
                return
    await closed


async def slow_body(peers: Peers) -> None:
    """Promise a megabyte and send a byte of it every second."""
    if (connected := await peers.connect()) is None:
        return
    reader, writer = connected
    closed = asyncio.ensure_future(peers.until_closed(reader, time.monotonic()))
    with contextlib.suppress(OSError):
        head = b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\n"
        writer.write(head + b"Content-Length: 1000000\r\n\r\n{")
        while not (await asyncio.wait([closed], timeout=1))[0]:
            writer.write(b" ")


async def never_reading(peers: Peers) -> None:
    """Ask for answers of megabytes and take nothing of them."""
    loop = asyncio.get_running_loop()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await loop.sock_connect(connection, peers.address)
    peers.opened += 1
    began = time.monotonic()
    head = b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(LARGE_BODY)
    with contextlib.suppress(OSError):
        await loop.sock_sendall(connection, head + LARGE_BODY)
        # Closed by the other side is what a peer that reads nothing sees only so.
        while True:
            await asyncio.sleep(1)
            await loop.sock_sendall(connection, b"X")
    peers.closed_s.append(time.monotonic() - began)


def literal(name: bytes, value: bytes) -> bytes:
    """Return a header field as HPACK has it without tables."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame of HTTP/2."""
    return (
        struct.pack(">I", len(payload) << 8 | kind)
        + struct.pack(">BI", flags, stream)
        + payload
    )


BODY: Final = requests.grpc_body(
    requests.ModelSpec("half_plus_two", "serving_default"),
    {"x": requests.Input(types_pb2.DT_FLOAT, np.array([1, 2, 5], np.float32))},
)
HEADERS: Final = b"".join(
    literal(name, value)
    for name, value in (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", PATH),
        (b":authority", b"x"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
)


CALL: Final = b"\0" + struct.pack(">I", len(BODY)) + BODY


async def rapid_reset(peers: Peers) -> None:
    """Open a call and take it back, as fast as it goes, and again when thrown out."""
    give_up_at = time.monotonic() + 60
    while time.monotonic() < give_up_at:
        if (connected := await peers.connect()) is None:
            return
        reader, writer = connected
        began = time.monotonic()
        closed = asyncio.ensure_future(peers.until_closed(reader, began))
        with contextlib.suppress(OSError):
            writer.write(PREFACE + SETTINGS)
            for first in range(1, 1 << 20, 200):
                writer.write(
                    b"".join(
                        frame(1, 4, stream, HEADERS)
                        + frame(3, 0, stream, struct.pack(">I", 8))
                        for stream in range(first, first + 200, 2)
                    )
                )
                await writer.drain()
                if closed.done():
                    break
        writer.close()
        await closed


async def leaving(peers: Peers) -> None:
    """Ask, and leave in some way before the answer can be there, again and again."""
    ask = frame(1, 4, 1, HEADERS) + frame(0, 1, 1, CALL)
    endings = (
        frame(3, 0, 1, struct.pack(">I", 8)),  # the call is cancelled
        b"",  # the connection is closed
        None,  # the connection is reset
    )
    for at in range(LEAVE):
        if (connected := await peers.connect()) is None:
            return
        _, writer = connected
        ending = endings[at % len(endings)]
        with contextlib.suppress(OSError):
            writer.write(PREFACE + SETTINGS + ask + (ending or b""))
            if ending is None:
                reset = struct.pack("ii", 1, 0)
                connection: socket.socket = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            writer.close()
            await writer.wait_closed()
        peers.closed_s.append(0.0)


# What each attacker does, how many there are, over which port.
ATTACKS: Final[dict[str, tuple[Callable[[Peers], Awaitable[None]], int, str]]] = {
    "idle": (idle, 10_000, "both"),
    "slow_head": (slow_head, 5000, "rest"),
    "slow_preface": (slow_head, 5000, "grpc"),
    "slow_body": (slow_body, 1000, "rest"),
    "never_reading": (never_reading, 200, "rest"),
    "rapid_reset": (rapid_reset, 4, "grpc"),
    "leaving": (leaving, 100, "grpc"),
}
# How long it takes until an attack is what it is to be.
SETTLES_S: Final = {"never_reading": 20.0}
LEAVE: Final = 1000  # times each of them


def _attack(name: str, count: int, addresses: list[str], told: Connection) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    attack = ATTACKS[name][0]
    # The client shares their core, and what it waits there is not the server's doing.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

    async def go_on() -> None:
        parties = []
        tasks: set[asyncio.Future[None]] = set()
        for address in addresses:
            host, _, port = address.rpartition(":")
            peers = Peers((host, int(port)))
            parties.append(peers)
            for at in range(count // len(addresses)):
                tasks.add(asyncio.ensure_future(attack(peers)))
                if at % 100 == 0:
                    await asyncio.sleep(0.02)
        await asyncio.sleep(SETTLES_S.get(name, 1.0))
        told.send(None)
        if name == "leaving":
            await asyncio.gather(*tasks)
            told.send(None)
        await asyncio.to_thread(told.recv)
        closed = [seconds for peers in parties for seconds in peers.closed_s]
        told.send(
            {
                "opened": sum(peers.opened for peers in parties),
                "refused": sum(peers.refused for peers in parties),
                "closed": len(closed),
                "closed_after_s": round(max(closed, default=0), 1),
            }
        )

    asyncio.run(go_on())


def measure(name: str, count: int, seconds: float) -> dict[str, Any]:
    """Return what an attack does to the client and to the server."""
    models = {"half_plus_two": servers.build_models() / "half_plus_two"}
    with servers.ours(models, f"{servers.OURS} {FLAGS}") as process:
        spec = _spec(process, seconds)
        servers.wait_until_answering(process, spec)
        before = run(spec)
        before_mib = process.rss_bytes() / 2**20
        port = ATTACKS[name][2]
        addresses = [process.grpc_address, process.rest_address]
        addresses = {"grpc": addresses[:1], "rest": addresses[1:]}.get(port, addresses)
        ours, theirs = multiprocessing.Pipe()
        attackers = multiprocessing.Process(
            target=_attack, args=(name, count, addresses, theirs)
        )
        attackers.start()
        ours.recv()
        during_mib = process.rss_bytes() / 2**20
        during = run(spec)
        if name == "leaving":
            # All have to have left for what stays behind to be seen.
            ours.recv()
        ours.send(None)
        what: dict[str, Any] = ours.recv()
        attackers.terminate()
        attackers.join()
        time.sleep(2)
        after = run(spec)
        return {
            "attack": name,
            **what,
            "p99_us": [
                round(report["latency_us"]["p99"]) for report in (before, during, after)
            ],
            "p99_ratio": round(
                during["latency_us"]["p99"] / before["latency_us"]["p99"], 2
            ),
            "errors": sum(error["count"] for error in during["errors"].values()),
            "grown_mib": round(during_mib - before_mib, 1),
            "kib_each": round((during_mib - before_mib) * 1024 / count, 1),
            "left_mib": round(process.rss_bytes() / 2**20 - before_mib, 1),
        }


def _spec(process: Process, seconds: float) -> Spec:
    return Spec(
        protocol="grpc",
        address=process.grpc_address,
        path=PREDICT_METHOD,
        body=BODY,
        load=OpenLoop(200),
        seconds=seconds,
        pid=process.pid,
        timeout_s=10.0,
    )


def main() -> None:
    """Measure, print a line for each attack, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=", ".join(ATTACKS))
    parser.add_argument("--count", type=int, default=0, help="of the attackers")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    arguments = parser.parse_args()
    servers.pin_load()
    rows = []
    for name in arguments.attacks or ATTACKS:
        count = arguments.count or ATTACKS[name][1]
        rows.append(measure(name, count, arguments.seconds))
        print(*(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    batching.RESULTS.mkdir(exist_ok=True)
    (batching.RESULTS / "hostile.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
