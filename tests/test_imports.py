"""Imports point down only; the contracts are in pyproject.toml."""

from pathlib import Path

import pytest


def test_the_import_contracts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    cli = pytest.importorskip("importlinter.cli", reason="import-linter is missing")
    monkeypatch.chdir(Path(__file__).parents[1])

    assert cli.lint_imports(no_cache=True) == 0
