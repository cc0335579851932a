"""A manager whose threads are the test's own."""

from collections.abc import Callable

import pytest

from servable.core.aspired_versions_manager import AspiredVersionsManager
from servable.core.event_bus import EventBus
from servable.core.loader import Loader
from servable.core.loader_harness import RetryPolicy
from servable.core.resources import ResourcePool
from servable.core.servable_data import ServableData
from servable.core.servable_id import ServableId
from servable.core.servable_state import ServableState
from servable.core.servable_state_monitor import ServableStateMonitor
from servable.core.serving_map import ServingMap, ServingSnapshot
from servable.core.version_policy import AspiredVersionPolicy
from servable.testing import FakeClock, FakeLoader, ManualPool


class ManagerUnderTest:
    """A manager with fake pools and a fake clock, and a record of what it did."""

    def __init__(
        self,
        *,
        retries: int = 0,
        limit_bytes: int | None = None,
        policy: AspiredVersionPolicy | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.loads = ManualPool()
        self.unloads = ManualPool()
        self.monitor = ServableStateMonitor()
        self.resources = ResourcePool(limit_bytes)
        self.log: list[str] = []
        self.map: dict[str, dict[int, object]] = {}
        bus: EventBus[ServableState] = EventBus()
        bus.subscribe(self.monitor.record)
        bus.subscribe(self._note)
        self.manager = AspiredVersionsManager(
            ServingMap(self._publish),
            bus,
            policy=policy,
            retry_policy=RetryPolicy(retries, load_retry_interval_s=60.0),
            resources=self.resources,
            load_pool=self.loads,
            unload_pool=self.unloads,
            clock=self.clock,
        )

    def aspire(
        self, name: str = "m", **versions: Loader | ServableData[Loader]
    ) -> None:
        """Aspire version N for each argument vN, and let the manager hear it."""
        self.manager.set_aspired_versions(
            name,
            [
                value
                if isinstance(value, ServableData)
                else ServableData(ServableId(name, int(key[1:])), value)
                for key, value in versions.items()
            ],
        )
        self.manager.process()

    def run(self) -> None:
        """Run all jobs to their end, loads first."""
        while self.run_load() or self.run_unload():
            pass

    def run_load(self) -> bool:
        """Run the next job of the load pool."""
        did = self.loads.run_next()
        self.manager.process()
        return did

    def run_unload(self) -> bool:
        """Run the next job of the unload pool."""
        did = self.unloads.run_next()
        self.manager.process()
        return did

    def advance(self, seconds: float) -> None:
        """Let time go by."""
        self.clock.advance(seconds)
        self.manager.process()

    def states(self, name: str = "m") -> list[str]:
        """Return `<version> <STATE>[ <CODE>]`, highest version first."""
        return [
            f"{s.id.version} {s.manager_state.name}"
            + (f" {s.error.code.name}" if s.error else "")
            for s in self.monitor.states_of(name)
        ]

    def take_log(self) -> list[str]:
        """Return states and maps published since the last call."""
        log, self.log[:] = list(self.log), []
        return log

    def _note(self, state: ServableState) -> None:
        self.log.append(f"{state.id.version} {state.manager_state.name}")

    def _publish(self, snapshot: ServingSnapshot) -> None:
        self.map = {name: dict(of) for name, of in snapshot.servables.items()}
        self.log.append(f"map {sorted(v for of in self.map.values() for v in of)}")


@pytest.fixture
def new_manager() -> Callable[..., ManagerUnderTest]:
    return ManagerUnderTest


@pytest.fixture
def under_test() -> ManagerUnderTest:
    return ManagerUnderTest()


@pytest.fixture
def new_loader() -> type[FakeLoader]:
    return FakeLoader
