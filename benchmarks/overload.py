"""
What becomes of a server that is asked for more than it can do.

    python benchmarks/overload.py                  about five minutes
    python benchmarks/overload.py --seconds 3 --factors 1,10
    python benchmarks/overload.py --deadlines      how late answers are, a minute

An open loop sends as many requests as dense_large can answer, and two, five and ten
times as many; clients give up after a second.  Answers in time are goodput.  Beside
the load one client at a time asks and takes the time of refusals; after it, the load
is what the server can do, and the first second of that is its recovery.  The server
without limits is there to show that the load is one that hurts.

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
from collections.abc import Iterator
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

MODEL: Final = "dense_large"
TIMEOUT_S: Final = 1.0
SERVERS: Final = {
    "narrow": "--max_queued_requests=64",
    "defaults": "",
    "no limits": "--max_queued_requests=0 --max_concurrent_requests=0 "
    f"--max_in_flight_bytes={2**60}",
}


def measure(name: str, flags: str, factors: list[float], seconds: float) -> list[Any]:
    """Return a row for each factor, and one for the second after the last."""
    with ExitStack() as running:
        template = f"{servers.OURS} {flags}"
        models = {MODEL: batching.MODELS / MODEL}
        process = running.enter_context(servers.ours(models, template))
        spec = _spec(process)
        servers.wait_until_answering(process, spec)
        peak = run(dataclasses.replace(spec, load=ClosedLoop(16), seconds=seconds))
        before_mib = process.rss_bytes() / 2**20
        unloaded = run(dataclasses.replace(spec, load=ClosedLoop(1), seconds=seconds))
        rows = [_row(name, "peak", peak, peak, unloaded, process, before_mib, [])]
        for factor in factors:
            load = OpenLoop(factor * peak["requests_per_s"], max_in_flight=8192)
            with _refusals(process, spec) as refusals:
                report = run(dataclasses.replace(spec, load=load, seconds=seconds))
            label = f"{factor:g} x"
            row = _row(
                name, label, report, peak, unloaded, process, before_mib, refusals
            )
            rows.append(row)
        load = OpenLoop(0.8 * peak["requests_per_s"], max_in_flight=8192)
        after = dataclasses.replace(spec, load=load, seconds=1.0, warmup_s=0.0)
        report = run(after)
        rows.append(
            _row(name, "0.8 x after", report, peak, unloaded, process, before_mib, [])
        )
    return rows


def _row(
    name: str,
    label: str,
    report: Report,
    peak: Report,
    unloaded: Report,
    process: Process,
    before_mib: float,
    refusals: list[float],
) -> dict[str, Any]:
    good = report["ok"] / report["seconds"]
    errors = {kind: error["count"] for kind, error in report["errors"].items()}
    return {
        "server": name,
        "load": label,
        "sent_per_s": round(report["requests"] / report["seconds"]),
        "good_per_s": round(good),
        "goodput": round(good / (peak["ok"] / peak["seconds"]), 3),
        "p99_by_unloaded": round(
            report["latency_us"]["p99"] / unloaded["latency_us"]["p99"], 1
        ),
        "refusal_p99_ms": (
            round(statistics.quantiles(refusals, n=100)[98] * 1e3, 1)
            if len(refusals) > 1
            else None
        ),
        "refusals_timed": len(refusals),
        "errors": errors,
        "grown_mib": round(process.rss_bytes() / 2**20 - before_mib),
    }


@contextmanager
def _refusals(process: Process, spec: Spec) -> Iterator[list[float]]:
    """Ask again and again, and collect the seconds that refusals take."""
    times: list[float] = []
    done = threading.Event()

    def ask() -> None:
        with grpc.insecure_channel(process.grpc_address) as channel:
            call: Any = channel.unary_unary(PREDICT_METHOD)
            while not done.wait(0.005):
                began = time.monotonic()
                try:
                    call(spec.body, timeout=TIMEOUT_S)
                except grpc.RpcError as error:
                    if error.code() is grpc.StatusCode.UNAVAILABLE:
                        times.append(time.monotonic() - began)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield times
    finally:
        done.set()
        thread.join()


def _spec(process: Process) -> Spec:
    x = np.random.default_rng(0).random((1, 1000), np.float32)
    return Spec(
        protocol="grpc",
        address=process.grpc_address,
        path=PREDICT_METHOD,
        body=requests.grpc_body(
            requests.ModelSpec(MODEL, "serving_default"),
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
        models = {name: batching.MODELS / name for name in ("reading", MODEL)}
        process = running.enter_context(servers.ours(models, f"{servers.OURS} {flags}"))
        servers.wait_until_answering(process, _spec(process))
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
    parser.add_argument("--seconds", type=float, default=20.0, help="at each load")
    parser.add_argument("--factors", default="1,2,5,10", help="of what it can do")
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
        for row in measure(name, SERVERS[name], factors, arguments.seconds):
            print(*(f"{key}={value}" for key, value in row.items()), flush=True)
            rows.append(row)
    (batching.RESULTS / "overload.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
