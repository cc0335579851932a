"""
What the way to a model in C++ costs, in server CPU for each request over gRPC.

    python benchmarks/native.py [--rounds 5] [--seconds 4]

One server has three models that give back what they get: a native servable that copies
its input, a SavedModel of one Identity, and a look-up table whose rows are its keys.
They are measured in turn, round after round, with three integers and with 600 KB; the
figures are medians, and the ratios those within a round.  The table gets no 600 KB: it
would look each integer up.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import servers

from servable.apis import saved_model_pb2, types_pb2
from servable.bench import requests
from servable.bench.probe import PREDICT_METHOD
from servable.bench.runner import ClosedLoop, Report, Spec, run
from servable.cli.include import include_directory

MODELS = servers.BUILD / "native"
SOURCE = servers.HERE / "peers" / "cpp" / "copy.cc"
PLATFORMS = {"copy": "native", "identity": "tensorflow", "table": "hashmap"}
SIZES = {"three": 3, "600 KB": 75_000}
IN_FLIGHT = {"three": 32, "600 KB": 4}
OUR_ECHO = "identity"


def build_models() -> dict[str, Path]:
    """Make the three models; return their base paths."""
    if shutil.which("g++") is None:
        raise servers.Missing("a native servable needs g++")
    versions = {name: MODELS / name / "1" for name in PLATFORMS}
    for version in versions.values():
        version.mkdir(parents=True, exist_ok=True)
    flags = ["-std=c++17", "-O2", "-shared", "-fPIC", "-fvisibility=hidden"]
    command = ["g++", *flags, "-fno-gnu-unique", f"-I{include_directory()}"]
    library = versions["copy"] / "servable.so"
    subprocess.run([*command, str(SOURCE), "-o", str(library)], check=True)
    (versions["identity"] / "saved_model.pb").write_bytes(_identity())
    numbers = range(SIZES["three"])
    rows = "".join(f'{{"keys": {number}, "y": {number}}}\n' for number in numbers)
    (versions["table"] / "table.jsonl").write_text(rows)
    return {name: version.parent for name, version in versions.items()}


def _identity() -> bytes:
    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta_graph = model.meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    meta_graph.graph_def.versions.producer = 1882
    node = meta_graph.graph_def.node
    node.add(name="x", op="Placeholder").attr["dtype"].type = types_pb2.DT_INT64
    node.add(name="y", op="Identity", input=["x"]).attr["T"].type = types_pb2.DT_INT64
    signature = meta_graph.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    for infos, name in ((signature.inputs, "x"), (signature.outputs, "y")):
        infos[name].name, infos[name].dtype = f"{name}:0", types_pb2.DT_INT64
        infos[name].tensor_shape.dim.add(size=-1)
    return model.SerializeToString()


def measure(process: servers.Process, model: str, size: str, seconds: float) -> Report:
    """Ask one model for so many seconds."""
    alias = "keys" if model == "table" else "x"
    numbers = np.arange(SIZES[size], dtype=np.int64)
    body = requests.grpc_body(
        requests.ModelSpec(model, "serving_default"),
        {alias: requests.Input(types_pb2.DT_INT64, numbers)},
    )
    spec = Spec(
        "grpc", process.grpc_address, PREDICT_METHOD, body,
        ClosedLoop(IN_FLIGHT[size]), seconds=seconds, pid=process.pid,
    )  # fmt: skip
    servers.wait_until_answering(process, spec)
    report = run(spec)
    if report["errors"]:
        raise SystemExit(f"errors under load, no figures: {report['errors']}")
    return report


def cpu_us(report: Report) -> float:
    """Return the server CPU of a request."""
    usage = report["server"]
    return usage["cpu_us_per_request"] if usage else float("nan")


def show(size: str, rounds: list[Mapping[str, float]]) -> None:
    """Print the medians of what was measured with one size."""
    for name in rounds[0]:
        cost = statistics.median(one[name] for one in rounds)
        ratios = [one[name] / one[OUR_ECHO] for one in rounds]
        ratio = statistics.median(ratios)
        each = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{size:8} {name:10} {cost:9.1f} µs  {ratio:5.2f} of {OUR_ECHO} ({each})")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description="The cost of a model in C++.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    template = f"{servers.OURS} --allow_native_models"
    servers.pin_load()
    with servers.ours(build_models(), template, PLATFORMS) as process:
        for size in SIZES:
            names = [n for n in PLATFORMS if n != "table" or size == "three"]
            rounds: list[Mapping[str, float]] = []
            for number in range(arguments.rounds):
                print(f"  {size}: round {number + 1}", file=sys.stderr)
                costs = {
                    name: cpu_us(measure(process, name, size, arguments.seconds))
                    for name in names
                }
                rounds.append(costs)
            show(size, rounds)


if __name__ == "__main__":
    main()
