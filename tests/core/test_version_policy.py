"""The policies: their decision tables, and what holds for any set of versions."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servable.core.lifecycle import FINAL, State
from servable.core.servable_id import ServableId
from servable.core.version_policy import (
    Action,
    AspiredVersionPolicy,
    AvailabilityPreservingPolicy,
    CheckedPolicy,
    Load,
    ResourcePreservingPolicy,
    Unload,
    VersionSnapshot,
)


def v(version: int, state: State, *, aspired: bool) -> VersionSnapshot:
    return VersionSnapshot(ServableId("m", version), state, aspired)


def load(version: int) -> Load:
    return Load(ServableId("m", version))


def unload(version: int) -> Unload:
    return Unload(ServableId("m", version))


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        pytest.param([], None, id="does nothing with nothing"),
        pytest.param(
            [v(1, State.READY, aspired=False), v(2, State.LOADING, aspired=True)],
            None,
            id="keeps the old version until the new one is ready",
        ),
        pytest.param(
            [v(1, State.READY, aspired=False), v(2, State.ERROR, aspired=True)],
            None,
            id="keeps the old version when the new one failed",
        ),
        pytest.param(
            [v(1, State.READY, aspired=False), v(2, State.READY, aspired=True)],
            unload(1),
            id="unloads the old version once the new one is ready",
        ),
        pytest.param(
            [v(1, State.READY, aspired=False), v(2, State.READY, aspired=False)],
            unload(1),
            id="unloads the lowest first when nothing is aspired",
        ),
        pytest.param(
            [
                v(1, State.READY, aspired=False),
                v(2, State.READY, aspired=False),
                v(3, State.NEW, aspired=True),
            ],
            unload(1),
            id="keeps one version, not two, while the new one is not there",
        ),
        pytest.param(
            [v(1, State.READY, aspired=False), v(2, State.NEW, aspired=True)],
            load(2),
            id="loads the new version beside the last old one",
        ),
        pytest.param(
            [v(1, State.NEW, aspired=True), v(2, State.NEW, aspired=True)],
            load(2),
            id="loads the highest first",
        ),
        pytest.param(
            [
                v(1, State.READY, aspired=False),
                v(2, State.READY, aspired=True),
                v(3, State.NEW, aspired=True),
            ],
            unload(1),
            id="prefers an unload to a load",
        ),
        pytest.param(
            [v(5, State.READY, aspired=False), v(2, State.NEW, aspired=True)],
            load(2),
            id="goes back to a smaller number",
        ),
        pytest.param(
            [v(1, State.NEW, aspired=False)], None, id="never loads what is not aspired"
        ),
    ],
)
def test_availability_preserving(
    versions: list[VersionSnapshot], expected: Action | None
) -> None:
    assert AvailabilityPreservingPolicy().next_action(versions) == expected


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        pytest.param(
            [v(1, State.READY, aspired=False), v(2, State.NEW, aspired=True)],
            unload(1),
            id="unloads the old version before the new one is loaded",
        ),
        pytest.param(
            [v(1, State.QUIESCING, aspired=False), v(2, State.NEW, aspired=True)],
            None,
            id="waits until the old version is gone",
        ),
        pytest.param(
            [v(1, State.DISABLED, aspired=False), v(2, State.NEW, aspired=True)],
            load(2),
            id="loads when the old version is gone",
        ),
        pytest.param(
            [v(1, State.ERROR, aspired=False), v(2, State.NEW, aspired=True)],
            load(2),
            id="does not wait for what has failed",
        ),
        pytest.param(
            [v(1, State.NEW, aspired=True), v(2, State.NEW, aspired=True)],
            load(2),
            id="loads the highest first",
        ),
    ],
)
def test_resource_preserving(
    versions: list[VersionSnapshot], expected: Action | None
) -> None:
    assert ResourcePreservingPolicy().next_action(versions) == expected


snapshots = st.lists(
    st.builds(
        VersionSnapshot,
        id=st.builds(ServableId, name=st.just("m"), version=st.integers(0, 6)),
        state=st.sampled_from(State),
        is_aspired=st.booleans(),
    ),
    unique_by=lambda snapshot: snapshot.id,
)
both_policies = pytest.mark.parametrize(
    "policy", [AvailabilityPreservingPolicy(), ResourcePreservingPolicy()]
)


def keeps_the_last_ready_version(
    policy: AspiredVersionPolicy, versions: Sequence[VersionSnapshot]
) -> None:
    action = policy.next_action(versions)

    if isinstance(action, Unload) and any(v.is_aspired for v in versions):
        ready = {v.id for v in versions if v.state is State.READY}
        assert ready - {action.id}


@given(snapshots)
def test_never_unloads_the_last_ready_version_while_one_is_aspired(
    versions: list[VersionSnapshot],
) -> None:
    keeps_the_last_ready_version(AvailabilityPreservingPolicy(), versions)


@both_policies
@given(versions=snapshots)
def test_acts_only_on_versions_that_can_be_acted_on(
    policy: AspiredVersionPolicy, versions: list[VersionSnapshot]
) -> None:
    action = policy.next_action(versions)

    by_id = {snapshot.id: snapshot for snapshot in versions}
    if isinstance(action, Load):
        assert by_id[action.id] == VersionSnapshot(action.id, State.NEW, True)
    elif isinstance(action, Unload):
        assert by_id[action.id] == VersionSnapshot(action.id, State.READY, False)


@both_policies
@given(versions=snapshots)
def test_the_order_of_the_versions_does_not_matter(
    policy: AspiredVersionPolicy, versions: list[VersionSnapshot]
) -> None:
    ordered = sorted(versions, key=lambda snapshot: snapshot.id)

    # Which of several surplus versions goes first is open with resources preserved.
    kinds = {type(policy.next_action(order)) for order in (ordered, ordered[::-1])}
    assert len(kinds) == 1


@given(snapshots)
def test_resource_preserving_never_loads_beside_a_version_to_be_unloaded(
    versions: list[VersionSnapshot],
) -> None:
    action = ResourcePreservingPolicy().next_action(versions)

    if isinstance(action, Load):
        assert all(v.is_aspired or v.state in FINAL for v in versions)


@both_policies
@given(versions=snapshots)
def test_comes_to_rest(
    policy: AspiredVersionPolicy, versions: list[VersionSnapshot]
) -> None:
    by_id = {snapshot.id: snapshot for snapshot in versions}
    for _ in range(2 * len(versions) + 1):
        action = policy.next_action(list(by_id.values()))
        if action is None:
            break
        state = State.READY if isinstance(action, Load) else State.DISABLED
        before = by_id[action.id]
        by_id[action.id] = VersionSnapshot(action.id, state, before.is_aspired)
    else:
        pytest.fail(f"still acts on {by_id}")

    assert all(s.state is not State.NEW for s in by_id.values() if s.is_aspired) or any(
        s.state not in FINAL for s in by_id.values() if not s.is_aspired
    )


class _UnloadsTooEarly(AvailabilityPreservingPolicy):
    """As the real one, but content with one surplus version instead of two."""

    def next_action(self, versions: Sequence[VersionSnapshot]) -> Action | None:
        surplus = [v for v in versions if not v.is_aspired and v.state is State.READY]
        if len(surplus) >= 1:
            return Unload(min(v.id for v in surplus))
        return super().next_action(versions)


def test_the_property_catches_a_policy_that_unloads_too_early() -> None:
    check: Callable[[], None] = settings(database=None, derandomize=True)(
        given(snapshots)(
            lambda versions: keeps_the_last_ready_version(_UnloadsTooEarly(), versions)
        )
    )

    with pytest.raises(AssertionError):
        check()


class _Scripted:
    """A policy that says what it was made with, or raises it."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def next_action(self, versions: Sequence[VersionSnapshot]) -> Action | None:
        del versions
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        pytest.param(ValueError("no idea"), "ValueError: no idea", id="that raises"),
        pytest.param("load it", "no step", id="that answers with something else"),
        pytest.param(load(9), "no step", id="that loads what is not there"),
        pytest.param(load(1), "no step", id="that loads what is loaded"),
        pytest.param(unload(2), "no step", id="that unloads what is not loaded"),
        pytest.param(unload(3), "no step", id="that unloads what is aspired"),
    ],
)
def test_a_policy_of_others(
    answer: object, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    versions = [
        v(1, State.READY, aspired=False),
        v(2, State.NEW, aspired=True),
        v(3, State.READY, aspired=True),
    ]
    policy = CheckedPolicy("theirs", _Scripted(answer))

    steps = {policy.next_action(versions) for _ in range(3)}

    assert steps == {AvailabilityPreservingPolicy().next_action(versions)}
    assert [r.message.count(problem) for r in caplog.records] == [1]  # and told once


@pytest.mark.parametrize("answer", [None, load(2), unload(1)], ids=str)
def test_a_policy_of_others_decides_what_it_may(answer: Action | None) -> None:
    versions = [v(1, State.READY, aspired=False), v(2, State.NEW, aspired=True)]

    assert CheckedPolicy("theirs", _Scripted(answer)).next_action(versions) == answer
