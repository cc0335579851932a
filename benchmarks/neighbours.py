"""
What clients do to one another who ask one server.

    python benchmarks/neighbours.py                    both, about two minutes
    python benchmarks/neighbours.py greedy --seconds 3
    python benchmarks/neighbours.py poison

greedy: clients who ask seldom, beside one with a thousand requests under way, of
another model or of theirs.  Both models multiply for some milliseconds; the p99 of
who asks seldom is compared with what it is alone, and with two who ask for all that
the server can do, which no order of requests can make better.

poison: requests that fail in the middle of a run, among those that share its batch.
Who does not send them has to be answered as ever, and at what rate.

Servers run on core 0 and the load on core 1.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import servers
from servers import Process

import batching
from lifecycle import publish, saved_model
from servable.apis import predict_pb2, saved_model_pb2, types_pb2
from servable.bench import requests
from servable.bench.probe import PREDICT_METHOD
from servable.bench.runner import ClosedLoop, OpenLoop, Report, Spec, run
from servable.client import make_ndarray, make_tensor_proto

POLITE: Final = 10
GREEDY: Final = 1000
SAFE: Final = 8  # numbers from here on are poison


def together(specs: Sequence[Spec]) -> list[Report]:
    """Carry out all at the same time."""
    with ThreadPoolExecutor(len(specs)) as pool:
        return list(pool.map(run, specs))


def greedy(seconds: float, flags: str) -> Iterator[dict[str, Any]]:
    """Compare the p99 of polite clients alone, and beside others."""
    model = batching.MODELS / "multiplying"
    models = {"polite": model, "other": model}
    with servers.ours(models, f"{servers.OURS} {flags}") as process:
        spec = dataclasses.replace(
            _spec(process, "polite"), seconds=seconds, timeout_s=30.0
        )
        servers.wait_until_answering(process, spec)
        peak = run(dataclasses.replace(spec, load=ClosedLoop(2)))["requests_per_s"]
        # A tenth of what the server can do.
        polite = dataclasses.replace(spec, load=OpenLoop(peak / 10), connections=POLITE)
        alone = run(polite)["latency_us"]["p99"]

        def beside(name: str, load: ClosedLoop) -> dict[str, Any]:
            neighbour = dataclasses.replace(
                spec, body=_spec(process, name).body, load=load, connections=1
            )
            here, there = together([polite, neighbour])
            p99 = here["latency_us"]["p99"]
            return {
                "alone_p99_ms": round(alone / 1e3, 1),
                "p99_ms": round(p99 / 1e3, 1),
                "ratio": round(p99 / alone, 1),
                "errors": _errors(here),
                "others_per_s": round(there["requests_per_s"]),
            }

        for name in ("other", "polite"):
            for count in (2, GREEDY):
                yield {
                    "beside": f"{count} requests under way of "
                    + ("another model" if name == "other" else "the same model"),
                    **beside(name, ClosedLoop(count)),
                }


def _spec(process: Process, name: str) -> Spec:
    x = np.random.default_rng(0).random((1, 256), np.float32)
    return Spec(
        protocol="grpc",
        address=process.grpc_address,
        path=PREDICT_METHOD,
        body=requests.grpc_body(
            requests.ModelSpec(name, "serving_default"),
            {"x": requests.Input(types_pb2.DT_FLOAT, x)},
        ),
        load=ClosedLoop(1),
        pid=process.pid,
    )


def poison(seconds: float, flags: str) -> Iterator[dict[str, Any]]:
    """Compare what is answered with and without requests that fail in a batch."""
    with (
        tempfile.TemporaryDirectory() as directory,
        servers.ours(
            {"m": _picking(Path(directory))},
            f"{servers.OURS} {batching.POLICIES['adaptive']} {flags}",
        ) as process,
    ):
        servers.wait_until_answering(process, _asking(process, 0.0))
        innocent = [
            dataclasses.replace(
                _asking(process, number),
                expected=_answer(process, number),
                load=ClosedLoop(8),
                seconds=seconds,
            )
            for number in range(SAFE)
        ]
        guilty = dataclasses.replace(
            _asking(process, SAFE), load=ClosedLoop(2), seconds=seconds
        )
        alone, beside = [], []
        for _ in range(3):
            alone.append(together(innocent))
            beside.append(together([*innocent, guilty]))
        per_s = [
            statistics.median(
                sum(one["ok"] / one["seconds"] for one in reports[:SAFE])
                for reports in rounds
            )
            for rounds in (alone, beside)
        ]
        yield {
            "clients": 8 * SAFE,
            "poison": f"{2 / (8 * SAFE + 2):.0%}",
            "answers": sum(one["ok"] for reports in beside for one in reports[:SAFE]),
            "wrong_or_failed": sum(
                _errors(one) for reports in beside for one in reports[:SAFE]
            ),
            "poison_that_failed": sum(_errors(reports[SAFE]) for reports in beside),
            "poison_that_did_not": sum(reports[SAFE]["ok"] for reports in beside),
            "alone_per_s": round(per_s[0]),
            "beside_per_s": round(per_s[1]),
            "goodput": round(per_s[1] / per_s[0], 2),
        }


def _picking(directory: Path) -> Path:
    """Write x + table[x], which fails where x is SAFE or more."""
    model = saved_model_pb2.SavedModel.FromString(saved_model())
    graph = model.meta_graphs[0].graph_def
    for node in graph.node:
        if node.name == "c":
            node.attr["value"].tensor.CopyFrom(
                make_tensor_proto(np.arange(SAFE, dtype=np.float32))
            )
        if node.name == "y":
            node.input[1] = "picked"
    index = graph.node.add(name="index", op="Cast", input=["x"])
    index.attr["SrcT"].type = types_pb2.DT_FLOAT
    index.attr["DstT"].type = types_pb2.DT_INT32
    picked = graph.node.add(name="picked", op="Gather", input=["c", "index"])
    picked.attr["Tparams"].type = types_pb2.DT_FLOAT
    picked.attr["Tindices"].type = types_pb2.DT_INT32
    publish(directory / "m", 1, model.SerializeToString())
    return directory / "m"


def _asking(process: Process, number: float) -> Spec:
    return dataclasses.replace(
        _spec(process, "m"),
        body=requests.grpc_body(
            requests.ModelSpec("m", "serving_default"),
            {"x": requests.Input(types_pb2.DT_FLOAT, np.array([number], np.float32))},
        ),
    )


def _answer(process: Process, number: float) -> bytes:
    """
    Return the answer to a request that is alone.

    Raises:
        RuntimeError: it is not twice the number.
    """
    with grpc.insecure_channel(process.grpc_address) as channel:
        call: Any = channel.unary_unary(PREDICT_METHOD)
        answer: bytes = call(_asking(process, number).body)
    y = make_ndarray(predict_pb2.PredictResponse.FromString(answer).outputs["y"])
    if y.tolist() != [2 * number]:
        raise RuntimeError(f"{y} is not twice {number}")
    return answer


def _errors(report: Report) -> int:
    return sum(error["count"] for error in report["errors"].values())


BENCHMARKS: Final = {"greedy": greedy, "poison": poison}


def main() -> None:
    """Measure, print a line for each row, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], metavar="NAME")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--flags", default="", help="more of them for the server")
    arguments = parser.parse_args()
    batching.build_models()
    servers.pin_load()
    rows: dict[str, list[dict[str, Any]]] = {}
    for name in arguments.names or BENCHMARKS:
        rows[name] = []
        for row in BENCHMARKS[name](arguments.seconds, arguments.flags):
            print(name, *(f"{key}={value}" for key, value in row.items()), flush=True)
            rows[name].append(row)
    batching.RESULTS.mkdir(exist_ok=True)
    text = json.dumps(rows, indent=1)
    (batching.RESULTS / "neighbours.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
