"""What the manager does with loads that fail."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from servable.core.servable_id import ServableId
from servable.core.servable_state import ManagerState
from servable.errors import Code, FailedPrecondition, NotFound
from servable.testing import FakeLoader

NewManager = Callable[..., Any]


@pytest.mark.parametrize(
    ("retries", "attempts"),
    [
        pytest.param(0, 1, id="no retries: one attempt"),
        pytest.param(2, 3, id="two retries: three attempts"),
        pytest.param(-1, 1, id="a negative number counts as none"),
    ],
)
def test_a_load_is_tried_as_often_as_it_may_be(
    new_manager: NewManager, retries: int, attempts: int
) -> None:
    test = new_manager(retries=retries)
    loader = FakeLoader(failures=[NotFound(f"try {i}") for i in range(9)])
    test.aspire(v1=loader)
    for _ in range(9):
        test.run()
        test.advance(60)

    assert loader.calls.count("load") == attempts
    assert test.monitor.states_of("m")[0].message == f"try {attempts - 1}"


def test_a_retry_waits_for_its_time(new_manager: NewManager) -> None:
    test = new_manager(retries=1)
    loader = FakeLoader("s", failures=[NotFound("not yet")])
    test.aspire(v1=loader)
    test.run()

    test.advance(59.9)
    before = len(test.loads.jobs)
    test.advance(0.1)
    test.run()

    assert (before, test.states()) == (0, ["1 AVAILABLE"])


def test_a_source_may_ask_how_a_load_failed(new_manager: NewManager) -> None:
    test = new_manager(retries=1)
    first = ServableId("m", 1)
    test.aspire(v1=FakeLoader("s", failures=[NotFound("not yet")]))
    asked = [test.manager.failed_load(first)]
    test.run()
    asked.append(test.manager.failed_load(first))
    test.advance(60)
    test.run()
    asked.append(test.manager.failed_load(first))

    assert [failed and failed.error.message for failed in asked] == [
        None,
        "not yet",
        None,
    ]


def test_how_a_load_failed_is_forgotten_with_its_version(
    new_manager: NewManager,
) -> None:
    test = new_manager(retries=0)
    test.aspire(v1=FakeLoader(failures=[NotFound("gone")]))
    test.run()
    test.aspire()
    test.run()

    assert test.manager.failed_load(ServableId("m", 1)) is None


def test_who_waits_for_a_retry_is_told_what_went_wrong(new_manager: NewManager) -> None:
    test = new_manager(retries=1)
    test.aspire(v1=FakeLoader(failures=[NotFound("no graph\nand more in the log")]))
    test.run()

    progress = test.manager.progress.of(ServableId("m", 1))

    assert progress.what == "failed, and is tried again 60 s later: NOT_FOUND: no graph"


def test_a_version_that_was_loaded_at_last_ends_without_an_error(
    new_manager: NewManager, caplog: pytest.LogCaptureFixture
) -> None:
    test = new_manager(retries=1)
    test.aspire(v1=FakeLoader(failures=[NotFound("not yet")]))
    test.run()
    test.advance(60)
    test.run()

    test.aspire()
    test.run()

    (state,) = test.monitor.states_of("m")
    assert (state.manager_state, state.error) == (ManagerState.END, None)
    assert "Encountered an error" not in caplog.text


def test_retries_are_logged_as_operators_know_them(
    new_manager: NewManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    test = new_manager(retries=2)
    test.aspire(v123=FakeLoader(failures=[NotFound("x"), NotFound("y"), NotFound("z")]))
    for _ in range(3):
        test.run()
        test.advance(60)

    texts = [r.getMessage() for r in caplog.records if "etry" in r.getMessage()]
    failures = [r.getMessage() for r in caplog.records if "failed:" in r.getMessage()]
    assert texts == [
        "Retrying of Loading servable: {name: m version: 123} retry: 1",
        "Retrying of Loading servable: {name: m version: 123} retry: 2",
        "Retrying of Loading servable: {name: m version: 123} exhausted "
        "max_num_retries: 2",
    ]
    assert failures[0] == (
        "Loading servable: {name: m version: 123} failed: NOT_FOUND: x"
    )


def test_a_version_that_waits_for_its_retry_holds_up_no_other(
    new_manager: NewManager,
) -> None:
    test = new_manager(retries=5)
    test.aspire(v1=FakeLoader("s1"), v2=FakeLoader(failures=[NotFound("bad")] * 9))
    test.run()

    assert test.states() == ["2 LOADING", "1 AVAILABLE"]


def test_a_broken_model_holds_up_no_other_model(new_manager: NewManager) -> None:
    test = new_manager(retries=5)
    test.aspire("bad", v1=FakeLoader(failures=[NotFound("bad")] * 9))
    test.run()
    test.aspire("good", v1=FakeLoader("s"))
    test.run()

    assert test.states("good") == ["1 AVAILABLE"]


@pytest.mark.parametrize(
    "failure",
    [
        FileNotFoundError("x"),
        ValueError("x"),
        IndexError("x"),
        OSError("x"),
        RuntimeError("x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
        MemoryError(),
        SystemExit(1),
        KeyboardInterrupt(),
        RecursionError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_whatever_a_loader_raises_ends_that_version_only(
    under_test: Any, failure: BaseException
) -> None:
    under_test.aspire("bad", v1=FakeLoader(failures=[failure]))
    under_test.aspire("good", v1=FakeLoader())
    under_test.run()

    (bad,) = under_test.monitor.states_of("bad")
    assert bad.manager_state is ManagerState.END
    assert bad.code is not Code.OK
    assert under_test.states("good") == ["1 AVAILABLE"]


def test_resources_are_released_if_the_load_failed(under_test: Any) -> None:
    under_test.aspire(v1=FakeLoader(size_bytes=9, failures=[NotFound("x")]))
    under_test.run()

    assert under_test.resources.reserved_bytes == 0


def test_a_failed_estimate_is_retried_like_a_load(new_manager: NewManager) -> None:
    test = new_manager(retries=1)
    loader = FakeLoader(size_bytes=PermissionError("closed"))
    test.aspire(v1=loader)
    test.run()
    test.advance(60)
    test.run()

    (state,) = test.monitor.states_of("m")
    assert loader.calls == ["estimate_resources"] * 2
    assert state.error.status_text == (
        "PERMISSION_DENIED: Error while attempting to reserve resources to load "
        "servable {name: m version: 1}: closed"
    )


def test_a_failed_unload_ends_with_its_error(under_test: Any) -> None:
    under_test.aspire(v1=FakeLoader(unload_failure=FailedPrecondition("stuck")))
    under_test.run()
    under_test.aspire()
    under_test.run()

    assert under_test.states() == ["1 END FAILED_PRECONDITION"]
