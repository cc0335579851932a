"""
The figures of this project, each from one function that can be run alone.

    python benchmarks/run.py                   all of them
    python benchmarks/run.py grpc_small image  two of them
    python benchmarks/run.py --list

Servers run on one core and the load on another.  Servers that are compared are
started and measured in turn, round after round, so that a disturbance of the machine
meets all of them; a figure is the median of its rounds, a ratio the median of the
ratios within a round.  README.md says what the figures mean.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import servers
from servers import Missing, Process

from servable.apis import (
    types_pb2,
)
from servable.bench import requests
from servable.bench.probe import PREDICT_METHOD
from servable.bench.runner import ClosedLoop, Load, OpenLoop, Report, Spec, run

RESULTS: Final = servers.HERE / "results"
Figures = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long and how often things are measured."""

    rounds: int
    seconds: float
    server: str


def grpc_small(settings: Settings) -> Figures:
    """Predict of x/2+2 over gRPC, 32 in flight: CPU by echo, throughput by Python."""
    return _compare(
        settings, _grpc_servers(settings), ClosedLoop(32), _small_grpc("half_plus_two")
    )


def grpc_one(settings: Settings) -> Figures:
    """Predict of x/2+2 over gRPC, one in flight: median latency."""
    return _compare(
        settings, _grpc_servers(settings), ClosedLoop(1), _small_grpc("half_plus_two")
    )


def rest_small(settings: Settings) -> Figures:
    """Predict of x/2+2 over REST, 32 in flight: CPU against the gRPC echo."""
    models = servers.build_models()
    body = _small_grpc("half_plus_two")
    json_body = b'{"instances":[1.0,2.0,5.0]}'

    def spec(process: Process) -> Spec:
        if process.name == "echo":
            return body(process)
        path = "/v1/models/half_plus_two:predict"
        return _spec("rest", process, path, json_body)

    start: dict[str, Callable[[], AbstractContextManager[Process]]] = {
        "echo": servers.echo,
        "ours": lambda: servers.ours(
            {"half_plus_two": models / "half_plus_two"}, settings.server
        ),
    }
    return _compare(settings, start, ClosedLoop(32), spec)


def image(settings: Settings) -> Figures:
    """One 224x224x3 float image, one in flight: median latency less session time."""
    models = servers.build_models()
    random = np.random.default_rng(0)
    pixels = random.random((1, 224, 224, 3), dtype=np.float32)
    inputs = {"x": requests.Input(types_pb2.DT_FLOAT, pixels)}
    model = requests.ModelSpec("image_mean", "serving_default")
    grpc_body = requests.grpc_body(model, inputs)
    rest_body = requests.rest_body(model, inputs)
    session: list[float] = []
    grpc_us: list[float] = []
    rest_us: list[float] = []
    reports = []
    for _ in _rounds(settings):
        session.append(_session_time_us(models / "image_mean" / "1"))
        with servers.ours(
            {"image_mean": models / "image_mean"}, settings.server
        ) as process:
            for spec, times in (
                (_spec("grpc", process, PREDICT_METHOD, grpc_body), grpc_us),
                (_spec("rest", process, f"{model.url}:predict", rest_body), rest_us),
            ):
                try:
                    servers.wait_until_answering(process, spec, timeout_s=30)
                except Missing as reason:
                    print(f"{spec.protocol} is left out: {reason}", file=sys.stderr)
                    continue
                report = _run(spec, ClosedLoop(1), settings.seconds)
                times.append(report["latency_us"]["p50"])
                reports.append({"protocol": spec.protocol, **report})
    session_us = statistics.median(session)
    table = {"session": {"p50_us": session_us}}
    for name, times, body in (
        ("gRPC", grpc_us, grpc_body),
        ("nested JSON", rest_us, rest_body),
    ):
        if times:
            p50 = statistics.median(times)
            table[name] = {
                "p50_us": p50,
                "p50_less_session_us": p50 - session_us,
                "request_bytes": len(body),
            }
    return {"table": table, "reports": reports}


def startup(settings: Settings) -> Figures:
    """From the start of the process to the first answer, x/2+2 over gRPC."""
    make_spec = _small_grpc("half_plus_two")
    table: dict[str, dict[str, float]] = {}
    times: dict[str, list[float]] = {}
    for _ in _rounds(settings):
        for name, start in _grpc_servers(settings).items():
            with start() as process:
                seconds = servers.wait_until_answering(process, make_spec(process))
            times.setdefault(name, []).append(seconds)
    for name, seconds_each in times.items():
        table[name] = {
            "first_answer_s": statistics.median(seconds_each),
            "worst_s": max(seconds_each),
        }
    return {"table": table, "reports": times}


