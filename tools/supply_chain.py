"""
What servable is made of: `make sbom` and `make audit`.

    python tools/supply_chain.py sbom [FILE]
    python tools/supply_chain.py audit

`sbom` writes a CycloneDX document of both halves: the crates that are linked into the
engine, and the Python packages that an installation needs.  `audit` checks their
licences by deny.toml, and where they come from; that needs no network.  It asks
pip-audit, cargo-audit and cargo-deny for known vulnerabilities where they are
installed, and says so where they are not or have no data.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"
# Of Python packages, which are installed beside and not linked.
ALSO_FOR_PYTHON = {"0BSD", "CC0-1.0", "MPL-2.0", "PSF-2.0"}
# What packages call their licence that do not say it in SPDX.
SPDX = {
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
# Signs of a tool that is there and cannot reach its data.
UNREACHABLE = re.compile(
    r"connection|resolve|network|timed out|fetch|403|404|proxy|unreachable",
    re.IGNORECASE,
)


@dataclass(frozen=True, order=True)
class Component:
    """A crate or package, its licence in SPDX, and the hash of its archive."""

    kind: str
    name: str
    version: str
    licence: str
    source: str = CRATES_IO
    sha256: str = ""

    @property
    def purl(self) -> str:
        """The package URL."""
        return f"pkg:{self.kind}/{self.name}@{self.version}"


def main() -> int:
    """Write the SBOM, or audit."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("sbom")
    writing.add_argument("file", nargs="?", default="dist/servable.cdx.json", type=Path)
    commands.add_parser("audit")
    arguments = parser.parse_args()
    components = [*crates(), *packages()]
    if arguments.command == "sbom":
        arguments.file.parent.mkdir(parents=True, exist_ok=True)
        arguments.file.write_text(json.dumps(sbom(components), indent=1) + "\n")
        print(f"{arguments.file}: {len(components)} components")
        return 0
    problems = problems_of(components)
    for problem in problems:
        print(problem)
    print(
        f"licences and sources of {len(components)} components: {len(problems)} wrong"
    )
    return int(any([bool(problems), *map(ask, TOOLS)]))


