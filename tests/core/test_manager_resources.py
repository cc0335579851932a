"""Memory that is reserved, refused and given back."""

from collections.abc import Callable
from typing import Any

from servable.core.version_policy import ResourcePreservingPolicy
from servable.testing import FakeLoader

NewManager = Callable[..., Any]


def test_the_first_load_is_refused_and_the_second_one_approved(
    new_manager: NewManager,
) -> None:
    test = new_manager(limit_bytes=100)
    test.aspire("big", v1=FakeLoader(size_bytes=101))
    test.aspire("small", v1=FakeLoader(size_bytes=100))
    test.run()

    (refused,) = test.monitor.states_of("big")
    assert refused.error.status_text == (
        "RESOURCE_EXHAUSTED: Insufficient resources to load servable "
        "{name: big version: 1}: it needs 101 bytes, and of 100 bytes 0 are reserved"
    )
    assert test.states("small") == ["1 AVAILABLE"]


def test_a_load_waits_for_the_memory_that_an_unload_will_give_back(
    new_manager: NewManager,
) -> None:
    test = new_manager(limit_bytes=100, policy=ResourcePreservingPolicy())
    test.aspire("a", v1=FakeLoader(size_bytes=80))
    test.run()
    test.aspire("a")
    test.aspire("b", v1=FakeLoader(size_bytes=80))
    test.run_load()
    while_unloading = test.states("b")
    test.run()

    assert while_unloading == ["1 START"]
    assert test.states("b") == ["1 AVAILABLE"]


def test_resources_can_be_preserved_instead_of_availability(
    new_manager: NewManager,
) -> None:
    test = new_manager(limit_bytes=100, policy=ResourcePreservingPolicy())
    test.aspire(v1=FakeLoader("s1", size_bytes=80))
    test.run()
    test.aspire(v2=FakeLoader("s2", size_bytes=80))
    test.run()

    assert test.map == {"m": {2: "s2"}}


def test_a_version_too_big_beside_the_old_one_leaves_that_alone(
    new_manager: NewManager,
) -> None:
    test = new_manager(limit_bytes=100)
    test.aspire(v1=FakeLoader("s1", size_bytes=80))
    test.run()
    test.aspire(v2=FakeLoader("s2", size_bytes=80))
    test.run()

    assert test.states() == ["2 END RESOURCE_EXHAUSTED", "1 AVAILABLE"]


def test_a_version_that_was_refused_is_tried_again_when_there_is_room(
    new_manager: NewManager,
) -> None:
    test = new_manager(limit_bytes=100)
    test.aspire("old", v1=FakeLoader(size_bytes=80))
    test.run()
    test.aspire("new", v1=FakeLoader("n1", size_bytes=80))
    test.run()
    refused = test.states("new")
    test.aspire("old")
    test.run()

    assert refused == ["1 END RESOURCE_EXHAUSTED"]
    assert test.states("new") == ["1 AVAILABLE"]
    assert test.map == {"new": {1: "n1"}}


def test_only_as_many_are_tried_again_as_fit_together(new_manager: NewManager) -> None:
    test = new_manager(limit_bytes=100)
    test.aspire("old", v1=FakeLoader(size_bytes=80))
    test.run()
    for name in ("a", "b", "c"):
        test.aspire(name, v1=FakeLoader(size_bytes=50))
        test.run()
    test.take_log()
    test.aspire("old")
    test.run()

    assert [test.states(name)[0] for name in ("a", "b", "c")] == [
        "1 AVAILABLE",
        "1 AVAILABLE",
        "1 END RESOURCE_EXHAUSTED",
    ]
    assert test.take_log().count("1 START") == 2  # the third was left alone


def test_a_version_that_was_refused_and_is_not_wanted_any_more_stays_away(
    new_manager: NewManager,
) -> None:
    test = new_manager(limit_bytes=100)
    test.aspire("old", v1=FakeLoader(size_bytes=80))
    test.run()
    test.aspire("new", v1=FakeLoader(size_bytes=80))
    test.run()
    test.aspire("new")
    test.aspire("old")
    test.run()

    assert test.states("new") == ["1 END RESOURCE_EXHAUSTED"]
    assert test.map == {}


def test_a_load_that_waits_for_memory_holds_up_none_that_fits(
    new_manager: NewManager,
) -> None:
    test = new_manager(limit_bytes=100)
    test.aspire("a", v1=FakeLoader(size_bytes=80))
    test.run()
    test.aspire("a")  # and a request keeps it from being unloaded
    test.aspire("big", v1=FakeLoader(size_bytes=80))
    test.aspire("small", v1=FakeLoader(size_bytes=20))
    while test.run_load():
        pass
    while_unloading = test.states("big")
    small = test.states("small")
    test.run()

    assert (while_unloading, small) == (["1 START"], ["1 AVAILABLE"])
    assert test.states("big") == ["1 AVAILABLE"]


def test_a_load_that_waits_for_memory_can_be_cancelled(new_manager: NewManager) -> None:
    test = new_manager(limit_bytes=100)
    test.aspire("a", v1=FakeLoader(size_bytes=80))
    test.run()
    test.aspire("a")
    test.aspire("big", v1=FakeLoader(size_bytes=80))
    test.run_load()
    test.aspire("big")

    assert test.states("big") == ["1 END CANCELLED"]


def test_each_stream_has_the_policy_that_is_set_for_it(new_manager: NewManager) -> None:
    test = new_manager(limit_bytes=200)
    test.manager.set_version_policies({"swapped": ResourcePreservingPolicy()})
    for name in ("swapped", "beside"):
        test.aspire(name, v1=FakeLoader(f"{name} 1", size_bytes=80))
        test.run()
    for name in ("swapped", "beside"):
        test.aspire(name, v2=FakeLoader(f"{name} 2", size_bytes=80))
        test.run()

    assert test.map == {"swapped": {2: "swapped 2"}, "beside": {1: "beside 1"}}
    assert test.states("beside") == ["2 END RESOURCE_EXHAUSTED", "1 AVAILABLE"]


def test_another_policy_makes_room_for_what_was_refused(
    new_manager: NewManager,
) -> None:
    test = new_manager(limit_bytes=100)
    test.aspire(v1=FakeLoader("s1", size_bytes=80))
    test.run()
    test.aspire(v2=FakeLoader("s2", size_bytes=80))
    test.run()
    before = dict(test.map)
    test.manager.set_version_policies({"m": ResourcePreservingPolicy()})
    test.manager.process()
    test.run()

    assert (before, test.map) == ({"m": {1: "s1"}}, {"m": {2: "s2"}})
