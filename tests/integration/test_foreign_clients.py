"""
Clients that others wrote work unchanged.

Each runs in a process of its own: they bring messages of the same names along, and
only one set of those may be in a process.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("servable._engine")

SCRIPTS = Path(__file__).parent / "foreign"


@pytest.fixture(scope="module")
def server(
    start: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    write_version: Callable[..., Path],
) -> Any:
    base = tmp_path_factory.mktemp("models") / "m"
    write_version(base / "1")
    return start(
        "--model_name=m", f"--model_base_path={base}", "--wait_for_models=true"
    )


def run(script: str, needs: str, *arguments: str) -> Any:
    """Run a client in this environment, and return what it says."""
    for package in needs.split():
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    done = subprocess.run(command, capture_output=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.mark.tensorflow
def test_tensorflow_serving_api(server: Any) -> None:
    answers = run(
        "with_tensorflow_serving_api.py",
        "tensorflow tensorflow_serving",
        server.grpc,
    )

    assert answers == {
        "predict": [2.5, 3.0],
        "version": 1,
        "strings": ["b'a'", "b'\\xff'"],
        "classify": [4.0],
        "regress": [4.0],
        "multi": ["regression_result", "classification_result"],
        "has_metadata": True,
        "input": "x:0",
        "state": "AVAILABLE",
        "error": ["NOT_FOUND", "Servable not found for request: Latest(nope)"],
    }


def test_ovmsclient(server: Any) -> None:
    rest = server.rest.removeprefix("http://")
    answers = run("with_ovmsclient.py", "ovmsclient", server.grpc, rest)

    assert answers == {
        name: {
            "predict": [2.5, 3.0],
            "dtype": dtype,
            "state": "AVAILABLE",
            "inputs": {"x": "DT_FLOAT"},
            "refused": "Error occurred during handling the request: "
            "Servable not found for request: Specific(nope, 1)",
        }
        for name, dtype in (("grpc", "float32"), ("rest", "float64"))
    }
