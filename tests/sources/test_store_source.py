"""From stores to the Target: what is told, when, and what goes on meanwhile."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servable.core.progress import ProgressBoard
from servable.core.servable_data import FailedLoad
from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.errors import (
    Code,
    DataLoss,
    InvalidArgument,
    ResourceExhausted,
    ServingError,
)
from servable.sources.cache import ModelCache
from servable.sources.problems import ProblemBoard
from servable.sources.store_source import StoreSource, _Fetch
from servable.sources.versions import (
    FileSystemStoragePathSourceConfig,
    Latest,
    ServableToMonitor,
    Specific,
)
from servable.testing import FakeClock, FakeTarget, ManualPool


class Bench:
    """A source with stores, whose looks and fetches run when a test says so."""

    def __init__(self, cache: ModelCache, new_store: Callable[[], Any]) -> None:
        self.clock = FakeClock()
        self.progress = ProgressBoard(self.clock)
        self.problems = ProblemBoard()
        self.target: FakeTarget[StoragePath] = FakeTarget()
        self.looks, self.fetches = ManualPool(), ManualPool()
        self.stores: dict[str, Any] = {}
        self.available: set[ServableId] = set()
        self.failed: dict[ServableId, FailedLoad] = {}
        self._new_store = new_store
        self.source = StoreSource(
            lambda servable: self.stores[servable.base_path],
            cache,
            poll_wait_s=-1,
            is_available=lambda i: i in self.available,
            failed_load=lambda i: self.failed.get(i),
            look_pool=self.looks,
            fetch_pool=self.fetches,
            clock=self.clock,
            jitter=lambda: 0.5,
            progress=self.progress,
            problems=self.problems,
        )
        self.source.set_target(self.target)

    def store(self, base_path: str = "x://m") -> Any:
        return self.stores.setdefault(base_path, self._new_store())

    def serve(self, *servables: ServableToMonitor) -> None:
        self.source.set_config(FileSystemStoragePathSourceConfig(servables))

    def look(self) -> None:
        """Look at all that is due by now."""
        self.clock.advance(0.001)
        self.source.poll()
        while self.looks.run_next():
            pass

    def fetch(self) -> None:
        while self.fetches.run_next():
            pass

    def go_on(self, times: int = 2) -> None:
        for _ in range(times):
            self.look()
            self.fetch()

    def told(self, name: str = "m") -> list[int] | None:
        told = self.target.aspired.get(name)
        return None if told is None else [data.id.version for data in told]


def monitor(name: str = "m", base_path: str = "x://m", **more: Any) -> Any:
    return ServableToMonitor(name, base_path, **more)


@pytest.fixture
def bench(cache: ModelCache, store: Any) -> Bench:
    bench = Bench(cache, type(store))
    bench.store().versions["1"] = {"saved_model.pb": b"one"}
    return bench


def files(bench: Bench, name: str = "m") -> dict[str, bytes]:
    (data,) = bench.target.aspired[name]
    top = Path(str(data.data))
    return {
        str(path.relative_to(top)): path.read_bytes()
        for path in top.rglob("*")
        if path.is_file()
    }


def test_a_version_is_told_when_all_of_it_is_here(bench: Bench) -> None:
    bench.store().versions["1"]["variables/variables.index"] = b"index"
    bench.serve(monitor())
    bench.look()
    bench.look()
    assert bench.told() is None
    bench.fetch()

    assert files(bench) == {
        "saved_model.pb": b"one",
        "variables/variables.index": b"index",
    }


def test_while_somebody_writes_nothing_is_fetched(bench: Bench) -> None:
    bench.serve(monitor())
    for size in range(5):
        bench.store().versions["1"] = {"saved_model.pb": b"x" * size}
        bench.go_on(1)

    assert bench.told() is None
    assert bench.store().reads == []


def test_a_new_version_is_told_in_place_of_the_old_one(bench: Bench) -> None:
    bench.serve(monitor())
    bench.go_on()
    bench.available.add(ServableId("m", 1))
    bench.store().versions["2"] = {"saved_model.pb": b"two"}
    bench.look()
    bench.look()
    assert bench.told() == [1]
    bench.fetch()

    assert bench.told() == [2]
    assert files(bench) == {"saved_model.pb": b"two"}


def test_one_look_is_one_listing(bench: Bench) -> None:
    bench.serve(monitor())
    bench.go_on(3)

    assert bench.store().listings == 3


def test_a_store_that_is_down_changes_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.serve(monitor())
    bench.go_on()
    told = list(bench.target.calls)
    bench.store().broken = [ConnectionError("refused")] * 3
    with caplog.at_level(logging.INFO):
        for _ in range(30):
            bench.clock.advance(1.0)
            bench.look()

    texts = [record.message for record in caplog.records]
    assert bench.target.calls[: len(told)] == told
    assert bench.told() == [1]
    assert texts == [
        "Could not look at base path x://m for servable m; what is loaded stays, and "
        "it is tried again: UNAVAILABLE: refused",
        "Base path x://m is there again",
    ]


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        pytest.param(
            ConnectionError("refused"),
            "Could not look at base path x://m for servable m; what is loaded stays, "
            "and it is tried again: UNAVAILABLE: refused",
            id="a store that is down",
        ),
        pytest.param(
            FileNotFoundError(),
            "Could not find base path x://m for servable m with error NOT_FOUND: x://m "
            "not found",
            id="a base path that is missing",
        ),
    ],
)
def test_what_is_wrong_can_be_asked_as_long_as_it_is(
    problem: Exception, told: str, bench: Bench
) -> None:
    bench.store().broken = [problem]
    bench.serve(monitor())
    bench.look()
    while_it_is = bench.problems.of("m")
    bench.clock.advance(1.0)
    bench.look()

    assert while_it_is == told
    assert bench.problems.of("m") == ""


def test_nothing_is_wrong_with_a_servable_that_is_removed(bench: Bench) -> None:
    bench.store().versions.clear()
    bench.serve(monitor())
    bench.look()
    assert bench.problems.of("m").startswith("No versions of servable m found")
    bench.serve()

    assert bench.problems.of("m") == ""


def test_what_took_too_long_is_told_of_without_secrets(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    problem = TimeoutError()
    problem.__cause__ = TimeoutError("timeout to https://a.net/c?sig=secret\nand more")
    bench.store().broken = [problem]
    bench.serve(monitor())
    bench.look()

    assert caplog.messages[-1].endswith(
        "DEADLINE_EXCEEDED: timeout to https://a.net/c?…"
    )


class OfALibrary(Exception):
    """What a store's library raises when it reaches nobody."""


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        pytest.param(
            OfALibrary("no route"),
            "UNAVAILABLE: OfALibrary: no route",
            id="an error of its library is of the line to it",
        ),
        pytest.param(
            KeyError("size"),
            "UNKNOWN: KeyError: 'size'",
            id="one of Python is anything",
        ),
        pytest.param(
            ConnectionError("no route to https://me:secret@a.net/c?sig=secret"),
            "UNAVAILABLE: no route to https://me:…@a.net/c?…",
            id="secrets are left out",
        ),
    ],
)
def test_what_is_told_of_a_version_whose_store_is_down(
    problem: Exception, status: str, bench: Bench
) -> None:
    bench.store().unreadable = [problem] * 100
    bench.serve(monitor())
    for _ in range(6):
        bench.go_on()
        bench.clock.advance(60.0)

    (told,) = [data.error for data in bench.target.calls[-1][1]]
    assert told
    assert told.status_text == status


