"""What the pages point at is there."""

import re
from pathlib import Path

import pytest

from servable.cli.commands import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("changelog.d/*.md")]
)
KINDS = {"added", "changed", "fixed", "removed", "security"}
# Pages that name files by the end of their path, as a reader of the code would.
TOURS = [
    ROOT / "ARCHITECTURE.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs" / "adr").glob("0*.md")),
]


SOURCES = [
    *(ROOT / name for name in ("pyproject.toml", "Cargo.toml", "engine/build.rs")),
    *(
        path
        for top in ("src", "tests", "tools")
        for path in (ROOT / top).glob("**/*.*")
    ),
    *(ROOT / "engine" / "src").glob("**/*.rs"),
]


def is_a_file(name: str) -> bool:
    return any(f"/{name}" == str(path)[-len(name) - 1 :] for path in SOURCES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    inside = [link for link in links if "://" not in link]

    assert [link for link in inside if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", TOURS, ids=lambda page: page.name)
def test_files_that_a_tour_names_exist(page: Path) -> None:
    named = set(re.findall(r"`([\w./]+\.(?:rs|py|pyi|binpb|toml))`", page.read_text()))

    assert [name for name in sorted(named) if not is_a_file(name)] == []


def test_commands_that_pages_tell_to_run_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    text = "\n".join(page.read_text() for page in PAGES)

    assert set(re.findall(r"(?:^|`|\$ )servable ([a-z]+)\b", text, re.MULTILINE)) <= (
        COMMANDS.keys()
    )
    assert set(re.findall(r"(?:^|`)make ([a-z]+)\b", text, re.MULTILINE)) <= targets


def test_every_decision_is_in_the_list() -> None:
    listed = (ROOT / "docs" / "adr" / "README.md").read_text()

    for page in (ROOT / "docs" / "adr").glob("0*.md"):
        number = page.name.partition("-")[0]
        assert f"[{number}]({page.name})" in listed


def test_fragments_have_a_kind() -> None:
    fragments = [p for p in PAGES if p.parent.name == "changelog.d"]
    kinds = {p.name.split(".")[1] for p in fragments if p.name != "README.md"}

    assert kinds <= KINDS
