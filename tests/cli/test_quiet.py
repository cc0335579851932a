"""What TensorFlow's import writes, and what of it people see."""

import subprocess
import sys

import pytest

PROGRAM = """
import os
from servable.cli.quiet import quiet_import, quiet_tensorflow
quiet_tensorflow()
with quiet_import():
    os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called\\n")
    os.write(2, b"I0000 00:00:1.2 34 port.cc:153] oneDNN custom operations are on.\\n")
    os.write(2, b"E0000 00:00:1.2 34 port.cc:153] no such CPU\\n")
os.write(2, b"I0000 00:00:1.2 34 port.cc:153] later\\n")
raise SystemExit(3)
"""
NEWS = ["WARNING: All log", "I0000 00:00:1.2 3"]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        pytest.param("3", [], id="no news"),
        pytest.param("0", NEWS, id="all that was asked for"),
    ],
)
def test_lines_of_an_import(level: str, expected: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        env={"TF_CPP_MIN_LOG_LEVEL": level},
    )

    assert done.returncode == 3
    starts = [line[:17].rstrip() for line in done.stderr.splitlines()]
    assert starts == [*(line[:17] for line in expected), "E0000 00:00:1.2 3", NEWS[1]]
