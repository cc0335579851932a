"""Training, evaluation and prediction, number by number as tf.estimator did them."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="needs TensorFlow").compat.v1

from servable import estimator  # noqa: E402

pytestmark = pytest.mark.tensorflow

FOLDER = Path(__file__).parent / "recorded"
RECORDED = json.loads((FOLDER / "training.json").read_text())


def _cases() -> Any:
    spec = importlib.util.spec_from_file_location("training", FOLDER / "training.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CASES


CASES = _cases()


@pytest.mark.parametrize("name", [pytest.param(n, id=n) for n in CASES])
def test_trains_evaluates_and_predicts_as_recorded(name: str, tmp_path: Path) -> None:
    observed = CASES[name](tf, estimator, str(tmp_path / name))

    assert_close(observed, RECORDED[name], name)


def test_every_recording_is_compared() -> None:
    assert RECORDED.keys() == CASES.keys()


def assert_close(observed: Any, recorded: Any, where: str) -> None:
    if isinstance(recorded, dict):
        assert observed.keys() == recorded.keys(), where
        for key, value in recorded.items():
            assert_close(observed[key], value, f"{where}/{key}")
    elif isinstance(recorded, list) and recorded and isinstance(recorded[0], dict):
        for at, value in enumerate(recorded):
            assert_close(observed[at], value, f"{where}/{at}")
    elif isinstance(np.asarray(recorded).flat[0], str):
        assert observed == recorded, where
    else:
        np.testing.assert_allclose(
            observed, recorded, rtol=1e-4, atol=1e-5, err_msg=where
        )
