"""
What becomes of a server that is asked for more than it can do.

    python benchmarks/overload.py                  about five minutes
    python benchmarks/overload.py --rounds 1 --seconds 3 --factors 1,10
    python benchmarks/overload.py --deadlines      how late answers are, a minute

An open loop sends as many requests as a model can answer, and two, five and ten times
as many; clients give up after a second.  Answers in time are goodput.  Beside the load
one client at a time asks and takes the time of refusals; after it, the load is what the
server can do, and the first second of that is its recovery.  What the server can do is
measured anew before each, because a machine that is shared does not stay the same.  The
server without limits is there to show that the load is one that hurts.

The model multiplies for some milliseconds in the cache of its core.  The other one,
--model dense_large, takes a millisecond in which it reads 24 MB of weights: there the
cost of sending and refusing, and what they leave of the cache, weighs more.

Deadlines are those of requests whose runs never end: a named pipe is read that nobody
opens for writing.

Servers run on core 0 and the load on core 1.
"""

import argparse
import dataclasses
import http.client
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import grpc
import numpy as np
import servers
from servers import Process

import batching
from servable.apis import types_pb2
from servable.bench import requests
from servable.bench.probe import PREDICT_METHOD
from servable.bench.runner import ClosedLoop, OpenLoop, Report, Spec, run

MODELS: Final = {"multiplying": 256, "dense_large": 1000}  # and columns of the input
TIMEOUT_S: Final = 1.0
SERVERS: Final = {
    "narrow": "--compute_threads=1 --max_queued_requests=1",
    "defaults": "",
    "no limits": "--max_queued_requests=0 --max_concurrent_requests=0 "
    f"--max_in_flight_bytes={2**60}",
}


@dataclasses.dataclass
class Beside:
    """What became of the client that asks beside the load."""

    refusals_s: list[float] = dataclasses.field(default_factory=list)
    answered_per_s: float = 0.0


@dataclasses.dataclass
class Round:
    """One load, and what the server did without it just before."""

    peak: Report
    unloaded: Report
    load: Report
    load_s: float  # in which requests were due; answers come a little longer
    beside: Beside

    def good_per_s(self) -> float:
        """Return how many are answered in time, those beside the load among them."""
        return float(self.load["ok"] / self.load_s + self.beside.answered_per_s)

    def goodput(self) -> float:
        """Return the share of what the server can do that is answered in time."""
        return self.good_per_s() / float(self.peak["requests_per_s"])

    def p99_by_unloaded(self) -> float:
        """Return how much longer the slowest answers take than with one client."""
        return float(
            self.load["latency_us"]["p99"] / self.unloaded["latency_us"]["p99"]
        )


def measure(
    model: str, name: str, factors: list[float], seconds: float, rounds: int
) -> Iterator[dict[str, Any]]:
    """Give a row for each factor, and one for the second after the last."""
    with ExitStack() as running:
        template = f"{servers.OURS} {SERVERS[name]}"
        models = {model: batching.MODELS / model}
        process = running.enter_context(servers.ours(models, template))
        # A server without limits is not told when clients give up, either.
        told = {} if name == "no limits" else {"grpc-timeout": f"{TIMEOUT_S:.0f}S"}
        spec = dataclasses.replace(_spec(process, model), headers=told)
        servers.wait_until_answering(process, spec)
        before_mib = process.rss_bytes() / 2**20
        for factor in factors:
            done = [_round(process, spec, factor, seconds) for _ in range(rounds)]
            grown_mib = process.rss_bytes() / 2**20 - before_mib
            yield _row(name, f"{factor:g} x", done, grown_mib)
        after = [
            _round(process, spec, factors[-1], seconds, recovery=True)
            for _ in range(rounds)
        ]
        grown_mib = process.rss_bytes() / 2**20 - before_mib
        yield _row(name, "0.8 x in the second after", after, grown_mib)


def _round(
    process: Process,
    spec: Spec,
    factor: float,
    seconds: float,
    recovery: bool = False,
) -> Round:
    """Measure one load, or with *recovery* what comes in the second after it."""
    unloaded = run(dataclasses.replace(spec, load=ClosedLoop(1), seconds=seconds))
    peak = run(dataclasses.replace(spec, load=ClosedLoop(2), seconds=seconds))

    def offered(factor: float) -> OpenLoop:
        return OpenLoop(factor * peak["requests_per_s"], max_in_flight=8192)

    with _asking(process, spec) as beside:
        load = run(dataclasses.replace(spec, load=offered(factor), seconds=seconds))
    if recovery:
        after = dataclasses.replace(spec, load=offered(0.8), seconds=1.0, warmup_s=0.0)
        return Round(peak, unloaded, run(after), after.seconds, Beside())
    return Round(peak, unloaded, load, seconds, beside)


