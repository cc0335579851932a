"""What an example needs to be found as if it were installed."""

import importlib
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], None]]:
    """Return what puts an example on the path, with the metadata pip would write."""
    before = set(sys.modules)

    def install(example: str) -> None:
        root = EXAMPLES / example
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        name, version = project["name"].replace("-", "_"), project["version"]
        metadata = tmp_path / f"{name}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
        lines = [
            line
            for group, points in project["entry-points"].items()
            for line in (f"[{group}]", *(f"{n} = {t}" for n, t in points.items()))
        ]
        (metadata / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.syspath_prepend(str(root))
        importlib.invalidate_caches()

    yield install
    for name in set(sys.modules) - before:
        if str(EXAMPLES) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
