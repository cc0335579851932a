"""The example of a platform, as if it were installed, and those of the page."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

import servable
from servable.client import Client

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "pattern_platform"
PAGE = (ROOT / "docs" / "platforms.md").read_text()


def block(language: str, containing: str) -> str:
    """Return the one block of the page that has this text."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (found,) = [
        text for name, text in blocks if name == language and containing in text
    ]
    return str(found)


@pytest.fixture
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have processes find what an installation of the example would have written."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    site = tmp_path / "site"
    metadata = site / "servable_pattern-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n"
    )
    points = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in each.items())
        for group, each in project["entry-points"].items()
    )
    (metadata / "entry_points.txt").write_text(points)
    # Wherever this process has the package from, as it is or installed.
    path = [str(site), str(EXAMPLE), str(Path(servable.__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", ":".join(path))


@pytest.mark.usefixtures("_installed")
def test_a_platform_that_is_installed_is_served(
    tmp_path: Path, start: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    version = tmp_path / "numbers" / "1"
    version.mkdir(parents=True)
    (version / "pattern.txt").write_text("[0-9]+\n")

    server = start(
        "--model_name=numbers",
        f"--model_base_path={version.parent}",
        "--model_platform=pattern",
    )

    with Client(server.rest) as client:
        wait_until(lambda: "Successfully loaded" in server.log(), "model")
        found = client.predict("numbers", ["42", "forty-two", ""])["matches"]
    assert found.tolist() == [True, False, False]


def test_the_page_serves_what_it_shows(
    tmp_path: Path, start: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    for name, file, text in (
        ("celsius", "model.py", block("python", "class Model:")),
        ("words", "table.csv", block("", "cat,2,2")),
        ("typed", "table.csv", block("", "cat,2,2")),
        ("typed", "table.toml", block("toml", "[columns.weight]")),
    ):
        (tmp_path / name / "1").mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "1" / file).write_text(text)
    listed = re.sub(r'"/models/', f'"{tmp_path}/', block("", "model_config_list"))
    typed = f'config {{ name: "typed" base_path: "{tmp_path}/typed" '
    config = tmp_path / "models.config"
    config.write_text(
        listed.strip().removesuffix("}") + typed + 'model_platform: "hashmap" } }'
    )

    server = start(f"--model_config_file={config}", "--allow_python_models")

    with Client(server.rest) as client:
        wait_until(lambda: server.log().count("Successfully loaded") == 3, "models")
        assert client.predict("celsius", [0.0, 100.0])["fahrenheit"].tolist() == [
            32,
            212,
        ]
        found = client.predict("words", ["cat", "dog"])
        assert {name: array.tolist() for name, array in found.items()} == {
            "found": [True, False],
            "id": [2, 0],
            "weight": [2, 0],
        }
        weights = client.metadata("typed").signatures["serving_default"].outputs
        assert str(weights["weight"]) == "float32[?]"


def test_the_composite_of_the_page_is_one() -> None:
    from servable.platforms.composite import parse  # noqa: PLC0415

    assert [part.models for part in parse(block("toml", "[[parts]]")).parts] == [
        ("words_0", "words_1"),
        ("half_plus_two",),
    ]
