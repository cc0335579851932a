"""What docs/export.md shows of JAX: exported, served, and asked over both protocols."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from servable.client import Client

pytest.importorskip("servable._engine")
pytest.importorskip("tensorflow", reason="needs TensorFlow")
if find_spec("jax") is None:
    pytest.skip("needs JAX: pip install jax", allow_module_level=True)

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
(SHOWN,) = (
    block
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    if "jax2tf" in block
)
BEFORE = """
import jax, numpy as np, tensorflow as tf
from servable.export import export

def predict(parameters, x):
    return jax.nn.relu(x @ parameters["kernel"]) + parameters["bias"]

x = np.ones((2, 2), np.float32)
parameters = {
    "kernel": np.array([[1, -1, 2], [0, 1, 1]], np.float32),
    "bias": np.array([0.5, 0, -0.5], np.float32),
}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Any]) -> Any:
    folder = tmp_path_factory.mktemp("jax")
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + SHOWN],
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return start(
        "--model_name=jax",
        f"--model_base_path={folder / 'models' / 'jax'}",
        "--wait_for_models=true",
    )


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_the_model_of_the_page_answers_as_jax_does(server: Any, api: str) -> None:
    with Client(getattr(server, api)) as client:
        outputs = client.predict("jax", {"x": [[1, 2], [3, -4], [0, 0]]})

    assert outputs["y"].tolist() == [[1.5, 1, 3.5], [3.5, 0, 1.5], [0.5, 0, -0.5]]
