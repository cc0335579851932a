"""
What a call in the process costs: libservable beside TensorFlow's C API.

    python benchmarks/embedded.py [--count 20000] [--rounds 5] [--library PATH]

Builds libservable for release, the two programs in peers/cpp, and measures them in
turn on one core, with x/2+2 and with the demo's classifier of digits.  Prints the
median and the CPU time of a call in microseconds, the best round of each, and what
is asked of the first: 12 us.
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from servable.apis import saved_model_pb2

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent
BUILD: Final = HERE / "build" / "embedded"
ASKED_US: Final = 12.0

HALF_PLUS_TWO: Final = """
import sys
import tensorflow as tf

class HalfPlusTwo(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        return {"y": x / 2 + 2}

model = HalfPlusTwo()
tf.saved_model.save(model, sys.argv[1], signatures=model.__call__)
"""


def main() -> int:
    """Measure; return 1 if the figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="calls of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--library", type=Path, help="a libservable.so that was built")
    arguments = parser.parse_args()
    tensorflow = _tensorflow()
    engine, session = _programs(tensorflow, arguments.library or _library())
    figures: dict[str, dict[str, tuple[float, float]]] = {}
    for name, version, shape in _models():
        feed, fetch = _tensors(version)
        dims = [str(size) for size in shape]
        count = str(arguments.count)
        best: dict[str, tuple[float, float]] = {}
        for _ in range(arguments.rounds):
            for command in (
                [engine, version, count, *dims],
                [session, version, feed, fetch, count, *dims],
            ):
                for what, median, cpu in _measured(command, tensorflow):
                    known = best.get(what, (median, cpu))
                    best[what] = (min(median, known[0]), min(cpu, known[1]))
        figures[name] = best
        _show(name, best)
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    settings = {"machine": platform.machine(), "figures": figures}
    (results / "embedded.json").write_text(json.dumps(settings, indent=2))
    return int(figures["half_plus_two"]["c"][0] > ASKED_US)


def _show(name: str, best: dict[str, tuple[float, float]]) -> None:
    print(f"{name}: us a call (median, CPU)")
    for what, label in (
        ("c", "libservable, C functions"),
        ("cpp", "libservable, C++ layer"),
        ("session", "TensorFlow C API"),
        ("session_in_caller", "TensorFlow C API, in the calling thread"),
    ):
        print(f"  {label:<42} {best[what][0]:8.2f} {best[what][1]:8.2f}")


def _measured(command: list[Any], tensorflow: Path) -> list[tuple[str, float, float]]:
    environment = {
        **os.environ,
        "SERVABLE_TENSORFLOW_DIR": str(tensorflow),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    done = subprocess.run(
        ["taskset", "-c", "0", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    return [(what, float(median), float(cpu)) for what, median, cpu in lines]


def _tensorflow() -> Path:
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("TensorFlow is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def _library() -> Path:
    """Build libservable, and return it."""
    cargo = ["cargo", "build", "--quiet", "--release", "--package=libservable"]
    subprocess.run(cargo, cwd=ROOT, check=True)
    return ROOT / "target" / "release" / "libservable.so"


def _programs(tensorflow: Path, library: Path) -> tuple[Path, Path]:
    """Build what is measured, and return it."""
    prefix = BUILD / "prefix"
    install = ROOT / "cpp" / "libservable" / "install.sh"
    subprocess.run(["sh", install, library, prefix], check=True)
    peers = HERE / "peers" / "cpp"
    engine, session = BUILD / "in_process", BUILD / "session"
    subprocess.run(
        [
            *("g++", "-std=c++17", "-O2", str(peers / "in_process.cc")),
            *("-o", str(engine)),
            *(f"-I{prefix}/include", f"-L{prefix}/lib", "-lservable"),
            f"-Wl,-rpath,{prefix}/lib",
        ],
        check=True,
    )
    subprocess.run(
        [
            *("gcc", "-std=gnu11", "-O2", "-w", str(peers / "session.c")),
            *("-o", str(session)),
            *(f"-I{tensorflow}/include", f"-L{tensorflow}", f"-Wl,-rpath,{tensorflow}"),
            *("-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"),
        ],
        check=True,
    )
    return engine, session


def _models() -> list[tuple[str, Path, tuple[int, ...]]]:
    """Make the models, unless they are there; name, version directory, shape fed."""
    half = BUILD / "models" / "half_plus_two" / "1"
    if not half.is_dir():
        subprocess.run([sys.executable, "-c", HALF_PLUS_TWO, half], check=True)
    digits = BUILD / "models" / "digits" / "1"
    if not digits.is_dir():
        shutil.rmtree(digits, ignore_errors=True)
        module = [sys.executable, "-m", "examples.embedding.digits"]
        command = [*module, str(BUILD / "models")]
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return [("half_plus_two", half, (3,)), ("digits", digits, (1, 8, 8))]


def _tensors(version: Path) -> tuple[str, str]:
    """Return the names in the graph of the only input and the only output."""
    model = saved_model_pb2.SavedModel.FromString(
        (version / "saved_model.pb").read_bytes()
    )
    signature = model.meta_graphs[0].signature_def["serving_default"]
    (feed,), (fetch,) = signature.inputs.values(), signature.outputs.values()
    return feed.name, fetch.name


if __name__ == "__main__":
    sys.exit(main())
