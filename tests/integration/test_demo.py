"""The demonstration, as `make demo` runs it, from training to the second version."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

ROOT = Path(__file__).parents[2]
NEEDS = ("tensorflow", "sklearn", "PIL", "httpx")


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.timeout(300)
@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in NEEDS),
    reason="needs what servable[tensorflow,demo] installs",
)
def test_a_second_version_takes_over_and_no_request_fails(tmp_path: Path) -> None:
    environment = {**os.environ, "CI": "true", "COLUMNS": "200"}
    picture = tmp_path / "demo.svg"

    done = subprocess.run(
        [
            *(sys.executable, "-m", "examples.digits"),
            *("--directory", str(tmp_path), "--picture", str(picture)),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert "0 over gRPC and 0 over REST failed" in done.stdout
    accuracies = re.findall(r"accuracy[^:\n]* ([0-9.]+)%", done.stdout)
    assert len(accuracies) >= 2
    assert all(float(accuracy) > 80 for accuracy in accuracies)
    assert (tmp_path / "digits.png").is_file()
    drawn = picture.read_text()
    assert drawn.startswith("<svg")
    assert "accuracy" in drawn
    assert "@font-face" not in drawn