def _row(
    name: str, label: str, rounds: list[Round], grown_mib: float
) -> dict[str, Any]:
    refusals_s = [took for one in rounds for took in one.beside.refusals_s]
    errors: Counter[str] = Counter()
    for one in rounds:
        for kind, error in one.load["errors"].items():
            errors[kind] += error["count"]

    def median(value: Callable[[Round], float]) -> float:
        return statistics.median(map(value, rounds))

    return {
        "server": name,
        "load": label,
        "sent_per_s": round(median(lambda r: r.load["requests"] / r.load_s)),
        "good_per_s": round(median(Round.good_per_s)),
        "goodput": round(median(Round.goodput), 3),
        "p99_by_unloaded": round(median(Round.p99_by_unloaded), 1),
        "refusal_p99_ms": (
            round(statistics.quantiles(refusals_s, n=100)[98] * 1e3, 1)
            if len(refusals_s) > 1
            else None
        ),
        "refusals_timed": len(refusals_s),
        "errors": dict(errors),
        "grown_mib": round(grown_mib),
    }


@contextmanager
def _asking(process: Process, spec: Spec) -> Iterator[Beside]:
    """Ask again and again, one at a time."""
    beside = Beside()
    done = threading.Event()

    def ask() -> None:
        answered = 0
        began = time.monotonic()
        with grpc.insecure_channel(process.grpc_address) as channel:
            call: Any = channel.unary_unary(PREDICT_METHOD)
            while not done.wait(0.005):
                asked = time.monotonic()
                try:
                    call(spec.body, timeout=TIMEOUT_S)
                    answered += 1
                except grpc.RpcError as error:
                    if error.code() is grpc.StatusCode.UNAVAILABLE:
                        beside.refusals_s.append(time.monotonic() - asked)
        beside.answered_per_s = answered / (time.monotonic() - began)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield beside
    finally:
        done.set()
        thread.join()


def _spec(process: Process, model: str) -> Spec:
    x = np.random.default_rng(0).random((1, MODELS[model]), np.float32)
    return Spec(
        protocol="grpc",
        address=process.grpc_address,
        path=PREDICT_METHOD,
        body=requests.grpc_body(
            requests.ModelSpec(model, "serving_default"),
            {"x": requests.Input(types_pb2.DT_FLOAT, x)},
        ),
        load=ClosedLoop(1),
        connections=64,
        pid=process.pid,
        timeout_s=TIMEOUT_S,
    )


def deadlines(count: int = 50) -> list[dict[str, Any]]:
    """Return how late answers come to requests whose runs do not end."""
    rows = []
    flags = f"--compute_threads={4 * count} --abandoned_run_seconds=1000"
    with ExitStack() as running:
        models = {name: batching.MODELS / name for name in ("reading", "multiplying")}
        process = running.enter_context(servers.ours(models, f"{servers.OURS} {flags}"))
        servers.wait_until_answering(process, _spec(process, "multiplying"))
        pipe = str(Path(running.enter_context(TemporaryDirectory())) / "pipe")
        os.mkfifo(pipe)
        host, _, port = process.rest_address.rpartition(":")
        body = json.dumps({"inputs": pipe})
        for deadline_ms in (10, 100, 1000):
            late_ms = []
            for _ in range(count):
                connection = http.client.HTTPConnection(host, int(port), timeout=60)
                headers = {"X-Request-Timeout-Ms": str(deadline_ms)}
                with closing(connection):
                    connection.connect()
                    began = time.monotonic()
                    connection.request(
                        "POST", "/v1/models/reading:predict", body, headers
                    )
                    status = connection.getresponse().status
                    took_ms = (time.monotonic() - began) * 1e3
                if status != http.HTTPStatus.GATEWAY_TIMEOUT:
                    raise RuntimeError(f"{status} and not 504")
                late_ms.append(took_ms - deadline_ms)
            rows.append(
                {
                    "deadline_ms": deadline_ms,
                    "requests": count,
                    "late_p50_ms": round(statistics.median(late_ms), 1),
                    "late_p99_ms": round(statistics.quantiles(late_ms, n=100)[98], 1),
                    "late_max_ms": round(max(late_ms), 1),
                }
            )
    return rows


def main() -> None:
    """Measure, print a table, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("servers", nargs="*", metavar="SERVER", help=", ".join(SERVERS))
    parser.add_argument("--seconds", type=float, default=4.0, help="at each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--factors", default="1,2,5,10", help="of what it can do")
    parser.add_argument("--model", choices=MODELS, default=next(iter(MODELS)))
    parser.add_argument("--deadlines", action="store_true", help="measure only those")
    arguments = parser.parse_args()
    batching.MODELS.mkdir(parents=True, exist_ok=True)
    made = [
        sys.executable,
        str(Path(batching.__file__)),
        "--make-models",
        str(batching.MODELS),
    ]
    subprocess.run(made, check=True, capture_output=True)
    servers.pin_load()
    batching.RESULTS.mkdir(exist_ok=True)
    if arguments.deadlines:
        late = deadlines()
        print(*late, sep="\n")
        text = json.dumps(late, indent=1)
        (batching.RESULTS / "deadlines.json").write_text(text + "\n")
        return
    factors = [float(factor) for factor in arguments.factors.split(",")]
    rows = []
    for name in arguments.servers or SERVERS:
        for row in measure(
            arguments.model, name, factors, arguments.seconds, arguments.rounds
        ):
            print(*(f"{key}={value}" for key, value in row.items()), flush=True)
            rows.append(row)
    (batching.RESULTS / "overload.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
