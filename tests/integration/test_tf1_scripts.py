"""Scripts of TensorFlow 1.4, from training to an answer, with one import changed."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servable.cli.saved_model_summary import summarize
from servable.client import Client

pytest.importorskip("servable._engine")
pytest.importorskip("tensorflow", reason="needs TensorFlow")
image = pytest.importorskip("PIL.Image", reason="needs pillow")

from examples.tf1 import client as example  # noqa: E402

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.slow,
    pytest.mark.timeout(600),  # models are made before the first test
]
ROOT = Path(__file__).parents[2]
SCRIPTS = {"dnn": "dnn", "convnet": "convnet", "builder": "builder/1"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for script, target in SCRIPTS.items():
        done = subprocess.run(
            [sys.executable, "-m", f"examples.tf1.{script}", str(folder / target)],
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "is deprecated" not in done.stderr, script
    return folder


@pytest.fixture(scope="module")
def client(models: Path, start: Callable[..., Any]) -> Iterator[Client]:
    config = "".join(
        f'config {{ name: "{name}" base_path: "{models / name}" '
        'model_platform: "tensorflow" }'
        for name in SCRIPTS
    )
    (models / "models.config").write_text(f"model_config_list {{ {config} }}")
    server = start(
        f"--model_config_file={models / 'models.config'}", "--wait_for_models=true"
    )
    with Client(server.grpc) as asked:
        yield asked


@pytest.mark.parametrize("script", SCRIPTS)
def test_only_the_import_has_changed(script: str) -> None:
    text = (ROOT / "examples" / "tf1" / f"{script}.py").read_text()

    assert re.findall(r"^.*servable.*import.*$", text, re.MULTILINE) == [
        "from servable.estimator.v1 import tf  # was: import tensorflow as tf"
    ]


def test_the_client_needs_no_tensorflow() -> None:
    code = "import sys, examples.tf1.client; sys.exit('tensorflow' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)

    assert done.returncode == 0


@pytest.mark.parametrize(
    ("measures", "kind"),
    [
        pytest.param([5.0, 3.4, 1.5, 0.2], "setosa", id="small leaves"),
        pytest.param([5.9, 2.8, 4.3, 1.3], "versicolor", id="middling leaves"),
        pytest.param([6.6, 3.0, 5.6, 2.0], "virginica", id="large leaves"),
    ],
)
def test_flowers_are_classified(
    client: Client, measures: list[float], kind: str
) -> None:
    assert example.classify_flower(client, measures).split()[0] == kind


def stripes(direction: int, file_format: str) -> bytes:
    wave = 128 + 90 * np.sin(np.arange(32) * 0.8)
    rows = np.repeat(wave[:, None], 32, 1)
    pixels = (rows.T if direction else rows).astype(np.uint8)
    buffer = io.BytesIO()
    image.fromarray(np.repeat(pixels[..., None], 3, 2)).save(buffer, file_format)
    return buffer.getvalue()


def test_files_of_images_are_what_a_client_sends(client: Client) -> None:
    files = [stripes(0, "JPEG"), stripes(1, "JPEG"), stripes(1, "PNG")]

    assert example.stripes(client, files) == ["lying", "standing", "standing"]


def test_the_averages_are_served_and_not_the_variables(models: Path) -> None:
    (version,) = (models / "convnet").iterdir()
    index = (version / "variables" / "variables.index").read_bytes()

    assert b"ExponentialMovingAverage" in index
    assert b"Momentum" not in index


def test_labels_come_from_the_vocabulary(client: Client, models: Path) -> None:
    serving, training = summarize(models / "builder" / "1").meta_graphs

    labels = example.best_labels(client, [0.1, 0.0, 1.0, 0.5])

    assert labels == ["fish", "bird", "cat"]
    assert (serving.tags, training.tags) == (("serve",), ("train",))
    assert len(serving.assets) == 1
