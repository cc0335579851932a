"""Many versions at a time: what may hold up what."""

import threading
from typing import Any

import pytest

from servable.core.aspired_versions_manager import (
    AspiredVersionsManager,
    new_load_pool,
    new_unload_pool,
)
from servable.core.event_bus import EventBus
from servable.core.loader import Loader
from servable.core.servable_data import ServableData
from servable.core.servable_id import ServableId
from servable.core.servable_state import ManagerState, ServableState
from servable.core.servable_state_monitor import ServableStateMonitor
from servable.core.serving_map import ServingMap, ServingSnapshot
from servable.testing import FakeLoader


def test_one_stream_loads_one_version_at_a_time(under_test: Any) -> None:
    under_test.aspire(v1=FakeLoader(), v2=FakeLoader(), v3=FakeLoader())
    under_test.run_load()
    under_test.run_load()
    under_test.run()

    available = [line for line in under_test.log if line.endswith("AVAILABLE")]
    assert available == ["3 AVAILABLE", "2 AVAILABLE", "1 AVAILABLE"]


def test_versions_of_a_stream_load_side_by_side_if_they_may(under_test: Any) -> None:
    under_test.aspire(v1=FakeLoader(), v2=FakeLoader(), v3=FakeLoader())
    before = len(under_test.loads.jobs)
    under_test.manager.set_max_loads_per_stream(2)
    under_test.manager.process()
    with_two = len(under_test.loads.jobs)
    under_test.aspire("n", v1=FakeLoader(), v2=FakeLoader(), v3=FakeLoader())
    with_another_stream = len(under_test.loads.jobs)
    under_test.run()

    assert (before, with_two, with_another_stream) == (1, 2, 4)
    assert len(under_test.map["m"]) == len(under_test.map["n"]) == 3


def test_streams_load_side_by_side(under_test: Any) -> None:
    for name in ("a", "b", "c"):
        under_test.aspire(name, v1=FakeLoader())

    assert len(under_test.loads.jobs) == 3


def test_an_unload_that_waits_for_a_request_holds_up_nothing(under_test: Any) -> None:
    under_test.aspire("a", v1=FakeLoader("a1"))
    under_test.aspire("b", v1=FakeLoader("b1"))
    under_test.run()
    under_test.aspire("a", v2=FakeLoader("a2"))
    while under_test.run_load():
        pass
    hung = under_test.unloads.jobs.pop()
    for version in range(3, 13):
        under_test.aspire("a", **{f"v{version}": FakeLoader(f"a{version}")})
        under_test.aspire("b", **{f"v{version}": FakeLoader(f"b{version}")})
        under_test.run()

    assert under_test.map == {"a": {12: "a12"}, "b": {12: "b12"}}
    assert under_test.states("a")[-1] == "1 UNLOADING"

    hung()
    under_test.run()

    assert under_test.states("a")[-1] == "1 END"


def test_nothing_is_kept_of_versions_that_are_gone(under_test: Any) -> None:
    for version in range(1, 30):
        under_test.aspire(**{f"v{version}": FakeLoader()})
        under_test.run()
    under_test.aspire()
    under_test.run()

    assert repr(under_test.manager) == "<AspiredVersionsManager []>"
    assert repr(under_test.resources) == "<ResourcePool 0 of no limit>"


def test_a_version_of_another_stream_is_refused(under_test: Any) -> None:
    data: ServableData[Loader] = ServableData(ServableId("n", 1), FakeLoader())

    with pytest.raises(ValueError, match="is no version of m"):
        under_test.manager.set_aspired_versions("m", [data])


def test_a_subscriber_that_fails_does_not_stop_the_manager(
    under_test: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_note", None)
    under_test.aspire(v1=FakeLoader())
    under_test.run()

    assert under_test.states() == ["1 AVAILABLE"]


class _ThreadsOfLoad(FakeLoader):
    """Remembers which threads called it, and waits to be let go."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[str] = set()
        self.may_unload = threading.Event()

    def load(self) -> None:
        self.threads.add(threading.current_thread().name)
        super().load()

    def unload(self) -> None:
        self.threads.add(threading.current_thread().name)
        if not self.may_unload.wait(30):
            raise TimeoutError
        super().unload()


def is_end(state: ServableState) -> bool:
    return state.manager_state is ManagerState.END


def test_with_threads_of_its_own() -> None:
    monitor = ServableStateMonitor()
    bus: EventBus[ServableState] = EventBus()
    bus.subscribe(monitor.record)
    snapshots: list[ServingSnapshot] = []
    manager = AspiredVersionsManager(
        ServingMap(snapshots.append),
        bus,
        load_pool=new_load_pool(2),
        unload_pool=new_unload_pool(0),
    )
    manager.start()
    loaders = {name: _ThreadsOfLoad() for name in ("a", "b", "c")}
    ended = {name: threading.Event() for name in loaders}
    bus.subscribe(lambda s: ended[s.id.name].set() if is_end(s) else None)
    for name, loader in loaders.items():
        manager.set_aspired_versions(name, [ServableData(ServableId(name, 1), loader)])
    monitor.wait_until_available(dict.fromkeys(loaders, 0), timeout_s=30)

    # One of three is pinned for good: with one unload thread, the others still go.
    for name in ("b", "c"):
        loaders[name].may_unload.set()
    for name in loaders:
        manager.set_aspired_versions(name, [])
    assert all(ended[name].wait(30) for name in ("b", "c"))

    (pinned,) = monitor.states_of("a")
    assert pinned.manager_state is ManagerState.UNLOADING

    loaders["a"].may_unload.set()

    assert manager.stop(timeout_s=30)
    threads = set[str]().union(*(loader.threads for loader in loaders.values()))
    assert threads == {"load", "unload"}


def test_stopping_unloads_everything_and_takes_nothing_new() -> None:
    monitor = ServableStateMonitor()
    bus: EventBus[ServableState] = EventBus()
    bus.subscribe(monitor.record)
    manager = AspiredVersionsManager(ServingMap(lambda _: None), bus)
    loader = FakeLoader()
    manager.start()
    manager.set_aspired_versions("m", [ServableData(ServableId("m", 1), loader)])
    monitor.wait_until_available({"m": 0}, timeout_s=30)

    assert manager.stop(timeout_s=30)

    manager.set_aspired_versions("n", [ServableData(ServableId("n", 1), loader)])
    assert loader.calls[-1] == "unload"
    assert monitor.states_of("n") == []
