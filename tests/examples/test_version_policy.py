"""The example of a version policy: found by its name, and what it decides."""

from collections.abc import Callable

import pytest

from servable import plugins
from servable.core.lifecycle import State
from servable.core.servable_id import ServableId
from servable.core.version_policy import (
    Action,
    AspiredVersionPolicy,
    Load,
    Unload,
    VersionSnapshot,
)
from servable.policies import aspired_version_policy


def v(version: int, state: State, *, aspired: bool = True) -> VersionSnapshot:
    return VersionSnapshot(ServableId("m", version), state, aspired)


@pytest.fixture
def policy(install: Callable[[str], None]) -> AspiredVersionPolicy:
    install("version_policy")
    return aspired_version_policy("oldest_first")


def test_it_is_listed_with_its_package(install: Callable[[str], None]) -> None:
    install("version_policy")

    listed = {p.name: p for p in plugins.installed(plugins.VERSION_POLICIES)}

    assert listed["oldest_first"].distribution == "oldest_first 1.0"
    assert listed["oldest_first"].load() is not None
    assert "resource_preserving" in listed


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        pytest.param(
            [v(1, State.NEW), v(2, State.NEW)],
            Load(ServableId("m", 1)),
            id="loads the oldest first",
        ),
        pytest.param(
            [v(1, State.READY, aspired=False), v(2, State.LOADING)],
            None,
            id="waits for the newest",
        ),
        pytest.param(
            [v(1, State.READY, aspired=False), v(2, State.READY)],
            Unload(ServableId("m", 1)),
            id="lets the old one go then",
        ),
    ],
)
def test_it(
    policy: AspiredVersionPolicy,
    versions: list[VersionSnapshot],
    expected: Action | None,
) -> None:
    assert policy.next_action(versions) == expected