def test_a_store_that_is_down_is_asked_less_and_less_often(bench: Bench) -> None:
    bench.store().broken = [ConnectionError("refused")] * 100
    bench.serve(monitor())
    asked = []
    for second in range(30):
        before = bench.store().listings
        bench.look()
        if bench.store().listings > before:
            asked.append(second)
        bench.clock.advance(1.0)

    assert asked == [0, 1, 3, 6, 12, 24]


def test_a_store_that_is_down_concerns_its_own_model(bench: Bench) -> None:
    bench.store("x://down").broken = [ConnectionError("refused")] * 9
    bench.serve(monitor("down", "x://down"), monitor())
    bench.go_on()

    assert bench.told("m") == [1]
    assert bench.told("down") is None


def test_a_base_path_that_is_missing_is_told_of_as_of_a_local_one(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.store().broken = [FileNotFoundError()] * 2
    bench.serve(monitor())
    bench.go_on(4)

    assert [record.message for record in caplog.records] == [
        "Could not find base path x://m for servable m with error NOT_FOUND: x://m "
        "not found"
    ]
    assert bench.told() == [1]


def test_a_fetch_that_breaks_off_is_tried_again_later(bench: Bench) -> None:
    bench.store().unreadable = [ConnectionError("reset")]
    bench.serve(monitor())
    bench.go_on(4)
    assert bench.told() is None
    bench.clock.advance(2.0)
    bench.go_on()

    assert bench.told() == [1]


@pytest.mark.parametrize(
    ("error", "reads"),
    [
        pytest.param(
            DataLoss("checksum"), 2, id="for what is in it: fetched once more"
        ),
        pytest.param(ResourceExhausted("room"), 1, id="for another reason: kept"),
    ],
)
def test_a_version_that_does_not_load(
    error: ServingError, reads: int, bench: Bench
) -> None:
    bench.serve(monitor())
    bench.go_on()
    for _ in range(3):  # also when it has come again
        (told,) = bench.target.aspired["m"]
        bench.failed[told.id] = FailedLoad(told.attempt, error)
        bench.clock.advance(1.0)
        bench.go_on(3)

    assert bench.told() == [1]
    assert len(bench.store().reads) == reads


def test_a_version_that_can_not_be_fetched_is_in_error_beside_the_last_good_one(
    bench: Bench,
) -> None:
    bench.serve(monitor())
    bench.go_on()
    bench.available.add(ServableId("m", 1))
    bench.store().versions["2"] = {"../../escape": b"two"}
    for _ in range(5):
        bench.go_on(1)
        bench.clock.advance(60.0)

    first, second = bench.target.aspired["m"]
    assert (first.id.version, first.error) == (1, None)
    assert second.error
    assert second.error.code == Code.INVALID_ARGUMENT


def test_no_versions_at_all_unload_what_was_there(bench: Bench) -> None:
    bench.serve(monitor())
    bench.go_on()
    bench.store().versions.clear()
    bench.go_on()

    assert bench.told() == []


def test_a_servable_that_is_removed_is_not_aspired_any_more(bench: Bench) -> None:
    bench.serve(monitor())
    bench.go_on()
    bench.serve()

    assert bench.told() == []


def test_a_fetch_for_a_servable_that_is_removed_is_given_up(bench: Bench) -> None:
    bench.serve(monitor())
    bench.look()
    bench.look()
    bench.serve()
    bench.fetch()

    assert bench.told() == []
    assert bench.store().reads == []


def test_another_base_path_keeps_the_old_versions_until_it_has_some(
    bench: Bench,
) -> None:
    bench.serve(monitor())
    bench.go_on()
    bench.serve(monitor(base_path="x://other"))
    bench.store("x://other").versions["7"] = {"saved_model.pb": b"seven"}
    bench.look()
    assert bench.told() == [1]
    bench.go_on()

    assert bench.told() == [7]


def test_another_policy_needs_no_other_fetch_of_what_is_here(bench: Bench) -> None:
    bench.store().versions["2"] = {"saved_model.pb": b"two"}
    bench.serve(monitor(servable_version_policy=Latest(2)))
    bench.go_on()
    reads = list(bench.store().reads)
    bench.serve(monitor(servable_version_policy=Specific((1,))))
    bench.go_on()

    assert bench.told() == [1]
    assert bench.store().reads == reads


def test_specific_versions_that_are_missing_are_named_and_change_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.serve(monitor())
    bench.go_on()
    bench.store("x://n").versions["1"] = {"saved_model.pb": b"n"}
    for base_path in ("x://m", "x://n"):
        bench.serve(monitor("m", base_path, servable_version_policy=Specific((7, 8))))
        bench.go_on()
        assert bench.told() == [1]

    assert caplog.messages == [
        "Version 7, 8 of servable m, which was requested to be served as a 'specific' "
        "version in the servable's version policy, was not found under base path "
        f"{base_path}"
        for base_path in ("x://m", "x://n")
    ]
    bench.store("x://n").versions["7"] = {"saved_model.pb": b"seven"}
    bench.clock.advance(1.0)
    bench.go_on()
    bench.clock.advance(1.0)
    bench.go_on()

    assert bench.told() == [7]


def test_passwords_are_not_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    base_path = "x://user:secret@host/m?token=secret"
    bench.store(base_path).broken = [ConnectionError("refused")]
    bench.serve(monitor(base_path=base_path))
    bench.look()

    assert "x://user:…@host/m?…" in caplog.text
    assert "secret" not in caplog.text


def test_what_can_never_be_looked_at_is_refused(cache: ModelCache) -> None:
    def check(servable: ServableToMonitor) -> None:
        raise InvalidArgument(servable.servable_name)

    source = StoreSource(lambda _: pytest.fail("it was asked"), cache, check=check)

    with pytest.raises(InvalidArgument, match="m"):
        source.check(FileSystemStoragePathSourceConfig((monitor(),)))


def test_a_place_that_hangs_does_not_keep_looks_from_others(bench: Bench) -> None:
    bench.store("x://up/m").versions["1"] = {"saved_model.pb": b"one"}
    bench.serve(
        *(monitor(f"hangs{number}", f"x://down/{number}") for number in range(100)),
        monitor("m", "x://up/m"),
    )
    bench.clock.advance(0.001)
    bench.source.poll()
    bench.source.poll()

    # Four at a place that hangs, and each other place at once.
    assert len(bench.looks.jobs) == 5


def test_what_waits_longest_for_a_look_is_looked_at_first(bench: Bench) -> None:
    names = [f"m{number}" for number in range(8)]
    for name in names:
        bench.store(f"x://place/{name}").broken = [OSError("down")]
    bench.serve(*(monitor(name, f"x://place/{name}") for name in names))
    for _ in range(2):
        bench.look()
        bench.clock.advance(1.0)  # all are due again

    assert [bench.store(f"x://place/{name}").listings for name in names] == [1] * 8


def test_how_far_a_fetch_is_can_be_asked(bench: Bench) -> None:
    mib = bytes(1 << 20)
    bench.store().versions["1"] = {"a": mib, "b": 3 * mib}
    told: list[Any] = []
    received = _Fetch.received

    def ask() -> None:
        progress = bench.progress.of(ServableId("m", 1))
        told.append(progress and (progress.what, round(progress.for_s)))

    def watch(self: Any, size_bytes: int, *, was_there: bool) -> None:
        bench.clock.advance(2.0)
        received(self, size_bytes, was_there=was_there)
        ask()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Fetch, "received", watch)
        bench.serve(monitor())
        bench.look()
        bench.look()
        ask()
        bench.fetch()
        ask()

    assert told == [
        ("waits to be fetched", 0),
        ("is fetched: 1.0 of 4.0 MiB (25 %), 0.5 MiB/s", 2),
        ("is fetched: 4.0 of 4.0 MiB (100 %), 1.0 MiB/s", 4),
        None,
    ]
