"""Loads that nobody wants any more."""

from collections.abc import Callable
from typing import Any

from servable.core.loader import Loader
from servable.core.servable_data import ServableData
from servable.core.servable_id import ServableId
from servable.errors import NotFound
from servable.testing import FakeLoader

NewManager = Callable[..., Any]


def again(version: int, loader: Loader, attempt: object) -> ServableData[Loader]:
    return ServableData(ServableId("m", version), loader, attempt=str(attempt))


def test_a_load_that_succeeds_unwanted_is_unloaded_and_cancelled(
    under_test: Any,
) -> None:
    loader = FakeLoader()
    under_test.aspire(v1=loader)
    under_test.run_load()
    under_test.aspire()
    under_test.run()

    (state,) = under_test.monitor.states_of("m")
    assert loader.calls == ["estimate_resources", "load", "loaded", "unload"]
    assert under_test.log == ["1 START", "1 LOADING", "1 END"]
    assert state.error.status_text == "CANCELLED: Loading of servable cancelled"


def test_a_load_that_fails_unwanted_is_cancelled_without_retries(
    new_manager: NewManager,
) -> None:
    test = new_manager(retries=5)
    loader = FakeLoader(failures=[NotFound("x")])
    test.aspire(v1=loader)
    test.run_load()
    test.aspire()
    test.run()
    test.advance(600)

    assert (loader.calls.count("load"), test.states()) == (1, ["1 END CANCELLED"])


def test_a_load_that_waits_for_its_retry_is_cancelled_at_once(
    new_manager: NewManager,
) -> None:
    test = new_manager(retries=5)
    test.aspire(v1=FakeLoader(failures=[NotFound("x")]))
    test.run()
    test.aspire()

    assert test.states() == ["1 END CANCELLED"]
    assert test.resources.reserved_bytes == 0


def test_a_load_can_follow_a_cancelled_load(under_test: Any) -> None:
    under_test.aspire(v1=again(1, FakeLoader("old"), attempt="a"))
    under_test.run_load()
    under_test.aspire()
    under_test.aspire(v1=again(1, FakeLoader("new"), attempt="b"))
    under_test.run()

    assert under_test.map == {"m": {1: "new"}}
    assert under_test.states() == ["1 AVAILABLE"]


def test_a_load_that_is_wanted_again_in_time_goes_on(under_test: Any) -> None:
    loader = FakeLoader("s")
    under_test.aspire(v1=loader)
    under_test.run_load()
    under_test.aspire()
    under_test.aspire(v1=FakeLoader("unneeded"))
    under_test.run()

    assert under_test.map == {"m": {1: "s"}}


def test_a_load_that_never_ends_holds_up_no_newer_version(under_test: Any) -> None:
    under_test.aspire(v1=FakeLoader("hangs"))
    under_test.run_load()
    hanging = under_test.loads.jobs.pop()
    under_test.aspire(v2=FakeLoader("s2"))
    under_test.run()

    assert callable(hanging)
    assert under_test.map == {"m": {2: "s2"}}