def crates() -> Iterator[Component]:
    """Yield the crates that are linked into the engine, features and all."""
    command = ["cargo", "metadata", "--format-version=1", "--locked"]
    command += ["--features=servable-engine/extension-module"]
    # No other system is served.
    command += ["--filter-platform=x86_64-unknown-linux-gnu"]
    done = subprocess.run(  # noqa: S603 - ours
        command, cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    hashes = {(p["name"], p["version"]): p.get("checksum", "") for p in lock["package"]}
    by_id = {package["id"]: package for package in found["packages"]}
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    waiting, seen = list(found["workspace_members"]), set()
    while waiting:
        crate = waiting.pop()
        if crate in seen:
            continue
        seen.add(crate)
        waiting += [
            dependency["pkg"]
            for dependency in nodes[crate]["deps"]
            # What builds or tests it is no part of it.
            if any(kind["kind"] is None for kind in dependency["dep_kinds"])
        ]
    for crate in sorted(seen - set(found["workspace_members"])):
        package = by_id[crate]
        key = package["name"], package["version"]
        yield Component(
            "cargo", *key, package["license"] or "", package["source"], hashes[key]
        )


def packages() -> Iterator[Component]:
    """Yield the Python packages that servable needs, as they are installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting, seen = [name_in(text) for text in project["dependencies"]], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        distribution = metadata.distribution(name)
        waiting += [
            name_in(text)
            for text in distribution.requires or ()
            if "extra ==" not in text and is_installed(name_in(text))
        ]
    for name in sorted(seen):
        distribution = metadata.distribution(name)
        yield Component("pypi", name, distribution.version, licence_of(distribution))


def name_in(requirement: str) -> str:
    """Return the normal form of the name in a requirement."""
    (name,) = re.findall(r"^[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", name).lower()


def is_installed(name: str) -> bool:
    """Return whether it is; what is for other systems is not."""
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def licence_of(distribution: metadata.Distribution) -> str:
    """Return what a package says of its licence, in SPDX where that can be told."""

    def said(field: str) -> list[str]:
        return list(distribution.metadata.get_all(field) or ())

    if expressions := said("License-Expression"):
        return expressions[0]
    classified = [
        classifier.rpartition(" :: ")[2]
        for classifier in said("Classifier")
        if classifier.startswith("License :: ")
    ]
    for text in (*classified, *said("License")):
        if text in SPDX:
            return SPDX[text]
    return "".join(said("License"))


def problems_of(components: Sequence[Component]) -> list[str]:
    """Return what is wrong with licences and sources."""
    allowed = set(tomllib.loads((ROOT / "deny.toml").read_text())["licenses"]["allow"])
    problems = []
    for component in components:
        may = allowed | (ALSO_FOR_PYTHON if component.kind == "pypi" else set())
        if not is_allowed(component.licence, may):
            problems.append(
                f"{component.purl}: licence {component.licence or 'unknown'}"
            )
        if component.source != CRATES_IO:
            problems.append(f"{component.purl}: comes from {component.source}")
    return problems


def is_allowed(expression: str, allowed: set[str]) -> bool:
    """Return whether an SPDX expression can be met with *allowed* licences."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))

    def alternatives() -> bool:
        met = everything()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            met = everything() or met
        return met

    def everything() -> bool:
        met = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            met = one() and met
        return met

    def one() -> bool:
        if not tokens:
            return False
        name = tokens.pop(0)
        if name == "(":
            met = alternatives()
            return bool(tokens) and tokens.pop(0) == ")" and met
        if tokens[:1] == ["WITH"]:
            name = " ".join([name, *tokens[:2]])
            del tokens[:2]
        return name in allowed

    return alternatives() and not tokens


# By name: the command, and what a run with no data would be told by.
TOOLS: dict[str, Sequence[str]] = {
    "pip-audit": (sys.executable, "-m", "pip_audit", "--progress-spinner=off"),
    "cargo-audit": ("cargo", "audit"),
    "cargo-deny": ("cargo", "deny", "check"),
}


def ask(tool: str) -> bool:
    """Run a tool that knows vulnerabilities; return whether it found some."""
    command = TOOLS[tool]
    is_there = is_installed(tool) if tool == "pip-audit" else shutil.which(tool)
    if not is_there:
        print(f"{tool}: skipped: it is not installed")
        return False
    done = subprocess.run(  # noqa: S603 - ours
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    if done.returncode and UNREACHABLE.search(said) and "ID" not in done.stdout:
        print(f"{tool}: skipped: no data: {said.strip().splitlines()[-1]}")
        return False
    if done.returncode:
        print(f"{tool}: something was found\n{said}")
        return True
    # What is installed from here is on no index; everything else should be.
    unknown = said.count("could not be audited") - 1
    print(
        f"{tool}: "
        + (
            f"skipped: no data on {unknown} packages"
            if unknown > 0
            else "nothing was found"
        )
    )
    return False


def sbom(components: Sequence[Component]) -> dict[str, Any]:
    """Return the CycloneDX document."""
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    me = f"pkg:pypi/servable@{cargo['version']}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": me,
                "name": "servable",
                "version": cargo["version"],
                "purl": me,
                "licenses": [{"expression": cargo["license"]}],
            }
        },
        "components": [
            {
                "type": "library",
                "bom-ref": component.purl,
                "name": component.name,
                "version": component.version,
                "purl": component.purl,
                "licenses": [{"expression": component.licence.replace("/", " OR ")}],
                **(
                    {"hashes": [{"alg": "SHA-256", "content": component.sha256}]}
                    if component.sha256
                    else {}
                ),
            }
            for component in components
        ],
        "dependencies": [
            {"ref": me, "dependsOn": [component.purl for component in components]}
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
