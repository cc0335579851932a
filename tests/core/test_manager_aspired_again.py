"""Versions that are aspired no more, and again."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from servable.core.lifecycle import State
from servable.core.loader import Loader
from servable.core.servable_data import ServableData
from servable.core.servable_id import ServableId
from servable.core.version_policy import Load, VersionSnapshot
from servable.errors import DeadlineExceeded, NotFound, ServingError
from servable.testing import FakeLoader

NewManager = Callable[..., Any]


def decisive(test: Any, generation: int) -> str:
    """Return what ends a wait for *generation*, "" while nothing does."""
    try:
        decided = test.monitor.wait_until_available({"m": generation}, timeout_s=0)
    except DeadlineExceeded:
        return ""
    return str(decided["m"].manager_state.name)


def again(version: int, loader: Loader, attempt: object) -> ServableData[Loader]:
    return ServableData(ServableId("m", version), loader, attempt=str(attempt))


def test_goes_back_to_a_smaller_version_number(under_test: Any) -> None:
    under_test.aspire(v5=FakeLoader("s5"))
    under_test.run()
    under_test.aspire(v2=FakeLoader("s2"))
    under_test.run()

    assert under_test.states() == ["5 END", "2 AVAILABLE"]


def test_a_version_aspired_again_at_once_waits_for_its_old_self(
    under_test: Any,
) -> None:
    old, new = FakeLoader("old"), FakeLoader("new")
    under_test.aspire(v1=old)
    under_test.run()
    under_test.aspire()
    under_test.aspire(v1=new)
    while_unloading = (list(new.calls), under_test.map)
    under_test.run()

    assert while_unloading == ([], {})
    assert old.calls[-1] == "unload"
    assert under_test.map == {"m": {1: "new"}}


def test_a_version_still_served_is_taken_back_without_a_reload(
    under_test: Any,
) -> None:
    old, unneeded = FakeLoader("old"), FakeLoader("new")
    under_test.aspire(v1=old)
    under_test.run()
    under_test.aspire(v2=FakeLoader(failures=[NotFound("bad")]))
    under_test.run()
    under_test.aspire(v1=unneeded)
    under_test.run()
    under_test.aspire(v3=FakeLoader("s3"))
    under_test.run()

    assert unneeded.calls == []
    assert under_test.states() == ["3 AVAILABLE", "2 END NOT_FOUND", "1 END"]


def test_a_version_still_served_is_reloaded_when_its_content_is_other(
    under_test: Any,
) -> None:
    under_test.aspire(v1=again(1, FakeLoader("old"), attempt="a"))
    under_test.run()
    under_test.aspire(v2=FakeLoader(failures=[NotFound("bad")]))
    under_test.run()
    under_test.aspire(v1=again(1, FakeLoader("new"), attempt="b"))
    under_test.run()

    assert under_test.map == {"m": {1: "new"}}


def test_a_loaded_version_is_left_alone_whatever_its_attempt(under_test: Any) -> None:
    under_test.aspire(v1=again(1, FakeLoader("old"), attempt="a"))
    under_test.run()
    under_test.aspire(v1=again(1, FakeLoader("new"), attempt="b"))
    under_test.run()

    assert under_test.map == {"m": {1: "old"}}


def test_a_failed_version_is_not_tried_again_with_the_same_attempt(
    under_test: Any,
) -> None:
    second = FakeLoader()
    under_test.aspire(v1=again(1, FakeLoader(failures=[NotFound("x")]), attempt="a"))
    under_test.run()
    under_test.aspire(v1=again(1, second, attempt="a"))
    under_test.run()

    assert (second.calls, under_test.states()) == ([], ["1 END NOT_FOUND"])


def test_a_failed_version_is_loaded_with_a_new_attempt(under_test: Any) -> None:
    under_test.aspire(v1=again(1, FakeLoader(failures=[NotFound("x")]), attempt="a"))
    under_test.run()
    under_test.aspire(v1=again(1, FakeLoader("good"), attempt="b"))
    under_test.run()

    assert under_test.map == {"m": {1: "good"}}


def test_a_failed_version_is_loaded_when_removed_and_added_again(
    under_test: Any,
) -> None:
    under_test.aspire(v1=FakeLoader("s1"))
    under_test.run()
    under_test.aspire(v2=FakeLoader(failures=[NotFound("x")]))
    under_test.run()
    under_test.aspire(v1=FakeLoader("s1"))
    under_test.run()
    under_test.aspire(v2=FakeLoader("good"))
    under_test.run()

    assert under_test.map == {"m": {2: "good"}}


def test_a_new_attempt_does_not_wait_for_the_retry_of_the_old(
    new_manager: NewManager,
) -> None:
    test = new_manager(retries=5)
    test.aspire(v1=again(1, FakeLoader(failures=[NotFound("x")]), attempt="a"))
    test.run()
    test.aspire(v1=again(1, FakeLoader("good"), attempt="b"))
    test.run()

    assert test.states() == ["1 AVAILABLE"]
    assert "1 END" not in test.log


def test_a_new_attempt_during_a_load_counts_when_that_fails(
    new_manager: NewManager,
) -> None:
    test = new_manager(retries=5)
    test.aspire(v1=again(1, FakeLoader(failures=[NotFound("x")]), attempt="a"))
    test.run_load()
    test.aspire(v1=again(1, FakeLoader("good"), attempt="b"))
    test.run()

    assert test.map == {"m": {1: "good"}}


def test_a_wait_for_a_version_that_is_taken_back_goes_by_its_new_life(
    under_test: Any,
) -> None:
    manager = under_test.manager
    under_test.aspire(v1=FakeLoader("old"))
    under_test.run()
    manager.set_aspired_versions("m", [])
    generation = manager.begin_generation(["m"])
    ends = [decisive(under_test, generation)]
    under_test.aspire(v1=FakeLoader("new"))
    for step in (under_test.run_unload, under_test.run_load, under_test.run_load):
        ends.append(decisive(under_test, generation))
        step()

    # Available still, being unloaded, unloaded, estimated, and loaded.
    assert [*ends, decisive(under_test, generation)] == ["", "", "", "", "AVAILABLE"]


def test_a_wait_does_not_end_with_a_load_that_was_given_up(under_test: Any) -> None:
    under_test.aspire(v1=again(1, FakeLoader("old"), attempt="a"))
    under_test.run_load()  # the estimate
    under_test.aspire()
    generation = under_test.manager.begin_generation(["m"])
    under_test.aspire(v2=FakeLoader("new"))
    under_test.run_load()
    under_test.run_unload()
    given_up = (under_test.states(), decisive(under_test, generation))
    under_test.run()

    assert given_up == (["2 START", "1 END CANCELLED"], "")
    assert decisive(under_test, generation) == "AVAILABLE"


@pytest.mark.parametrize(
    ("failures", "end"),
    [
        pytest.param([], "AVAILABLE", id="which goes well"),
        pytest.param([NotFound("x")], "END", id="which fails"),
    ],
)
def test_a_wait_ends_with_a_load_that_is_taken_back(
    under_test: Any, failures: list[ServingError], end: str
) -> None:
    under_test.aspire(v1=FakeLoader(failures=failures))
    under_test.run_load()  # the estimate
    under_test.aspire()
    generation = under_test.manager.begin_generation(["m"])
    under_test.aspire(v1=FakeLoader())
    under_test.run()

    assert decisive(under_test, generation) == end


class _KeepsAll:
    """Unloads nothing."""

    def next_action(self, versions: Sequence[VersionSnapshot]) -> Load | None:
        new = [v.id for v in versions if v.is_aspired and v.state is State.NEW]
        return Load(new[0]) if new else None


@pytest.mark.parametrize(
    ("aspired", "end"),
    [
        pytest.param({"v1": FakeLoader()}, "AVAILABLE", id="that is served"),
        pytest.param(
            {"v1": again(1, FakeLoader(failures=[NotFound("x")]), attempt="a")},
            "END",
            id="that has failed",
        ),
    ],
)
def test_a_wait_ends_with_a_version_that_has_never_gone(
    new_manager: NewManager, aspired: dict[str, Any], end: str
) -> None:
    test = new_manager(policy=_KeepsAll())
    test.aspire(**aspired)
    test.run()
    generation = test.manager.begin_generation(["m"])
    before = decisive(test, generation)
    test.aspire(**aspired)
    test.run()

    assert (before, decisive(test, generation)) == ("", end)
