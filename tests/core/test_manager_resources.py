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
        "{name: big version: 1}"
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
