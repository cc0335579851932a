"""What is known about every version there ever was."""

import threading

import pytest

from servable.core.event_bus import EventBus
from servable.core.servable_id import ServableId
from servable.core.servable_state import ManagerState, ServableState
from servable.core.servable_state_monitor import ServableStateMonitor
from servable.errors import Cancelled, Code, DeadlineExceeded, NotFound


def state(
    name: str,
    version: int,
    manager_state: ManagerState,
    error: NotFound | None = None,
    generation: int = 0,
) -> ServableState:
    return ServableState(ServableId(name, version), manager_state, error, generation)


@pytest.fixture
def monitor() -> ServableStateMonitor:
    return ServableStateMonitor()


def test_versions_are_listed_highest_first(monitor: ServableStateMonitor) -> None:
    for version in (2, -3, 10, 0):
        monitor.record(state("m", version, ManagerState.AVAILABLE))

    assert [s.id.version for s in monitor.states_of("m")] == [10, 2, 0, -3]


def test_the_history_is_never_forgotten(monitor: ServableStateMonitor) -> None:
    monitor.record(state("m", 1, ManagerState.AVAILABLE))
    monitor.record(state("m", 1, ManagerState.END))
    monitor.record(state("m", 2, ManagerState.END, NotFound("gone")))

    assert [
        (s.id.version, s.manager_state, s.code, s.message)
        for s in monitor.states_of("m")
    ] == [
        (2, ManagerState.END, Code.NOT_FOUND, "gone"),
        (1, ManagerState.END, Code.OK, ""),
    ]


def test_a_name_never_seen_has_no_states(monitor: ServableStateMonitor) -> None:
    assert monitor.states_of("nope") == []


def test_the_wire_numbers_of_the_states() -> None:
    assert [(s.name, s.value) for s in ManagerState] == [
        ("START", 10),
        ("LOADING", 20),
        ("AVAILABLE", 30),
        ("UNLOADING", 40),
        ("END", 50),
    ]


@pytest.mark.parametrize(
    ("states", "decisive"),
    [
        pytest.param(
            [state("m", 1, ManagerState.AVAILABLE)], 1, id="one that is available"
        ),
        pytest.param(
            [state("m", 1, ManagerState.END, NotFound("x"))], 1, id="one that failed"
        ),
        pytest.param(
            [
                state("m", 1, ManagerState.AVAILABLE),
                state("m", 3, ManagerState.END, NotFound("x")),
                state("m", 4, ManagerState.LOADING),
            ],
            3,
            id="the highest that is at one or the other",
        ),
    ],
)
def test_a_wait_ends_with(
    monitor: ServableStateMonitor, states: list[ServableState], decisive: int
) -> None:
    for one in states:
        monitor.record(one)

    decided = monitor.wait_until_available({"m": 0}, timeout_s=0)

    assert decided["m"].id.version == decisive


def test_a_wait_needs_every_name(monitor: ServableStateMonitor) -> None:
    monitor.record(state("m", 1, ManagerState.AVAILABLE))

    with pytest.raises(DeadlineExceeded, match=r": n$"):
        monitor.wait_until_available({"m": 0, "n": 0}, timeout_s=0)


@pytest.mark.parametrize("old", [ManagerState.AVAILABLE, ManagerState.END])
def test_a_version_of_an_older_generation_does_not_decide(
    monitor: ServableStateMonitor, old: ManagerState
) -> None:
    monitor.record(state("m", 2, old, generation=6))

    with pytest.raises(DeadlineExceeded):
        monitor.wait_until_available({"m": 7}, timeout_s=0)

    monitor.record(state("m", 1, ManagerState.AVAILABLE, generation=7))
    assert monitor.wait_until_available({"m": 7}, timeout_s=0)["m"].id.version == 1


def test_a_wait_is_woken_by_what_it_waits_for(monitor: ServableStateMonitor) -> None:
    results: list[int] = []

    def wait() -> None:
        results.append(monitor.wait_until_available({"m": 0}, 30)["m"].id.version)

    thread = threading.Thread(target=wait)
    thread.start()
    monitor.record(state("m", 5, ManagerState.LOADING))
    monitor.record(state("m", 5, ManagerState.AVAILABLE))
    thread.join(30)

    assert results == [5]


def test_closing_ends_every_wait(monitor: ServableStateMonitor) -> None:
    monitor.close()

    with pytest.raises(Cancelled):
        monitor.wait_until_available({"m": 0})


def test_one_bad_subscriber_does_not_keep_events_from_others(
    monitor: ServableStateMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    bus: EventBus[ServableState] = EventBus()
    bus.subscribe(lambda _: 1 / 0)  # type: ignore[arg-type]
    bus.subscribe(monitor.record)

    bus.publish(state("m", 1, ManagerState.START))

    assert len(monitor.states_of("m")) == 1
    assert "ZeroDivisionError" in caplog.text


def test_a_subscriber_that_left_hears_nothing() -> None:
    heard: list[int] = []
    bus: EventBus[int] = EventBus()
    unsubscribe = bus.subscribe(heard.append)

    bus.publish(1)
    unsubscribe()
    bus.publish(2)

    assert heard == [1]
