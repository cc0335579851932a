"""Imports point down only; the contracts are in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own, because the linter sets up logging for all that follows.
LINT = "from importlinter.cli import lint_imports; exit(lint_imports(no_cache=True))"


def test_the_import_contracts_are_kept() -> None:
    pytest.importorskip("importlinter", reason="import-linter is missing")

    done = subprocess.run(
        [sys.executable, "-c", LINT],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
