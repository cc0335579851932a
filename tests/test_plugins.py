"""What others install is listed, and hurts nothing when it is broken."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from servable import plugins
from servable.cli.plugins import plugins as command
from servable.errors import FailedPrecondition, InvalidArgument
from servable.policies import aspired_version_policy

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return what installs a package with one version policy, whose code is given."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, code: str, group: str = plugins.VERSION_POLICIES) -> None:
        monkeypatch.delitem(sys.modules, f"module_{name}", raising=False)
        (tmp_path / f"module_{name}.py").write_text(code)
        metadata = tmp_path / f"package_{name}-2.1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Name: package-{name}\nVersion: 2.1\n")
        (metadata / "entry_points.txt").write_text(
            f"[{group}]\n{name} = module_{name}:Policy\n"
        )
        importlib.invalidate_caches()

    return install


GOOD = "class Policy:\n    def next_action(self, versions):\n        return None\n"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        pytest.param("import nothing_there", "No module named", id="a missing module"),
        pytest.param("def f(:", "SyntaxError", id="a syntax error"),
        pytest.param("raise SystemExit(3)", "SystemExit: 3", id="an exit"),
        pytest.param("x = 1", "AttributeError", id="a missing object"),
    ],
)
def test_a_broken_plugin_is_one_line(code: str, reason: str, install: Install) -> None:
    install("broken", code)
    install("good", GOOD)

    done = CliRunner().invoke(command)

    assert done.exit_code == 1
    (told,) = [
        line for line in done.output.splitlines() if "cannot be imported" in line
    ]
    assert told.startswith(
        "The plug-in broken of servable.version_policies (package-broken 2.1) "
    )
    assert reason in told
    (good,) = [line for line in done.output.splitlines() if "package-good 2.1" in line]
    assert "yes" in good
    assert aspired_version_policy("good").next_action([]) is None
    with pytest.raises(FailedPrecondition, match="cannot be imported"):
        aspired_version_policy("broken")


def test_what_works_is_listed_with_its_package(install: Install) -> None:
    install("mine", GOOD, group=plugins.BATCHING_POLICIES)

    done = CliRunner().invoke(command, ["batching_policies"])

    assert done.exit_code == 0
    assert "mine" in done.output
    assert "resource_preserving" not in done.output


def test_there_is_no_other_group() -> None:
    assert CliRunner().invoke(command, ["dances"]).exit_code == 2


def test_our_names_are_not_taken_by_others(install: Install) -> None:
    install("resource_preserving", GOOD)

    listed = [
        p.distribution
        for p in plugins.installed(plugins.VERSION_POLICIES)
        if p.name == "resource_preserving"
    ]

    assert listed == ["servable"]


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        pytest.param("Policy = 3", "cannot be made", id="what cannot be called"),
        pytest.param("Policy = dict", "cannot be made", id="what has no next_action"),
        pytest.param(
            "class Policy:\n    next_action = 3", "has no method", id="no method"
        ),
    ],
)
def test_what_is_no_policy(code: str, problem: str, install: Install) -> None:
    install("odd", code)

    with pytest.raises(InvalidArgument, match=problem):
        aspired_version_policy("odd")


def test_a_policy_that_is_not_installed_is_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidArgument) as refused:
        aspired_version_policy("best")

    assert refused.value.message == (
        "There is no best among servable.version_policies; installed are: "
        "availability_preserving, resource_preserving"
    )
