"""What type checkers say of programs that use the client."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GOOD, BAD = HERE / "client.py", HERE / "mistakes.py"
MISTAKES = [
    number
    for number, line in enumerate(BAD.read_text().splitlines(), 1)
    if "  # " in line
]


def mypy(path: Path) -> tuple[int, list[int]]:
    """Check a file as `make lint` does, whose cache makes it quick."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    found = re.findall(rf"{path.name}:(\d+): error", done.stdout)
    return done.returncode, sorted(set(map(int, found)))


def test_mypy_has_nothing_to_say_of_good_code() -> None:
    assert mypy(GOOD) == (0, [])


def test_mypy_finds_every_mistake() -> None:
    assert mypy(BAD) == (1, MISTAKES)


def pyright(path: Path) -> tuple[int, list[int]]:
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    command = [
        *(sys.executable, "-m", "pyright", "--outputjson"),
        *("--pythonpath", sys.executable, str(path)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout.startswith("{"):
        pytest.skip(f"pyright does not run here: {(done.stdout + done.stderr)[-200:]}")
    found = [
        entry["range"]["start"]["line"] + 1
        for entry in json.loads(done.stdout)["generalDiagnostics"]
        if entry["severity"] == "error" and entry["file"] == str(path)
    ]
    return done.returncode, sorted(set(found))


def test_pyright_has_nothing_to_say_of_good_code() -> None:
    assert pyright(GOOD) == (0, [])


def test_pyright_finds_every_mistake() -> None:
    assert pyright(BAD) == (1, MISTAKES)
