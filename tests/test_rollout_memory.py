"""What was decided, as a file."""

import json
from pathlib import Path

import pytest

from servable.core.served_versions import Candidates
from servable.rollout_memory import RolloutMemory, default_state_file

DECIDED = Candidates(3, frozenset({4, 5}))


def test_the_next_server_knows_what_was_decided(tmp_path: Path) -> None:
    path = tmp_path / "state" / "rollouts.json"
    RolloutMemory(path).keep("m", "/models/m", DECIDED)
    RolloutMemory(path).keep("n", "/models/n", Candidates(1))
    RolloutMemory(path).keep("m", "/models/other", Candidates(2))

    assert RolloutMemory(path).recall("m", "/models/m") == DECIDED
    assert RolloutMemory(path).recall("n", "/models/n") == Candidates(1)
    assert RolloutMemory(path).recall("n", "/models/m") == Candidates()


def test_the_last_decision_counts(tmp_path: Path) -> None:
    memory = RolloutMemory(tmp_path / "rollouts.json")
    memory.keep("m", "/models/m", DECIDED)
    memory.keep("m", "/models/m", Candidates(6))

    assert memory.recall("m", "/models/m") == Candidates(6)
    (model,) = json.loads((tmp_path / "rollouts.json").read_text())["models"]
    assert model["rejected"] == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="half of it"),
        pytest.param("[]", id="a list"),
        pytest.param('{"models": [{"name": "m"}]}', id="a model without versions"),
        pytest.param('{"models": 3}', id="no models"),
    ],
)
def test_a_file_that_tells_nothing_is_logged_and_written_anew(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rollouts.json"
    path.write_text(content)
    memory = RolloutMemory(path)

    assert memory.recall("m", "/models/m") == Candidates()
    assert str(path) in caplog.text
    memory.keep("m", "/models/m", DECIDED)
    assert memory.recall("m", "/models/m") == DECIDED


def test_what_cannot_be_written_is_logged_and_leaves_nothing_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "rollouts.json").mkdir()
    memory = RolloutMemory(tmp_path / "rollouts.json")

    memory.keep("m", "/models/m", DECIDED)

    assert "will be forgotten" in caplog.text
    assert not list(tmp_path.glob(".rollouts-*"))


def test_the_file_is_in_the_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")

    assert default_state_file() == Path("/state/servable/rollouts.json")
