"""
Try every parser of bytes from outside for as long as one likes: `make fuzz`.

    python tools/fuzz.py [--seconds N] [--only NAME ...]

Rust's parsers are those of engine/src/fuzzing.rs, under libFuzzer by way of cargo-fuzz
(`cargo install cargo-fuzz`); without it they are tried without guidance.  Python's are
those of tests/test_corpora.py.  Each gets an equal share of the time.  What breaks one
is kept in fuzz-findings/NAME; when it is mended, the input joins tests/corpora.
"""

import argparse
import hashlib
import importlib.util
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
CORPORA = ROOT / "tests" / "corpora"
FINDINGS = ROOT / "fuzz-findings"
GROWN = ROOT / "target" / "fuzz-corpora"
MAX_BYTES = 1 << 16


@dataclass(frozen=True)
class Outcome:
    """What came of one target."""

    name: str
    executions: int
    findings: tuple[Path, ...]


def main() -> int:
    """Try everything, and return 1 if something breaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--only", nargs="*", default=())
    arguments = parser.parse_args()
    rust = rust_targets()
    python = python_parsers()
    names = [f"rust {name}" for name in rust] + [f"python {name}" for name in python]
    chosen = [n for n in names if not arguments.only or n.split()[1] in arguments.only]
    if not chosen:
        print(f"there are only: {', '.join(names)}", file=sys.stderr)
        return 2
    share = arguments.seconds / len(chosen)
    run_rust = with_cargo_fuzz() if has_cargo_fuzz() else without_cargo_fuzz
    found = False
    print(f"{'target':32} {'executions':>12}  findings", flush=True)
    for chosen_name in chosen:
        language, _, name = chosen_name.partition(" ")
        outcome = (
            run_rust(name, rust[name], share)
            if language == "rust"
            else run_python(name, python[name], share)
        )
        found = found or bool(outcome.findings)
        files = ", ".join(str(f.relative_to(ROOT)) for f in outcome.findings)
        print(f"{chosen_name:32} {outcome.executions:12}  {files or '-'}", flush=True)
    return int(found)


def rust_targets() -> dict[str, str]:
    """Return the corpora of the engine's targets."""
    text = (ROOT / "engine" / "src" / "fuzzing.rs").read_text()
    return dict(re.findall(r'\btarget\("(\w+)", "(\w+)"', text))


def python_parsers() -> dict[str, Callable[[bytes], None]]:
    """Return Python's parsers."""
    sys.path.insert(0, str(ROOT / "src"))
    return dict(module(ROOT / "tests" / "test_corpora.py").PARSERS)


def module(path: Path) -> ModuleType:
    """Import a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} cannot be imported")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def has_cargo_fuzz() -> bool:
    """Return whether cargo-fuzz is installed."""
    return shutil.which("cargo-fuzz") is not None


def cargo_fuzz(command: str, *arguments: str) -> list[str]:
    """Return a command line of cargo-fuzz."""
    folder = str(ROOT / "engine" / "fuzz")
    return ["cargo-fuzz", command, "--fuzz-dir", folder, "any", *arguments]


# The compiler's flags for fuzzing are not stable, and work with a stable compiler.
ENVIRONMENT = {**os.environ, "RUSTC_BOOTSTRAP": "1"}


def with_cargo_fuzz() -> Callable[[str, str, float], Outcome]:
    """Build the targets, and return what runs one under libFuzzer."""
    subprocess.run(cargo_fuzz("build"), env=ENVIRONMENT, check=True)  # noqa: S603

    def run(name: str, corpus: str, seconds: float) -> Outcome:
        grown, artifacts = GROWN / name, FINDINGS / name
        grown.mkdir(parents=True, exist_ok=True)
        artifacts.mkdir(parents=True, exist_ok=True)
        limits = (
            *(f"-max_total_time={max(int(seconds), 1)}", "-rss_limit_mb=2048"),
            *("-timeout=10", f"-max_len={MAX_BYTES}", "-print_final_stats=1"),
            f"-artifact_prefix={artifacts}/",
        )
        done = subprocess.run(  # noqa: S603 - ours
            cargo_fuzz("run", str(grown), str(CORPORA / corpus), "--", *limits),
            env={**ENVIRONMENT, "SERVABLE_FUZZ_TARGET": name},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        counted = re.search(r"stat::number_of_executed_units:\s+(\d+)", done.stdout)
        findings = tuple(sorted(artifacts.iterdir()))
        if done.returncode and not findings:
            raise SystemExit(done.stdout[-4000:])
        if not findings:
            artifacts.rmdir()
        return Outcome(name, int(counted[1]) if counted else 0, findings)

    return run


def without_cargo_fuzz(name: str, corpus: str, seconds: float) -> Outcome:
    """Say how the target is tried without guidance: by the engine's own test."""
    del corpus, seconds
    if name != next(iter(rust_targets())):
        return Outcome(name, 0, ())
    print("cargo-fuzz is not installed: the engine's targets are changed blindly")
    runs = 20_000
    command = [
        "cargo",
        "test",
        "--release",
        "--package",
        "servable-engine",
        "fuzzing::",
    ]
    environment = {**os.environ, "SERVABLE_FUZZ_RUNS": str(runs)}
    subprocess.run(command, env=environment, check=True)  # noqa: S603 - ours
    return Outcome(name, runs * len(rust_targets()), ())


def run_python(name: str, parse: Callable[[bytes], None], seconds: float) -> Outcome:
    """Give *parse* inputs that change until the time is over or one breaks it."""
    from servable.errors import ServingError  # noqa: PLC0415 - the path is set late

    kept = [file.read_bytes() for file in sorted((CORPORA / name).iterdir())]
    numbers = random.Random(time.time_ns())  # noqa: S311 - no secret
    over = time.monotonic() + seconds
    executions = 0
    while time.monotonic() < over:
        data = changed(kept, numbers)
        executions += 1
        try:
            parse(data)
        except ServingError:
            continue
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            return Outcome(name, executions, (written(name, data, error),))
        # What is read may lead to more that is.
        if len(kept) < 1000 and numbers.random() < 0.01:  # noqa: PLR2004
            kept.append(data)
    return Outcome(name, executions, ())


def changed(kept: Sequence[bytes], numbers: random.Random) -> bytes:
    """Return one of *kept* with bytes changed, left out, doubled or from another."""
    data = bytearray(numbers.choice(kept))
    for _ in range(1 << numbers.randrange(5)):
        at = numbers.randint(0, len(data))
        end = at + (1 << numbers.randrange(8))
        other = numbers.choice(kept)
        start = numbers.randint(0, len(other))
        match numbers.randrange(6):
            case 0:
                del data[at:end]
            case 1:
                data[at:at] = data[at:end]
            case 2:
                data[at:at] = other[start : start + end - at]
            case 3:
                data[at : at + 1] = numbers.randbytes(1)
            case 4:
                data[at : at + 1] = numbers.choice((b"\0", b"\xff", b'"', b"{", b"9"))
            case _:
                data[at:end] = other[start : start + end - at]
    return bytes(data[:MAX_BYTES])


def written(name: str, data: bytes, error: Exception) -> Path:
    """Keep what broke a parser, and say how."""
    print(f"{name}: {type(error).__name__}: {error}")
    folder = FINDINGS / name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / hashlib.sha256(data).hexdigest()[:16]
    file.write_bytes(data)
    return file


if __name__ == "__main__":
    sys.exit(main())
