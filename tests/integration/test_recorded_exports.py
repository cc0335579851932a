"""What was recorded of tf.estimator's exports is what the server answers with them."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servable.client import Client

pytest.importorskip("servable._engine")
pytest.importorskip("tensorflow", reason="needs TensorFlow")

RECORDINGS = Path(__file__).parents[3] / "shared" / "conformance" / "estimator"
if not RECORDINGS.is_dir():
    pytest.skip("the recordings are not here", allow_module_level=True)

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.slow,
    pytest.mark.timeout(600),  # models are made before the first test
]

# Cases run with version 2 behaviour off, which is for a process of their own.
EXPORT = """
import importlib.util, logging, os, pickle, shutil, sys, tempfile
from pathlib import Path

cases, models = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, str(cases))
logging.disable()
import tensorflow.compat.v1 as tf
tf.disable_v2_behavior()
from servable import estimator

asked = {}
for path in sorted(cases.glob("[!_]*.py")):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tf.reset_default_graph()
    with tempfile.TemporaryDirectory() as work, tf.Graph().as_default():
        try:
            result = module.case(tf, estimator, work)
        except Exception:
            continue  # what is recorded is the error
        if not isinstance(result, dict) or not result.get("feeds"):
            continue
        exported = os.fsdecode(result["export"])
        shutil.copytree(exported, models / path.stem / "1")
    asked[path.stem] = {
        "feeds": result["feeds"],
        "rtol": getattr(module, "RTOL", 1e-5),
        "atol": getattr(module, "ATOL", 1e-6),
    }
(models / "asked.pickle").write_bytes(pickle.dumps(asked))
"""


def test_recorded_exports_are_served(tmp_path: Path, start: Callable[..., Any]) -> None:
    command = [sys.executable, "-c", EXPORT, str(RECORDINGS / "cases"), str(tmp_path)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    asked = pickle.loads((tmp_path / "asked.pickle").read_bytes())  # noqa: S301 - ours
    served = {name: case for name, case in asked.items() if for_serving(case["feeds"])}
    config = "".join(
        f'config {{ name: "{name}" base_path: "{tmp_path / name}" '
        'model_platform: "tensorflow" }'
        for name in served
    )
    (tmp_path / "models.config").write_text(f"model_config_list {{ {config} }}")
    server = start(
        f"--model_config_file={tmp_path / 'models.config'}", "--wait_for_models=true"
    )

    compared = 0
    with Client(server.grpc) as client:
        for name, case in served.items():
            golden = json.loads((RECORDINGS / "golden" / f"{name}.json").read_text())
            for key, feed in for_serving(case["feeds"]).items():
                answers = client.predict(name, feed, signature=key.partition("@")[0])
                for output, recorded in golden["runs"][key].items():
                    check(f"{name}:{key}:{output}", answers[output], recorded, case)
                compared += 1
    assert compared > len(served)


def for_serving(feeds: dict[str, Any]) -> dict[str, Any]:
    """Return what can be asked of a server: of the graph for serving, with tensors."""
    return {
        key: feed
        for key, feed in feeds.items()
        if key.partition("@")[2] in ("", "serve")
        and not any(isinstance(value, tuple) for value in feed.values())
    }


def check(where: str, answer: Any, recorded: Any, case: dict[str, Any]) -> None:
    assert list(answer.shape) == recorded["shape"], where
    values = np.array(recorded["values"])
    if answer.dtype.kind == "c":
        answer = np.stack([answer.real, answer.imag], -1)
    if answer.dtype.kind in "OS":
        texts = [text.decode() for text in answer.ravel()]
        assert texts == values.ravel().tolist(), where
    else:
        tolerance = {"rtol": case["rtol"], "atol": case["atol"]}
        np.testing.assert_allclose(answer, values, err_msg=where, **tolerance)
