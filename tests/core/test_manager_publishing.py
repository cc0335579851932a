"""What the manager publishes, and in which order."""

import logging
from typing import Any

import pytest

from servable.core.servable_data import ServableData
from servable.core.servable_id import ServableId
from servable.errors import NotFound
from servable.testing import FakeLoader


def test_a_version_is_in_the_map_before_it_is_available(under_test: Any) -> None:
    under_test.aspire(v1=FakeLoader("s1"))
    under_test.run()

    assert under_test.log == ["1 START", "1 LOADING", "map [1]", "1 AVAILABLE"]
    assert under_test.map == {"m": {1: "s1"}}


def test_a_version_leaves_the_map_after_unloading_is_published(
    under_test: Any,
) -> None:
    under_test.aspire(v1=FakeLoader())
    under_test.run()
    under_test.take_log()

    under_test.aspire()
    before_unload = under_test.take_log()
    under_test.run()

    assert before_unload == ["1 UNLOADING", "map []"]
    assert under_test.take_log() == ["1 END"]
    assert under_test.states() == ["1 END"]


def test_loading_is_published_when_resources_are_reserved(under_test: Any) -> None:
    under_test.aspire(v1=FakeLoader(size_bytes=12))
    before = under_test.take_log()
    under_test.run_load()

    assert before == ["1 START"]
    assert under_test.take_log() == ["1 LOADING"]
    assert under_test.resources.reserved_bytes == 12


def test_the_old_version_serves_until_the_new_one_does(under_test: Any) -> None:
    under_test.aspire(v1=FakeLoader("s1"))
    under_test.run()
    under_test.aspire(v2=FakeLoader("s2"))
    under_test.take_log()
    under_test.run()

    assert under_test.take_log() == [
        "2 LOADING",
        "map [1, 2]",
        "2 AVAILABLE",
        "1 UNLOADING",
        "map [2]",
        "1 END",
    ]


def test_the_old_version_serves_on_when_the_new_one_fails(under_test: Any) -> None:
    under_test.aspire(v1=FakeLoader("s1"))
    under_test.run()
    under_test.aspire(v2=FakeLoader(failures=[NotFound("no graph")]))
    under_test.run()

    assert under_test.states() == ["2 END NOT_FOUND", "1 AVAILABLE"]
    assert under_test.map == {"m": {1: "s1"}}


def test_the_log_lines_that_operators_look_for(
    under_test: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    under_test.aspire(v1=FakeLoader())
    under_test.run()
    under_test.aspire()
    under_test.run()

    assert [r.getMessage() for r in caplog.records] == [
        "Successfully reserved resources to load servable {name: m version: 1}",
        "Approving load for servable version {name: m version: 1}",
        "Loading servable version {name: m version: 1}",
        # Of the last attempt that there may be, whatever became of it.
        "Retrying of Loading servable: {name: m version: 1} exhausted "
        "max_num_retries: 0",
        "Successfully loaded servable version {name: m version: 1}",
        "Quiescing servable version {name: m version: 1}",
        "Done quiescing servable version {name: m version: 1}",
        "Unloading just-loaded servable version {name: m version: 1}",
        "Done unloading servable version {name: m version: 1}",
    ]


def test_an_error_of_the_source_is_the_end_of_that_version(under_test: Any) -> None:
    error = NotFound("no such version")
    under_test.aspire(v1=ServableData(ServableId("m", 1), error=error))

    assert under_test.log == ["1 END"]
    assert under_test.states() == ["1 END NOT_FOUND"]


def test_an_error_for_a_new_version_does_not_unload_the_old(under_test: Any) -> None:
    under_test.aspire(v1=FakeLoader("s1"))
    under_test.run()
    error = NotFound("no such version")
    under_test.aspire(v2=ServableData(ServableId("m", 2), error=error))
    under_test.run()

    assert under_test.states() == ["2 END NOT_FOUND", "1 AVAILABLE"]


def test_a_version_can_come_after_its_error(under_test: Any) -> None:
    error = NotFound("not there yet")
    under_test.aspire(v1=ServableData(ServableId("m", 1), error=error))
    under_test.aspire(v1=FakeLoader())
    under_test.run()

    assert under_test.states() == ["1 AVAILABLE"]


def test_an_error_for_a_loaded_version_is_no_reason_to_unload_it(
    under_test: Any,
) -> None:
    under_test.aspire(v1=FakeLoader())
    under_test.run()
    error = NotFound("cannot see it any more")
    under_test.aspire(v1=ServableData(ServableId("m", 1), error=error))
    under_test.run()

    assert under_test.states() == ["1 AVAILABLE"]
