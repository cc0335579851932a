"""
Copies that arrive file by file, in every order, cut anywhere.

Source, adapter, manager and file checks together, on the test's own thread: each
look is one poll, and then everything runs that can.
"""

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servable.core.aspired_versions_manager import AspiredVersionsManager
from servable.core.event_bus import EventBus
from servable.core.loader_harness import RetryPolicy
from servable.core.resources import estimate_from_files
from servable.core.servable_id import ServableId
from servable.core.servable_state import ManagerState, ServableState
from servable.core.servable_state_monitor import ServableStateMonitor
from servable.core.serving_map import ServingMap
from servable.core.source_adapter import SourceAdapter
from servable.core.storage_path import StoragePath
from servable.errors import DataLoss, FailedPrecondition, NotFound
from servable.platforms.saved_model_files import Completeness, judge_directory
from servable.sources.file_system import FileSystemStoragePathSource
from servable.sources.versions import (
    All,
    FileSystemStoragePathSourceConfig,
    Latest,
    ServableToMonitor,
)
from servable.testing import FakeClock, ManualPool

FILES = {
    "saved_model.pb": b"graph",
    "variables/variables.index": b"index",
    "variables/variables.data-00000-of-00002": b"even",
    "variables/variables.data-00001-of-00002": b"odd",
}


class FileLoader:
    """Loads what is complete, and needs its variables, as a SavedModel does."""

    def __init__(self, path: StoragePath) -> None:
        self.path = path
        self.content: dict[str, bytes] = {}

    def estimate_resources(self) -> int:
        return estimate_from_files(self.path)

    def load(self) -> None:
        verdict = judge_directory(self.path)
        if verdict.completeness is Completeness.NOT_A_SAVED_MODEL:
            raise NotFound(verdict.reason)
        if verdict.completeness is Completeness.INCOMPLETE:
            raise FailedPrecondition(verdict.reason)
        if not (Path(self.path) / "variables").exists():
            raise FailedPrecondition("the graph has variables, the directory has none")
        self.content = {name: (Path(self.path) / name).read_bytes() for name in FILES}

    def servable(self) -> object:
        return self.content

    def unload(self) -> None:
        self.content = {}


class Server:
    """Everything between the files and the serving map."""

    def __init__(
        self,
        base: Path,
        policy: Latest | All,
        retries: int = 5,
        loader: type[FileLoader] = FileLoader,
    ) -> None:
        self._loads = loader
        self.clock = FakeClock()
        self.pool = ManualPool()
        self.monitor = ServableStateMonitor()
        self.map = ServingMap(lambda _: None)
        bus: EventBus[ServableState] = EventBus()
        bus.subscribe(self.monitor.record)
        self.manager = AspiredVersionsManager(
            self.map,
            bus,
            retry_policy=RetryPolicy(retries, 60.0),
            load_pool=self.pool,
            unload_pool=self.pool,
            clock=self.clock,
        )
        servable = ServableToMonitor("m", str(base), policy)
        self.source = FileSystemStoragePathSource(
            FileSystemStoragePathSourceConfig((servable,)),
            -1,
            is_available=self.monitor.is_available,
        )
        self.source.set_target(SourceAdapter(self._loader, self.manager))

    def poll(self) -> None:
        """Look once, and do everything that follows."""
        self.clock.advance(1.0)
        self.source.poll()
        self.manager.process()
        while self.pool.run_next():
            self.manager.process()

    def available(self) -> list[int]:
        return sorted(self.map.snapshot.servables.get("m", {}))

    def states(self) -> list[tuple[int, str, str]]:
        return [
            (s.id.version, s.manager_state.name, s.code.name)
            for s in self.monitor.states_of("m")
        ]

    def _loader(self, _: ServableId, path: StoragePath) -> FileLoader:
        return self._loads(path)


def copy(base: Path, version: str, names: tuple[str, ...] = tuple(FILES)) -> None:
    for name in names:
        write(base / version / name, FILES[name])


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize("retries", [0, 5])
@pytest.mark.parametrize("order", list(itertools.permutations(FILES)))
def test_a_copy_is_served_two_looks_after_it_is_complete(
    tmp_path: Path, order: tuple[str, ...], retries: int
) -> None:
    copy(tmp_path, "1")
    server = Server(tmp_path, Latest(), retries)
    server.poll()
    served = []
    for count in range(1, len(order)):
        copy(tmp_path, "2", order[count - 1 : count])
        for _ in range(3):
            server.poll()
        served.append(server.available())
    copy(tmp_path, "2", order[-1:])
    server.poll()
    server.poll()

    assert served == [[1]] * 3
    assert server.available() == [2]
    assert server.map.snapshot.servables["m"][2] == FILES


class Step(NamedTuple):
    """A file is written as far as a part of it, and then looked at so often."""

    name: str
    part: float
    looks: int