def first(settings: Settings) -> Figures:
    """The first request that ResNet-50 gets after it was loaded, and those after it."""
    models = servers.build_models()
    picture = np.zeros((1, 224, 224, 3), np.float32)
    body = requests.grpc_body(
        requests.ModelSpec("resnet50", "serving_default"),
        {"keras_tensor": requests.Input(types_pb2.DT_FLOAT, picture)},
    )
    loads: list[float] = []
    rounds: list[list[float]] = []
    for _ in _rounds(settings):
        begun = time.monotonic()
        with (
            servers.ours({"resnet50": models / "resnet50"}, settings.server) as process,
            grpc.insecure_channel(process.grpc_address) as channel,
        ):
            _wait_until_alone(process, "resnet50", 1)
            loads.append(time.monotonic() - begun)
            ask: Any = channel.unary_unary(PREDICT_METHOD)
            rounds.append([])
            for _ in range(10):
                begun = time.monotonic()
                ask(body, timeout=60)
                rounds[-1].append(1e3 * (time.monotonic() - begun))
    later = [statistics.median(times[1:]) for times in rounds]
    return {
        "table": {
            "resnet50": {
                "loaded_s": statistics.median(loads),
                "first_ms": statistics.median(times[0] for times in rounds),
                "later_ms": statistics.median(later),
                "first_by_later": statistics.median(
                    times[0] / after for times, after in zip(rounds, later, strict=True)
                ),
            }
        },
        "reports": rounds,
    }


def memory(settings: Settings) -> Figures:
    """Resident memory with x/2+2 loaded: after the first answer, and after load."""
    make_spec = _small_grpc("half_plus_two")
    table = {}
    for name, start in _grpc_servers(settings).items():
        with start() as process:
            spec = make_spec(process)
            servers.wait_until_answering(process, spec)
            first = process.rss_bytes()
            _run(spec, ClosedLoop(32), settings.seconds)
            table[name] = {
                "rss_mb": first / 1e6,
                "rss_after_load_mb": process.rss_bytes() / 1e6,
                "of_it_no_file_mb": process.rss_bytes("RssAnon") / 1e6,
            }
    return {"table": table}


def reload(settings: Settings) -> Figures:
    """
    New versions of ResNet-50 beside x/2+2: its p99, and memory after five.

    A process that does nothing but use the server's core, at the priority of a load, is
    measured for comparison: what it does to the p99 is what the machine does.
    """
    models = servers.build_models()
    rate = OpenLoop(rate=200, arrival="constant")
    moving = servers.BUILD / "reload" / "resnet50"
    shutil.rmtree(moving.parent, ignore_errors=True)
    _publish(models / "resnet50" / "1", moving / "1")
    paths = {"half_plus_two": models / "half_plus_two", "resnet50": moving}
    make_spec = _small_grpc("half_plus_two")
    with servers.ours(paths, settings.server) as process:
        spec = make_spec(process)
        servers.wait_until_answering(process, spec)
        _wait_until_alone(process, "resnet50", 1)
        rss_one = process.rss_bytes()
        begun = time.monotonic()
        # Also says how long the measurement must last to hold four more.
        _load_version(process, models, moving, 2)
        one_load_s = time.monotonic() - begun
        window_s = max(settings.seconds, 3 * one_load_s)
        quiet = _run(spec, rate, window_s)
        with servers.busy_core():
            beside_a_loop = _run(spec, rate, window_s)
        loaded: list[float] = []

        def load_versions() -> None:
            for version in (3, 4, 5):
                begun = time.monotonic()
                _load_version(process, models, moving, version)
                loaded.append(time.monotonic() - begun)

        loader = threading.Thread(target=load_versions)
        loader.start()
        busy = _run(spec, rate, window_s)
        during = len(loaded)
        loader.join()
        rss_five = process.rss_bytes()
    return {
        "table": {
            "quiet": {"p50_us": quiet["latency_us"]["p50"],
                      "p99_us": quiet["latency_us"]["p99"], "rss_mb": rss_one / 1e6},
            "beside a busy loop": {
                "p50_us": beside_a_loop["latency_us"]["p50"],
                "p99_us": beside_a_loop["latency_us"]["p99"],
                "p99_ratio": beside_a_loop["latency_us"]["p99"]
                / quiet["latency_us"]["p99"],
            },
            "while loading": {
                "p50_us": busy["latency_us"]["p50"],
                "p99_us": busy["latency_us"]["p99"],
                "rss_mb": rss_five / 1e6,
                "p99_ratio": busy["latency_us"]["p99"] / quiet["latency_us"]["p99"],
                "loads_inside": during,
                "load_s": statistics.median([one_load_s, *loaded]),
            },
        },
        "reports": [quiet, beside_a_loop, busy],
    }  # fmt: skip


