"""
What batching is worth: throughput at rising concurrency, alone, and under overload.

    python benchmarks/batching.py --list
    python benchmarks/batching.py                       # everything, about half an hour
    python benchmarks/batching.py dense_large --seconds 2 --rounds 1
    python benchmarks/batching.py image --clients 1,8,64 --policies adaptive

Every server runs on core 0 and the load on core 1.  Servers that are compared run at
once and are measured in turn, in short rounds whose order is turned round each time, so
that what disturbs one disturbs all: ratios are medians of the ratios within rounds.
`…_per_cpu` is the ratio of requests for each second of CPU time of the server, over all
rounds: the same where the core is all its own, and still worth a look where it is not.
Each benchmark prints a table and writes results/batching_NAME.json.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import servers
from servers import Process

from servable.apis import types_pb2
from servable.bench import requests
from servable.bench.probe import PREDICT_METHOD
from servable.bench.runner import ClosedLoop, Load, OpenLoop, Report, Spec, run

MODELS: Final = servers.BUILD / "batching-models"
RESULTS: Final = servers.HERE / "results"
CLIENTS: Final = (1, 2, 4, 8, 16, 32, 64)

POLICIES: Final = {
    "off": "",
    "fixed": "--enable_batching --batching_parameters_file={parameters}",
    "adaptive": "--enable_batching --batching_policy=adaptive",
}
FIXED: Final = """
max_batch_size { value: 64 }
batch_timeout_micros { value: 0 }
max_enqueued_batches { value: 1000 }
num_batch_threads { value: 1 }
"""


@dataclass(frozen=True)
class Settings:
    """
    How long is measured, how often, and of what.

    other is the command of the server; clients are as many as ask at a time, policies
    what batching is compared with none.
    """

    rounds: int
    seconds: float
    warmup_s: float
    clients: tuple[int, ...]
    policies: tuple[str, ...]
    other: str


Figures = dict[str, Any]


def dense_small(settings: Settings) -> Figures:
    """Requests/s of a dense model 100-256-64-1, by clients."""
    return _by_clients(settings, "dense_small", (100,))


def dense_large(settings: Settings) -> Figures:
    """Requests/s of a dense model 1000-2000-2000-10, by clients."""
    return _by_clients(settings, "dense_large", (1000,))


def image(settings: Settings) -> Figures:
    """Requests/s of a convolutional model of 96x96x3 images, by clients."""
    return _by_clients(settings, "image", (96, 96, 3))


def overload(settings: Settings) -> Figures:
    """Goodput and p99 of dense_large at twice what it can do, adaptive policy."""
    factors = (0.8, 1.0, 2.0)
    rounds: list[dict[str, Report]] = []
    with ExitStack() as running:
        process = _start(running, settings, "dense_large", "adaptive")
        spec = _spec(process, "dense_large", (1000,))
        servers.wait_until_answering(process, spec)
        for _ in range(settings.rounds):
            # What it can do is measured anew each time: the machine may be another's.
            reports = {"peak, 64 clients": _run(spec, ClosedLoop(64), settings)}
            peak = reports["peak, 64 clients"]["requests_per_s"]
            for factor in factors:
                load = OpenLoop(factor * peak, max_in_flight=4096)
                reports[f"{factor:g} x peak"] = _run(spec, load, settings)
            rounds.append(reports)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    table = {name: _overload_row(name, rounds) for name in rounds[0]}
    return {"table": table, "reports": rounds}


def _overload_row(
    name: str, rounds: Sequence[Mapping[str, Report]]
) -> dict[str, float]:
    def good_per_s(report: Report) -> float:
        return report["ok"] / report["seconds"]

    def median(value: Callable[[Report, Report], float]) -> float:
        peaks = [reports["peak, 64 clients"] for reports in rounds]
        return statistics.median(
            value(reports[name], peak)
            for reports, peak in zip(rounds, peaks, strict=True)
        )

    return {
        "good_per_s": median(lambda report, _: good_per_s(report)),
        "refused": median(lambda report, _: report["requests"] - report["ok"]),
        "p50_us": median(lambda report, _: report["latency_us"]["p50"]),
        "p99_us": median(lambda report, _: report["latency_us"]["p99"]),
        "goodput_ratio": median(
            lambda report, peak: good_per_s(report) / good_per_s(peak)
        ),
        "p99_ratio": median(
            lambda report, peak: report["latency_us"]["p99"] / peak["latency_us"]["p99"]
        ),
    }


BENCHMARKS: Final[dict[str, Callable[[Settings], Figures]]] = {
    function.__name__: function
    for function in (dense_small, dense_large, image, overload)
}


def _by_clients(settings: Settings, model: str, shape: tuple[int, ...]) -> Figures:
    rows: dict[int, list[dict[str, Report]]] = {count: [] for count in settings.clients}
    with ExitStack() as running:
        specs = {}
        for policy in ("off", *settings.policies):
            process = _start(running, settings, model, policy)
            specs[policy] = _spec(process, model, shape)
            servers.wait_until_answering(process, specs[policy])
        for count, number in itertools.product(
            settings.clients, range(settings.rounds)
        ):
            order = list(specs) if number % 2 else list(reversed(specs))
            rows[count].append(
                {
                    policy: _run(specs[policy], ClosedLoop(count), settings)
                    for policy in order
                }
            )
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    table = {
        f"{count} clients": _row(each, settings.policies)
        for count, each in rows.items()
    }
    return {"table": table, "reports": {str(key): value for key, value in rows.items()}}


def _row(
    rounds: Sequence[Mapping[str, Report]], policies: Sequence[str]
) -> dict[str, float]:
    def ratio(policy: str, value: Callable[[Report], float]) -> float:
        return statistics.median(
            value(each[policy]) / value(each["off"]) for each in rounds
        )

    row = {
        f"{policy}_per_s": statistics.median(
            each[policy]["requests_per_s"] for each in rounds
        )
        for policy in ("off", *policies)
    }
    for policy in policies:
        row[f"{policy}_ratio"] = ratio(policy, lambda one: one["requests_per_s"])
        row[f"{policy}_per_cpu"] = _cpu_us(rounds, "off") / _cpu_us(rounds, policy)
        row[f"{policy}_p50"] = ratio(policy, lambda one: one["latency_us"]["p50"])
    return row


def _cpu_us(rounds: Sequence[Mapping[str, Report]], policy: str) -> float:
    """Return the CPU time of a request over all rounds: a short one has few ticks."""
    used, requests = 0.0, 0
    for reports in rounds:
        report = reports[policy]
        server = report["server"]
        assert server is not None, "the server has ended"
        used += server["cpu_us_per_request"] * report["requests"]
        requests += report["requests"]
    return max(used, 1.0) / max(requests, 1)


def _start(running: ExitStack, settings: Settings, model: str, policy: str) -> Process:
    folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
    parameters = folder / "batching.txt"
    parameters.write_text(FIXED)
    flags = POLICIES[policy].replace("{parameters}", str(parameters))
    template = f"{settings.other} {flags}"
    return running.enter_context(servers.ours({model: MODELS / model}, template))


def _spec(process: Process, model: str, shape: tuple[int, ...]) -> Spec:
    x = np.random.default_rng(0).random((1, *shape), np.float32)
    return Spec(
        protocol="grpc",
        address=process.grpc_address,
        path=PREDICT_METHOD,
        body=requests.grpc_body(
            requests.ModelSpec(model, "serving_default"),
            {"x": requests.Input(types_pb2.DT_FLOAT, x)},
        ),
        load=ClosedLoop(1),
        pid=process.pid,
        timeout_s=10.0,
    )


def _run(spec: Spec, load: Load, settings: Settings) -> Report:
    return run(
        dataclasses.replace(
            spec, load=load, seconds=settings.seconds, warmup_s=settings.warmup_s
        )
    )


def build_models() -> None:
    """Make the models that are not there, in another process."""
    MODELS.mkdir(parents=True, exist_ok=True)
    made = [sys.executable, __file__, "--make-models", str(MODELS)]
    subprocess.run(made, check=True, capture_output=True)


def make_models(directory: Path) -> None:  # noqa: C901 - a function for each model
    """Make the models that are not there yet; imports TensorFlow."""
    import tensorflow as tf  # noqa: PLC0415 - in a process of its own

    random = np.random.default_rng(0)

    def weights(*shape: int) -> Any:
        scale = 1.0 / np.sqrt(np.prod(shape[:-1]))
        return tf.constant((random.standard_normal(shape) * scale).astype(np.float32))

    def dense(*sizes: int) -> tuple[Any, Any]:
        layers = [weights(*pair) for pair in itertools.pairwise(sizes)]

        def model(x: Any) -> Any:
            for layer in layers[:-1]:
                x = tf.nn.relu(x @ layer)
            return {"y": x @ layers[-1]}

        return model, tf.TensorSpec([None, sizes[0]], tf.float32, "x")

    def convolutional() -> tuple[Any, Any]:
        channels = (3, 32, 64, 128, 128)
        layers = [weights(3, 3, *pair) for pair in itertools.pairwise(channels)]
        last = weights(channels[-1], 1000)

        def model(x: Any) -> Any:
            for layer in layers:
                x = tf.nn.relu(tf.nn.conv2d(x, layer, strides=2, padding="SAME"))
            return {"y": tf.reduce_mean(x, axis=[1, 2]) @ last}

        return model, tf.TensorSpec([None, 96, 96, 3], tf.float32, "x")

    def multiplying() -> tuple[Any, Any]:
        # Some milliseconds in which nothing but the cache of a core is read.
        layer = weights(256, 256)

        def model(x: Any) -> Any:
            square = tf.tile(x, [256, 1])
            for _ in range(10):
                square = tf.nn.relu(square @ layer)
            return {"y": square[:1]}

        return model, tf.TensorSpec([1, 256], tf.float32, "x")

    def reading() -> tuple[Any, Any]:
        return lambda x: {"y": tf.io.read_file(x)}, tf.TensorSpec([], tf.string, "x")

    for name, (model, signature) in {
        "dense_small": dense(100, 256, 64, 1),
        "dense_large": dense(1000, 2000, 2000, 10),
        "image": convolutional(),
        "multiplying": multiplying(),
        "reading": reading(),
    }.items():
        final = directory / name / "1"
        if final.exists():
            continue
        module = tf.Module()
        module.serve = tf.function(model, input_signature=[signature])
        made = directory / f"{name}.part"
        tf.saved_model.save(module, str(made), signatures=module.serve)
        final.parent.mkdir(parents=True, exist_ok=True)
        made.rename(final)


def _print(name: str, figures: Figures) -> None:
    table: dict[str, dict[str, float]] = figures["table"]
    columns = list(dict.fromkeys(key for row in table.values() for key in row))
    width = max(len(row) for row in table)
    print(f"\n{name}: {BENCHMARKS[name].__doc__}")
    print(" " * width, *(f"{column:>{max(9, len(column))}}" for column in columns))
    for row, values in table.items():
        cells = [f"{values[column]:>{max(9, len(column))}.4g}" for column in columns]
        print(f"{row:<{width}}", *cells)


def main() -> None:
    """Run the benchmarks named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one measurement")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before it")
    parser.add_argument(
        "--clients", default=",".join(map(str, CLIENTS)), help="at a time, each in turn"
    )
    parser.add_argument(
        "--policies", default="fixed,adaptive", help="compared with no batching"
    )
    parser.add_argument("--server", default=servers.OURS, help="command of the server")
    parser.add_argument("--make-models", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make_models:
        make_models(arguments.make_models)
        return
    if arguments.list:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name}: {benchmark.__doc__}")
        return
    names = arguments.names or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    build_models()
    servers.pin_load()
    settings = Settings(
        arguments.rounds,
        arguments.seconds,
        arguments.warmup,
        tuple(int(count) for count in arguments.clients.split(",")),
        tuple(arguments.policies.split(",")),
        arguments.server,
    )
    RESULTS.mkdir(exist_ok=True)
    for name in names:
        figures = BENCHMARKS[name](settings)
        _print(name, figures)
        text = json.dumps({"settings": dataclasses.asdict(settings), **figures})
        (RESULTS / f"batching_{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