@st.composite
def copies(draw: st.DrawFn) -> list[Step]:
    """Copies of all files in any order, each in pieces, with looks in between."""
    steps = []
    for name in draw(st.permutations(list(FILES))):
        parts = sorted(draw(st.lists(st.floats(0, 1, exclude_max=True), max_size=3)))
        steps += [Step(name, part, draw(st.integers(0, 3))) for part in [*parts, 1.0]]
    return steps


class WholeLoader(FileLoader):
    """Loads no file of which something is missing, as TensorFlow does not."""

    def load(self) -> None:
        super().load()
        if self.content != FILES:
            raise DataLoss("a file is cut short")


@settings(deadline=None, max_examples=60)
@given(steps=copies(), retries=st.integers(0, 5))
def test_whatever_way_a_copy_takes_the_version_before_serves_until_it_is_there(
    steps: list[Step], retries: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        copy(base, "1")
        server = Server(base, Latest(), retries, WholeLoader)
        server.poll()
        served = set()
        for name, part, looks in steps[:-1]:
            content = FILES[name]
            write(base / "2" / name, content[: int(part * len(content))])
            for _ in range(looks):
                server.poll()
                served.add(tuple(server.available()))
        write(base / "2" / steps[-1].name, FILES[steps[-1].name])
        server.poll()
        server.poll()

        assert served <= {(1,)}
        assert server.available() == [2]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_short_is_read_again_when_it_is_whole(
    tmp_path: Path, name: str
) -> None:
    copy(tmp_path, "1")
    write(tmp_path / "1" / name, b"")
    server = Server(tmp_path, Latest(), retries=0)
    server.poll()
    write(tmp_path / "1" / name, FILES[name])
    server.poll()
    server.poll()

    # An empty shard is a legal one, so what was loaded then stays.
    is_shard = ".data-" in name
    assert server.available() == [1]
    assert (server.map.snapshot.servables["m"][1] == FILES) is not is_shard


def test_a_version_that_is_renamed_into_place_is_served_at_the_first_look(
    tmp_path: Path,
) -> None:
    base = tmp_path / "m"
    copy(base, "1")
    server = Server(base, Latest())
    server.poll()
    copy(tmp_path, "staged")
    (tmp_path / "staged").rename(base / "2")
    server.poll()

    assert server.available() == [2]


def test_a_bad_version_that_is_replaced_is_loaded(tmp_path: Path) -> None:
    copy(tmp_path, "1")
    server = Server(tmp_path, Latest(), retries=0)
    server.poll()
    (tmp_path / "2").mkdir()
    server.poll()
    with_bad = server.states()
    shutil.rmtree(tmp_path / "2")
    copy(tmp_path, "2")
    server.poll()
    server.poll()

    assert with_bad == [(2, "END", "NOT_FOUND"), (1, "AVAILABLE", "OK")]
    assert server.states() == [(2, "AVAILABLE", "OK"), (1, "END", "OK")]


@pytest.mark.parametrize("policy", [Latest(), All()], ids=["latest", "all"])
def test_a_bad_version_that_is_removed_and_added_again_is_loaded(
    tmp_path: Path, policy: Latest | All
) -> None:
    copy(tmp_path, "1")
    server = Server(tmp_path, policy, retries=0)
    server.poll()
    (tmp_path / "2").mkdir()
    server.poll()
    shutil.rmtree(tmp_path / "2")
    server.poll()
    without = server.available()
    copy(tmp_path, "2")
    server.poll()

    assert without == [1]
    assert 2 in server.available()


def test_the_latest_version_is_removed_and_the_one_before_comes_back(
    tmp_path: Path,
) -> None:
    copy(tmp_path, "1")
    copy(tmp_path, "2")
    server = Server(tmp_path, Latest())
    server.poll()
    first = server.states()
    shutil.rmtree(tmp_path / "2")
    server.poll()

    assert first == [(2, "AVAILABLE", "OK")]
    assert server.states() == [(2, "END", "OK"), (1, "AVAILABLE", "OK")]


def test_other_content_in_a_loaded_version_goes_unnoticed(tmp_path: Path) -> None:
    copy(tmp_path, "1")
    server = Server(tmp_path, Latest())
    server.poll()
    write(tmp_path / "1" / "saved_model.pb", b"another graph")
    for _ in range(3):
        server.poll()

    assert server.map.snapshot.servables["m"][1] == FILES


def test_a_base_path_that_is_gone_leaves_its_versions_alone(tmp_path: Path) -> None:
    base = tmp_path / "m"
    copy(base, "1")
    server = Server(base, Latest())
    server.poll()
    shutil.rmtree(base)
    for _ in range(30):
        server.poll()

    (state,) = server.monitor.states_of("m")
    assert state.manager_state is ManagerState.AVAILABLE


def test_a_plain_file_is_a_version_that_fails(tmp_path: Path) -> None:
    write(tmp_path / "7", b"no directory")
    server = Server(tmp_path, Latest(), retries=0)
    server.poll()

    assert server.states() == [(7, "END", "NOT_FOUND")]