def generators(settings: Settings) -> Figures:
    """The load generator against one made with gRPC's C++ client, on the same echo."""
    make_spec = _small_grpc("half_plus_two")
    body = servers.BUILD / "body"
    rows: dict[str, list[dict[str, float]]] = {}
    for in_flight in (1, 32):
        for _ in _rounds(settings):
            with servers.echo() as process:
                spec = make_spec(process)
                servers.wait_until_answering(process, spec)
                body.write_bytes(spec.body)
                report = _run(spec, ClosedLoop(in_flight), settings.seconds)
                rows.setdefault(f"ours, {in_flight} in flight", []).append(
                    {
                        "requests_per_s": report["requests_per_s"],
                        "p50_us": report["latency_us"]["p50"],
                        "p99_us": report["latency_us"]["p99"],
                        "client_us": report["client_cpu_us_per_request"],
                    }
                )
                rows.setdefault(f"C++, {in_flight} in flight", []).append(
                    _cpp_load(process, spec, body, in_flight, settings.seconds)
                )
    return {"table": {name: _median(each) for name, each in rows.items()}}


def _cpp_load(
    process: Process, spec: Spec, body: Path, in_flight: int, seconds: float
) -> dict[str, float]:
    command = [str(servers.BUILD / "load"), process.grpc_address, spec.path, str(body)]
    command += [str(in_flight), str(seconds)]
    output = subprocess.run(command, check=True, capture_output=True).stdout
    report = json.loads(output)
    # Its CPU time includes the second that is not counted.
    counted = report["client_cpu_s"] * seconds / (seconds + 1)
    return {
        "requests_per_s": report["requests_per_s"],
        "p50_us": report["p50"],
        "p99_us": report["p99"],
        "client_us": counted / report["ok"] * 1e6,
    }


BENCHMARKS: Final[Mapping[str, Callable[[Settings], Figures]]] = {
    function.__name__: function
    for function in (
        grpc_small,
        grpc_one,
        rest_small,
        image,
        startup,
        first,
        memory,
        reload,
        generators,
    )
}


Servers = Mapping[str, Callable[[], AbstractContextManager[Process]]]


def _grpc_servers(settings: Settings) -> Servers:
    models = servers.build_models()
    model = models / "half_plus_two"
    return {
        "echo": servers.echo,
        "ours": lambda: servers.ours({"half_plus_two": model}, settings.server),
        "grpcio sync": lambda: servers.reference("sync", model),
        "grpcio asyncio": lambda: servers.reference("asyncio", model),
    }


def _compare(
    settings: Settings,
    start: Servers,
    load: Load,
    make_spec: Callable[[Process], Spec],
) -> Figures:
    """Measure every server in every round; all run at once, and wait for their turn."""
    rounds: list[dict[str, Report]] = []
    with ExitStack() as running:
        processes = {}
        for name, starts in start.items():
            try:
                process = running.enter_context(starts())
                servers.wait_until_answering(process, make_spec(process))
            except Missing as reason:
                print(f"{name} is left out: {reason}", file=sys.stderr)
                continue
            processes[name] = process
        for _ in _rounds(settings):
            each = {}
            for name, process in processes.items():
                each[name] = _run(make_spec(process), load, settings.seconds)
            rounds += [each]
    table = {
        name: _median([_columns(each[name]) for each in rounds]) for name in processes
    }
    for name in processes:
        if "ours" in processes and name != "ours":
            table[name].update(
                _median([_ratios(each["ours"], each[name]) for each in rounds])
            )
    return {"table": table, "reports": rounds}


def _columns(report: Report) -> dict[str, float]:
    server = report["server"]
    return {
        "server_cpu_us": server["cpu_us_per_request"] if server else float("nan"),
        "requests_per_s": report["requests_per_s"],
        "p50_us": report["latency_us"]["p50"],
        "p99_us": report["latency_us"]["p99"],
    }


def _ratios(ours: Report, other: Report) -> dict[str, float]:
    mine, theirs = _columns(ours), _columns(other)
    return {
        "ours_cpu_ratio": mine["server_cpu_us"] / theirs["server_cpu_us"],
        "ours_rate_ratio": mine["requests_per_s"] / theirs["requests_per_s"],
        "ours_p50_ratio": mine["p50_us"] / theirs["p50_us"],
    }


