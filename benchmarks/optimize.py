"""
What `servable optimize` is worth on MobileNetV2.

    python benchmarks/optimize.py [--rounds N] [--seconds S]

The model has random weights and takes one image of 224x224.  It is exported and
optimized in processes of their own; then both are asked in turns, on this thread and
without a socket, and the CPU time of a request is compared.  The exit status is 1 if
the optimized one is not 1.2 times as fast.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from servable.apis import get_model_metadata_pb2, predict_pb2
from servable.client import make_tensor_proto
from servable.platforms.tensorflow import TensorFlowPlatform

WANTED: Final = 1.2
PREDICT: Final = 6
EXPORT: Final = """
import sys
import keras
import numpy as np
from servable.export import export

model = keras.applications.MobileNetV2(weights=None)
image = np.random.default_rng(1).random((1, 224, 224, 3), np.float32)
name = model.input_names[0] if hasattr(model, "input_names") else model.inputs[0].name
export(model, sys.argv[1], samples={"serving_default": {name: image}})
"""


def main() -> int:
    """Print the figure; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        base, optimized = Path(directory, "plain"), Path(directory, "optimized")
        subprocess.run([sys.executable, "-c", EXPORT, str(base)], check=True)
        command = [sys.executable, "-m", "servable", "optimize"]
        subprocess.run([*command, str(base), str(optimized)], check=True)
        models = [_opened(base / "1"), _opened(optimized)]
    for model in models:
        _cpu_s(model, 0.1)
    rounds = [
        [_cpu_s(model, options.seconds) for model in models]
        for _ in range(options.rounds)
    ]
    plain, fast = (statistics.median(times) for times in zip(*rounds, strict=True))
    ratio = statistics.median(before / after for before, after in rounds)
    verdict = "ok" if ratio >= WANTED else "MISSED"
    print(f"plain      {plain * 1e3:7.1f} ms of CPU a request")
    print(f"optimized  {fast * 1e3:7.1f} ms of CPU a request")
    print(f"{verdict} {ratio:.2f} times as fast (at least {WANTED})")
    return ratio < WANTED


def _opened(path: Path) -> Any:
    return TensorFlowPlatform(b"", ("serve",)).open(str(path)).servable


def _cpu_s(servable: Any, seconds: float) -> float:
    """Return the CPU time of a request, in the mean over some *seconds*."""
    request = predict_pb2.PredictRequest()
    (name,) = _inputs(servable)
    image = np.random.default_rng(2).random((1, 224, 224, 3), np.float32)
    request.inputs[name].CopyFrom(make_tensor_proto(image))
    message = request.SerializeToString()
    count, until, began = 0, time.monotonic() + seconds, time.process_time()
    while time.monotonic() < until:
        servable.replay(PREDICT, message)
        count += 1
    return (time.process_time() - began) / count


def _inputs(servable: Any) -> list[str]:
    signatures = get_model_metadata_pb2.SignatureDefMap.FromString(
        servable.signature_def_map
    )
    return list(signatures.signature_def["serving_default"].inputs)


if __name__ == "__main__":
    sys.exit(main())
