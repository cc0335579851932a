"""
What the client costs: to install, to import, per call, per megabyte.

    python benchmarks/client.py                       # all but what needs a wheel
    python benchmarks/client.py call --rounds 20      # one of them
    python benchmarks/client.py installed --wheel dist/servable-*.whl

`installed` makes a fresh environment with the wheel and what it depends on.  `call` and
`async` ask this project's server, which needs the extra `tensorflow`;
`tensors` compares with Python's TensorFlow; so does messages.py, beside this, for
arrays of floats.  Each prints what is asked of its figure.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from servable.apis import predict_pb2
from servable.client import AsyncClient, Client, make_ndarray, make_tensor_proto

MODEL = "half_plus_two"
MEGABYTE = 1_000_000
FOUR_MEGABYTES = np.random.default_rng(0).random(1 << 20, dtype=np.float32)


def imported(rounds: int) -> None:
    """Measure `import servable.client` in processes of their own."""

    def seconds(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - began

    runs = [
        (seconds("pass"), seconds("import numpy"), seconds("import servable.client"))
        for _ in range(rounds)
    ]
    nothing, numpy, client = (min(column) for column in zip(*runs, strict=True))
    say("import servable.client", f"{client - nothing:.3f} s", "at most 0.25 s")
    say("  of which numpy", f"{numpy - nothing:.3f} s")


def installed(wheel: str) -> None:
    """Install *wheel* without extras into a fresh environment, and weigh it."""
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        python = Path(directory, "bin", "python")
        (packages,) = Path(directory).glob("lib/*/site-packages")
        apart = ("numpy", *(path.name for path in packages.iterdir()))  # pip is there
        command = [str(python), "-m", "pip", "install", "--quiet", wheel]
        subprocess.run(command, check=True)
        sizes: dict[str, int] = {}
        byte_code = 0
        for path in packages.rglob("*"):
            top = path.relative_to(packages).parts[0]
            if not path.is_file() or top.startswith(apart):
                continue
            if path.suffix == ".pyc":
                byte_code += path.stat().st_size
            else:
                sizes[top] = sizes.get(top, 0) + path.stat().st_size
    say(
        "installed beyond numpy",
        f"{sum(sizes.values()) / MEGABYTE:.1f} MB",
        "at most 40 MB",
    )
    for top in sorted(sizes, key=sizes.__getitem__, reverse=True)[:5]:
        say(f"  {top}", f"{sizes[top] / MEGABYTE:.1f} MB")
    say("  byte code beside it", f"{byte_code / MEGABYTE:.1f} MB")


def tensors(rounds: int) -> None:
    """Encode and decode, and the same with TensorFlow."""
    from servable.client import dtypes  # noqa: PLC0415 - as the client has them
    from servable.client.operations import Predict, Tensor, model_ref  # noqa: PLC0415
    from servable.client.predict_wire import (  # noqa: PLC0415
        decode_response,
        encode_request,
    )

    tensor = Tensor(FOUR_MEGABYTES, dtypes.parse("float32"))
    operation = Predict(model_ref("m"), "", {"x": tensor})
    response = predict_pb2.PredictResponse()
    proto = response.outputs["y"]
    proto.dtype = 1  # type: ignore[assignment]
    proto.tensor_shape.dim.add(size=FOUR_MEGABYTES.size)
    proto.float_val.extend(FOUR_MEGABYTES.tolist())
    data = response.SerializeToString()
    encode = best(lambda: encode_request(operation), rounds)
    decode = best(lambda: decode_response(data, writable=True), rounds)
    total = f"{(encode + decode) * 1e3:.2f} ms"
    say("4 MB of floats, encoded and decoded", total, "at most 3 ms")

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf  # noqa: PLC0415 - slow, and not always there
    except ModuleNotFoundError:
        print("TensorFlow is not installed: nothing to compare with")
        return
    million = np.arange(1 << 20)
    for name, values in {
        "booleans": million % 2 == 0,
        "complex64": million.astype(np.complex64),
        "uint16": million.astype(np.uint16),
        "list of 131,072 floats": FOUR_MEGABYTES[: 1 << 17].tolist(),
        "list of 131,072 texts": ["text"] * (1 << 17),
    }.items():
        ours = best(lambda v=values: make_tensor_proto(v), rounds)
        theirs = best(lambda v=values: tf.make_tensor_proto(v), rounds)
        compared(f"make_tensor_proto, {name}", ours, theirs)
    for field in ("float_val", "int64_val"):
        mine, other = response.outputs["z"], tf.make_tensor_proto(0)
        for message in (mine, other):
            message.Clear()
            message.dtype = 1 if field == "float_val" else 9
            message.tensor_shape.dim.add(size=million.size)
            getattr(message, field).extend(million.tolist())
        ours = best(lambda m=mine: make_ndarray(m), rounds)
        theirs = best(lambda m=other: tf.make_ndarray(m), rounds)
        compared(f"make_ndarray, {field}", ours, theirs)


def call(rounds: int) -> None:
    """Compare a call with one on a stub of grpcio whose message was made before."""
    import grpc  # noqa: PLC0415 - seldom needed here

    from servable.apis import prediction_service_pb2_grpc  # noqa: PLC0415

    x = np.array([1, 2, 5], np.float32)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.inputs["x"].CopyFrom(make_tensor_proto(x))
    local = [("grpc.use_local_subchannel_pool", 1)]
    with (
        served() as (address, _rest),
        Client(address) as client,
        grpc.insecure_channel(address, local) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        pairs = [
            (
                median(lambda: stub.Predict(request, timeout=10)),
                median(lambda: client.predict(MODEL, {"x": x})),
            )
            for _ in range(rounds)
        ]
    ratio = statistics.median(ours / raw for raw, ours in pairs)
    raw, ours = (statistics.median(column) * 1e6 for column in zip(*pairs, strict=True))
    say("a call, relative to a raw stub", f"{ratio:.2f}", "at most 1.15")
    say("  the stub", f"{raw:.0f} us")
    say("  the client", f"{ours:.0f} us")


def at_once(rounds: int) -> None:
    """Have 64 calls in flight, and count the threads that come for them."""

    async def main(address: str) -> tuple[float, int]:
        x = np.array([1, 2, 5], np.float32)
        async with AsyncClient(address) as client:
            await client.predict(MODEL, {"x": x})
            before = most = threading.active_count()
            began = time.perf_counter()
            for _ in range(rounds):
                tasks = [
                    asyncio.ensure_future(client.predict(MODEL, {"x": x}))
                    for _ in range(64)
                ]
                while not all(task.done() for task in tasks):
                    await asyncio.sleep(0.001)
                    most = max(most, threading.active_count())
            seconds = time.perf_counter() - began
        return seconds / rounds / 64, most - before

    with served() as addresses:
        for name, address in zip(("gRPC", "REST"), addresses, strict=True):
            seconds, threads = asyncio.run(main(address))
            say(f"threads for 64 calls over {name}", str(threads), "not one per call")
            say("  a call", f"{seconds * 1e6:.0f} us")


@contextmanager
def served() -> Iterator[tuple[str, str]]:
    """Run the server; give its addresses for gRPC and REST."""
    import servers  # noqa: PLC0415 - beside this file

    models = servers.build_models()
    with servers.ours({MODEL: models / MODEL}) as process:
        with Client(process.grpc_address) as client:
            client.wait_until_ready(MODEL)
        yield process.grpc_address, f"http://{process.rest_address}"


def median(action: Callable[[], Any], times: int = 300) -> float:
    """Return the median of the seconds that *action* takes."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def best(action: Callable[[], Any], rounds: int) -> float:
    """Return the least CPU time of *action*, in seconds: what it costs undisturbed."""
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        action()
        taken.append(time.process_time() - began)
    return min(taken)


def compared(name: str, ours: float, theirs: float) -> None:
    """Print a time beside TensorFlow's."""
    say(
        name,
        f"{ours * 1e3:.2f} ms",
        f"TensorFlow {theirs * 1e3:.2f}: {theirs / ours:.1f}x",
    )


def say(name: str, figure: str, wanted: str = "") -> None:
    """Print one figure, and what is asked of it."""
    print(f"{name:40}{figure:>12}   {wanted}".rstrip(), flush=True)


BENCHMARKS = {"import": imported, "tensors": tensors, "call": call, "async": at_once}


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[1])
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, "installed", []])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--wheel", help="the wheel that `installed` installs")
    arguments = parser.parse_args()
    for name in arguments.names or BENCHMARKS:
        if name == "installed":
            if arguments.wheel is None:
                parser.error("installed needs --wheel")
            installed(arguments.wheel)
        else:
            BENCHMARKS[name](arguments.rounds)


if __name__ == "__main__":
    main()