def _median(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def _rounds(settings: Settings) -> Iterator[int]:
    for number in range(settings.rounds):
        print(f"  round {number + 1} of {settings.rounds}", file=sys.stderr)
        yield number


def _small_grpc(name: str) -> Callable[[Process], Spec]:
    x = np.array([1.0, 2.0, 5.0], np.float32)
    body = requests.grpc_body(
        requests.ModelSpec(name, "serving_default"),
        {"x": requests.Input(types_pb2.DT_FLOAT, x)},
    )
    return lambda process: _spec("grpc", process, PREDICT_METHOD, body)


def _spec(protocol: str, process: Process, path: str, body: bytes) -> Spec:
    grpc_chosen = protocol == "grpc"
    return Spec(
        protocol="grpc" if grpc_chosen else "rest",
        address=process.grpc_address if grpc_chosen else process.rest_address,
        path=path,
        body=body,
        load=ClosedLoop(1),
        pid=process.pid,
    )


def _run(spec: Spec, load: Load, seconds: float) -> Report:
    report = run(dataclasses.replace(spec, load=load, seconds=seconds, warmup_s=1.0))
    if report["errors"]:
        raise SystemExit(f"errors under load, no figures: {report['errors']}")
    return report


def _session_time_us(model: Path) -> float:
    command = [sys.executable, str(servers.HERE / "models.py"), "--session-time"]
    if (os.cpu_count() or 1) > 1:
        command = ["taskset", "-c", str(servers.SERVER_CORE), *command]
    output = subprocess.run([*command, str(model)], check=True, capture_output=True)
    return float(output.stdout.split()[-1])


def _load_version(process: Process, models: Path, moving: Path, version: int) -> None:
    _publish(models / "resnet50" / "1", moving / str(version))
    _wait_until_alone(process, "resnet50", version)


def _publish(source: Path, target: Path) -> None:
    """Make a version appear at once and whole; hard links, so no disk is measured."""
    part = target.parent.parent / f"{target.name}.part"
    shutil.copytree(source, part, copy_function=os.link)
    target.parent.mkdir(parents=True, exist_ok=True)
    part.rename(target)


def _wait_until_alone(process: Process, name: str, version: int) -> None:
    """
    Wait until *version* is served and every other one is gone.

    It looks seldom and with little, because it shares a core with the load.
    """
    url = f"http://{process.rest_address}/v1/models/{name}"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url) as answer:  # noqa: S310 - our own
            live = {
                status["version"]: status["state"]
                for status in json.load(answer)["model_version_status"]
                if status["state"] != "END"
            }
            if live == {str(version): "AVAILABLE"}:
                return
        time.sleep(0.2)
    raise SystemExit(f"version {version} of {name} is not the only one served")


def _print(name: str, figures: Figures) -> None:
    table: dict[str, dict[str, float]] = figures["table"]
    columns = list(dict.fromkeys(key for row in table.values() for key in row))
    width = max(len(row) for row in table)
    print(f"\n{name}: {BENCHMARKS[name].__doc__}")
    print(" " * width, *(f"{column:>{max(9, len(column))}}" for column in columns))
    for row, values in table.items():
        cells = [
            f"{_number(values.get(column)):>{max(9, len(column))}}"
            for column in columns
        ]
        print(f"{row:<{width}}", *cells)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _machine() -> dict[str, Any]:
    cpu = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    commit = subprocess.run(
        ["git", "-C", str(servers.HERE), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "commit": commit.stdout.strip(),
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "grpcio": grpc.__version__,
    }


def main() -> None:
    """Run the benchmarks named, print their tables and write results/*.json."""
    parser = argparse.ArgumentParser(description="The figures of this project.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one measurement")
    parser.add_argument(
        "--server", default=servers.OURS, help=f"command to measure: {servers.OURS}"
    )
    arguments = parser.parse_args()
    if arguments.list:
        for name, function in BENCHMARKS.items():
            print(f"{name:12} {function.__doc__}")
        return
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {[*BENCHMARKS]}")
    settings = Settings(arguments.rounds, arguments.seconds, arguments.server)
    machine = _machine()
    servers.pin_load()
    RESULTS.mkdir(exist_ok=True)
    for name in arguments.names or BENCHMARKS:
        print(f"{name} …", file=sys.stderr)
        try:
            figures = BENCHMARKS[name](settings)
        except Missing as reason:
            print(f"{name} is left out: {reason}", file=sys.stderr)
            continue
        result = {
            "benchmark": name,
            "machine": machine,
            "settings": dataclasses.asdict(settings),
            **figures,
        }
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        _print(name, figures)


if __name__ == "__main__":
    main()
