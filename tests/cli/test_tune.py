"""`servable tune`: what it says at once of what it cannot measure."""

from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("servable._engine")

from servable.cli.tune import tune


@pytest.mark.parametrize(
    ("files", "text"),
    [
        pytest.param([], "is no SavedModel: the directory is empty", id="nothing"),
        pytest.param(
            ["1/model.py"],
            "is no SavedModel: its version 1 has no saved_model.pb",
            id="a model of another platform",
        ),
        pytest.param(
            ["saved_model.pb"],
            "is a version itself; give the directory that it is in",
            id="a version",
        ),
    ],
)
def test_what_cannot_be_measured_is_told_of_at_once(
    files: list[str], text: str, tmp_path: Path
) -> None:
    for name in files:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()

    result = CliRunner().invoke(tune, [str(tmp_path), "--target-p99-ms=20"])

    assert result.exit_code == 1
    assert text in result.output
