"""What servable is made of may be part of it, and is written down."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "supply_chain.py"


@pytest.fixture(scope="module")
def supply_chain() -> ModuleType:
    spec = importlib.util.spec_from_file_location("supply_chain", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["supply_chain"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def components(supply_chain: ModuleType) -> list[Any]:
    if shutil.which("cargo") is None:
        pytest.skip("needs cargo")
    return [*supply_chain.crates(), *supply_chain.packages()]


def test_all_licences_may_be_part_of_it(
    supply_chain: ModuleType, components: list[Any]
) -> None:
    assert supply_chain.problems_of(components) == []


def test_both_halves_are_written_down(
    supply_chain: ModuleType, components: list[Any]
) -> None:
    document = supply_chain.sbom(components)
    urls = [component["purl"] for component in document["components"]]

    assert json.dumps(document)
    assert len(urls) == len(set(urls))
    for part in ("pkg:cargo/tokio@", "pkg:cargo/ring@", "pkg:pypi/grpcio@"):
        assert any(url.startswith(part) for url in urls), part
    # What only tests or builds need is no part of it.
    assert not any("proptest" in url or "pytest" in url for url in urls)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("GPL-3.0-only/MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR GPL-3.0-only) AND Apache-2.0", True),
        ("MIT AND (GPL-3.0-only OR Apache-2.0 WITH LLVM-exception)", True),
        ("Apache-2.0 WITH another-exception", False),
        ("(MIT", False),
        ("MIT MIT", False),
        ("", False),
    ],
)
def test_expressions_are_understood(
    supply_chain: ModuleType, expression: str, expected: bool
) -> None:
    allowed = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"}

    assert supply_chain.is_allowed(expression, allowed) is expected


def test_what_comes_from_elsewhere_is_told(supply_chain: ModuleType) -> None:
    crate = supply_chain.Component("cargo", "x", "1", "MIT", "git+https://host/x")

    assert supply_chain.problems_of([crate]) == [
        "pkg:cargo/x@1: comes from git+https://host/x"
    ]
