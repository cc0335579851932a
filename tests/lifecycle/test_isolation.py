"""One bad model never holds up another: everything with its real threads."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from servable.core.aspired_versions_manager import AspiredVersionsManager
from servable.core.event_bus import EventBus
from servable.core.loader_harness import RetryPolicy
from servable.core.servable_id import ServableId
from servable.core.servable_state import ManagerState, ServableState
from servable.core.servable_state_monitor import ServableStateMonitor
from servable.core.serving_map import ServingMap
from servable.core.source_adapter import SourceAdapter
from servable.core.storage_path import StoragePath
from servable.core.worker_pool import WorkerPool
from servable.errors import NotFound
from servable.sources.file_system import FileSystemStoragePathSource
from servable.sources.versions import (
    FileSystemStoragePathSourceConfig,
    ServableToMonitor,
)
from servable.testing import FakeLoader

HEALTHY = [f"healthy{number}" for number in range(20)]
TIMEOUT_S = 30.0


class HangingLoader(FakeLoader):
    """Loads, or unloads, only when it is let go."""

    def __init__(self, released: threading.Event, *, hangs_in: str) -> None:
        super().__init__()
        self._released = released
        self._hangs_in = hangs_in

    def load(self) -> None:
        if self._hangs_in == "load":
            self._released.wait(2 * TIMEOUT_S)
        super().load()

    def unload(self) -> None:
        if self._hangs_in == "unload":
            self._released.wait(2 * TIMEOUT_S)
        super().unload()


class Server:
    """A manager and a source with one thread for each kind of work."""

    def __init__(self, base: Path, released: threading.Event) -> None:
        self.base = base
        self.released = released
        self.monitor = ServableStateMonitor()
        bus: EventBus[ServableState] = EventBus()
        bus.subscribe(self.monitor.record)
        bus.subscribe(self._note)
        self.available: set[ServableId] = set()
        self.changed = threading.Condition()
        self.map = ServingMap(lambda _: None)
        self.manager = AspiredVersionsManager(
            self.map,
            bus,
            retry_policy=RetryPolicy(5, 60.0),
            load_pool=WorkerPool("load", 1, stall_s=0.1),
            unload_pool=WorkerPool("unload", 1, stall_s=0.1),
        )
        names = ["missing", "broken", "hung", "pinned", *HEALTHY]
        servables = [ServableToMonitor(name, str(base / name)) for name in names]
        self.source = FileSystemStoragePathSource(
            FileSystemStoragePathSourceConfig(tuple(servables)),
            0.02,
            is_available=self.monitor.is_available,
        )
        for name in names[1:]:
            (base / name / "1").mkdir(parents=True)
        self.manager.start()
        self.source.set_target(SourceAdapter(self._loader, self.manager))

    def has_come(self, version: int, names: set[str]) -> bool:
        """Wait until *version* of all *names* has been AVAILABLE."""
        ids = {ServableId(name, version) for name in names}
        with self.changed:
            return self.changed.wait_for(lambda: ids <= self.available, TIMEOUT_S)

    def _note(self, state: ServableState) -> None:
        if state.manager_state is ManagerState.AVAILABLE:
            with self.changed:
                self.available.add(state.id)
                self.changed.notify_all()

    def _loader(self, servable_id: ServableId, _: StoragePath) -> FakeLoader:
        match servable_id.name:
            case "broken":
                return FakeLoader(failures=[NotFound("no graph")] * 9)
            case "hung":
                return HangingLoader(self.released, hangs_in="load")
            case "pinned":
                return HangingLoader(self.released, hangs_in="unload")
            case _:
                return FakeLoader(str(servable_id))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    released = threading.Event()
    server = Server(tmp_path, released)
    yield server
    released.set()
    server.source.stop()
    assert server.manager.stop(TIMEOUT_S)


def test_healthy_models_are_served_beside_sick_ones(server: Server) -> None:
    wanted = dict.fromkeys(HEALTHY, 0)
    decided = server.monitor.wait_until_available(wanted, TIMEOUT_S)

    assert {s.manager_state for s in decided.values()} == {ManagerState.AVAILABLE}
    assert server.monitor.states_of("missing") == []
    (broken,) = server.monitor.states_of("broken")
    assert broken.manager_state in {ManagerState.START, ManagerState.LOADING}


def test_healthy_models_switch_beside_sick_ones(server: Server) -> None:
    wanted = dict.fromkeys([*HEALTHY, "pinned"], 0)
    server.monitor.wait_until_available(wanted, TIMEOUT_S)
    for version in ("2", "3"):
        for name in [*HEALTHY, "pinned"]:
            (server.base / name / version).mkdir()
        assert server.has_come(int(version), {*HEALTHY, "pinned"})

    pinned = {s.id.version: s.manager_state for s in server.monitor.states_of("pinned")}
    assert pinned[3] is ManagerState.AVAILABLE
    assert pinned[1] is ManagerState.UNLOADING
