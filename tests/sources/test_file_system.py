"""Versions as directories: what counts, what is aspired, what is left alone."""

import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.errors import PermissionDenied
from servable.sources.file_system import FileSystemStoragePathSource
from servable.sources.problems import ProblemBoard
from servable.sources.versions import (
    All,
    FileSystemStoragePathSourceConfig,
    Latest,
    ServableToMonitor,
    ServableVersionPolicy,
    Specific,
    version_number,
    versions_among,
)
from servable.testing import FakeTarget

Target = FakeTarget[StoragePath]
NewSource = Callable[..., FileSystemStoragePathSource]


@pytest.fixture
def target() -> Target:
    return FakeTarget()


@pytest.fixture
def new_source(target: Target) -> NewSource:
    """Make a source that looks only when it is told to."""

    def new(
        *servables: ServableToMonitor, always_present: bool = False, **options: object
    ) -> FileSystemStoragePathSource:
        config = FileSystemStoragePathSourceConfig(servables, always_present)
        source = FileSystemStoragePathSource(config, -1, **options)  # type: ignore[arg-type]
        source.set_target(target)
        return source

    return new


def monitor(
    base: Path, policy: ServableVersionPolicy | None = None
) -> ServableToMonitor:
    return ServableToMonitor(base.name, str(base), policy or Latest())


def add(base: Path, *names: str, content: str = "graph") -> None:
    for name in names:
        (base / name).mkdir(parents=True)
        (base / name / "saved_model.pb").write_text(content)


def aspired(target: Target, name: str = "m") -> list[int]:
    return [data.id.version for data in target.aspired[name]]


def attempt(target: Target, name: str = "m") -> object:
    (data,) = target.aspired[name]
    return data.attempt


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("1", 1),
        ("0", 0),
        ("007", 7),
        ("-3", -3),
        ("+4", 4),
        (" 6", 6),
        ("6 ", 6),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("0" * 100 + "5", 5),
        ("9223372036854775808", None),
        ("99999999999999999999", None),
        ("9" * 5000, None),
        ("1.tmp", None),
        ("tmp-5", None),
        ("0x1", None),
        ("4e1", None),
        (".5", None),
        ("1_0", None),
        ("٣", None),
        ("--1", None),
        ("- 1", None),
        ("", None),
        ("abc", None),
        ("1\x00", None),
    ],
)
def test_the_whole_name_must_be_a_number(name: str, version: int | None) -> None:
    assert version_number(name) == version


def test_of_names_for_one_number_the_last_counts() -> None:
    listing = versions_among(["2", "002", "02", "abc"])

    assert listing.versions == {2: "2"}
    assert listing.duplicates == ("002", "02")


@pytest.mark.parametrize(
    ("policy", "present", "expected"),
    [
        pytest.param(Latest(), [1, 3, 2], [3], id="latest: the highest"),
        pytest.param(Latest(2), [1, 3, 2], [3, 2], id="latest two: highest first"),
        pytest.param(Latest(0), [1, 3, 2], [3], id="latest zero counts as one"),
        pytest.param(Latest(9), [1, 2], [2, 1], id="latest of fewer than asked for"),
        pytest.param(Latest(), [-3, -5], [-3], id="latest of negative numbers"),
        pytest.param(All(), [1, 3, 2], [1, 3, 2], id="all"),
        pytest.param(Specific((3, 1)), [1, 2, 3], [3, 1], id="specific"),
        pytest.param(Specific((3, 9)), [1, 2, 3], [3], id="specific, one missing"),
        pytest.param(Specific((3, 3)), [3], [3], id="specific, named twice"),
        pytest.param(Specific(()), [1], [], id="specific, none"),
        pytest.param(Latest(), [], [], id="nothing there"),
    ],
)
def test_policies_choose(
    policy: ServableVersionPolicy, present: list[int], expected: list[int]
) -> None:
    assert policy.choose(present) == expected


def test_a_version_is_aspired_with_its_path(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    add(tmp_path / "m", "00017")

    new_source(monitor(tmp_path / "m")).poll()

    (data,) = target.aspired["m"]
    assert (data.id, data.data) == (ServableId("m", 17), f"{tmp_path}/m/00017")


def test_a_plain_file_with_a_number_is_a_version(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "123").write_text("not a directory")

    new_source(monitor(tmp_path / "m")).poll()

    assert aspired(target) == [123]


def test_a_specific_version_may_have_leading_zeros(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    add(tmp_path / "m", "00017", "18")

    new_source(monitor(tmp_path / "m", Specific((17,)))).poll()

    assert aspired(target) == [17]


def test_a_specific_version_that_is_missing_is_named(
    new_source: NewSource,
    target: Target,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    add(tmp_path / "m", "2")

    new_source(monitor(tmp_path / "m", Specific((2, 50)))).poll()

    assert aspired(target) == [2]
    assert (
        "Version 50 of servable m, which was requested to be served as a 'specific' "
        "version in the servable's version policy, was not found in the file system"
    ) in caplog.text


def test_specific_versions_that_never_were_there_change_nothing(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    add(tmp_path / "m", "1")
    source = new_source(monitor(tmp_path / "m"))
    source.poll()
    config = FileSystemStoragePathSourceConfig(
        (monitor(tmp_path / "m", Specific((7,))),)
    )
    source.set_config(config)
    source.poll()
    meanwhile = aspired(target)
    add(tmp_path / "m", "7")
    source.poll()
    then = aspired(target)
    shutil.rmtree(tmp_path / "m" / "7")
    source.poll()

    assert (meanwhile, then) == ([1], [7])
    assert aspired(target) == []  # it was there, and somebody took it away


def test_an_empty_list_of_specific_versions_serves_nothing(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    add(tmp_path / "m", "2")

    new_source(monitor(tmp_path / "m", Specific(()))).poll()

    assert aspired(target) == []


def test_files_may_appear_after_the_start(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    source = new_source(monitor(tmp_path / "m"))
    source.poll()
    before = dict(target.aspired)
    add(tmp_path / "m", "1")
    source.poll()

    assert (before, aspired(target)) == ({}, [1])


def test_a_version_that_is_renamed_away_is_not_aspired(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    add(tmp_path / "m", "1", "2")
    source = new_source(monitor(tmp_path / "m"))
    source.poll()
    (tmp_path / "m" / "2").rename(tmp_path / "m" / "2.denied")
    source.poll()

    assert aspired(target) == [1]


def test_a_missing_base_path_is_no_reason_to_unload(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    add(tmp_path / "m", "1")
    source = new_source(monitor(tmp_path / "m"))
    source.poll()
    shutil.rmtree(tmp_path / "m")
    source.poll()

    assert len(target.calls) == 1


def test_a_missing_base_path_is_named(
    new_source: NewSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new_source(monitor(tmp_path / "none")).poll()

    base = tmp_path / "none"
    assert [r.getMessage() for r in caplog.records] == [
        "FileSystemStoragePathSource encountered a filesystem access error: "
        f"Could not find base path {base} for servable none "
        f"with error NOT_FOUND: {base} not found"
    ]


def test_what_is_wrong_can_be_asked_as_long_as_it_is(
    new_source: NewSource, tmp_path: Path
) -> None:
    problems = ProblemBoard()
    source = new_source(
        monitor(tmp_path / "m"), problems=problems, is_available=lambda _: True
    )
    told = []
    steps: list[Callable[[], object]] = [
        lambda: None,
        lambda: (tmp_path / "m").mkdir(),
        lambda: add(tmp_path / "m", "1"),
        lambda: shutil.rmtree(tmp_path / "m"),
        lambda: add(tmp_path / "m", "1"),
    ]
    for step in steps:
        step()
        source.poll()
        told.append(problems.of("m"))
    source.set_config(FileSystemStoragePathSourceConfig())
    told.append(problems.of("m"))

    missing = (
        "FileSystemStoragePathSource encountered a filesystem access error: Could not "
        f"find base path {tmp_path}/m for servable m with error NOT_FOUND: "
        f"{tmp_path}/m not found"
    )
    empty = (
        f"No versions of servable m found under base path {tmp_path}/m. Did you forget "
        "to name your leaf directory as a number (eg. '/1/')?"
    )
    assert told == [missing, empty, "", missing, "", ""]


def test_a_base_path_that_is_a_file_is_left_alone(
    new_source: NewSource,
    target: Target,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "m").write_text("a file")

    new_source(monitor(tmp_path / "m")).poll()

    assert target.calls == []
    assert "Could not list base path" in caplog.text


def test_one_missing_base_path_stalls_no_other_servable(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    add(tmp_path / "m", "1")

    new_source(monitor(tmp_path / "none"), monitor(tmp_path / "m")).poll()

    assert aspired(target) == [1]


def test_an_empty_listing_unloads_everything(
    new_source: NewSource,
    target: Target,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    add(tmp_path / "m", "1")
    source = new_source(monitor(tmp_path / "m"))
    source.poll()
    shutil.rmtree(tmp_path / "m" / "1")
    source.poll()

    assert aspired(target) == []
    assert caplog.messages == [
        f"No versions of servable m found under base path {tmp_path / 'm'}. "
        "Did you forget to name your leaf directory as a number (eg. '/1/')?"
    ]


def test_an_empty_listing_can_be_asked_to_happen_three_times_in_a_row(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    add(tmp_path / "m", "1")
    source = new_source(monitor(tmp_path / "m"), empty_listings_before_unload=3)
    after_each_look = []
    for present in (True, False, False, True, False, False, False):
        if present:
            (tmp_path / "m" / "1").mkdir(exist_ok=True)
        else:
            shutil.rmtree(tmp_path / "m" / "1", ignore_errors=True)
        source.poll()
        after_each_look.append(aspired(target))

    assert after_each_look == [[1], [1], [1], [1], [1], [1], []]


def test_a_policy_that_chooses_nothing_is_obeyed_at_once(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    add(tmp_path / "m", "1")
    servable = monitor(tmp_path / "m", Specific(()))

    new_source(servable, empty_listings_before_unload=3).poll()

    assert aspired(target) == []


def test_versions_that_are_always_present_are_never_all_unloaded(
    new_source: NewSource,
    target: Target,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    add(tmp_path / "m", "1")
    source = new_source(monitor(tmp_path / "m"), always_present=True)
    source.poll()
    shutil.rmtree(tmp_path / "m" / "1")
    source.poll()

    assert aspired(target) == [1]
    assert "Refusing to unload all versions for Servable: m" in caplog.messages


def test_a_cause_is_logged_once_until_it_changes(
    new_source: NewSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = new_source(monitor(tmp_path / "m"))
    for _ in range(5):
        source.poll()
    (tmp_path / "m").mkdir()
    for _ in range(5):
        source.poll()
    (tmp_path / "m").rmdir()
    source.poll()

    levels = [(r.levelno, r.getMessage()[:14]) for r in caplog.records]
    assert levels == [
        (logging.ERROR, "FileSystemStor"),
        (logging.WARNING, "No versions of"),
        (logging.ERROR, "FileSystemStor"),
    ]


def test_two_names_for_one_version_are_reported(
    new_source: NewSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add(tmp_path / "m", "2", "002")

    new_source(monitor(tmp_path / "m")).poll()

    assert "'002' is not used" in caplog.text


def test_a_version_that_is_there_at_the_first_look_is_aspired_at_once(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    source = new_source(monitor(tmp_path / "m"))
    source.poll()
    add(tmp_path / "elsewhere", "7")
    (tmp_path / "m").mkdir()
    (tmp_path / "elsewhere" / "7").rename(tmp_path / "m" / "7")
    source.poll()

    assert aspired(target) == [7]


def test_changed_files_are_a_new_attempt_once_they_rest(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    source = new_source(monitor(tmp_path / "m"))
    attempts = []
    for size in (0, 1, 2, 2, 2):
        if size:
            (tmp_path / "m" / "1" / "saved_model.pb").write_bytes(b"x" * size)
            os.utime(tmp_path / "m" / "1" / "saved_model.pb", (size, size))
        source.poll()
        attempts.append(attempt(target))

    assert [a == attempts[0] for a in attempts] == [True, True, True, False, False]
    assert attempts[3] == attempts[4]


def test_files_of_an_available_version_are_not_looked_at(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    add(tmp_path / "m", "1")
    source = new_source(monitor(tmp_path / "m"), is_available=lambda _: True)
    source.poll()
    first = attempt(target)
    (tmp_path / "m" / "1" / "saved_model.pb").write_text("something else")
    source.poll()
    source.poll()

    assert attempt(target) == first


def test_an_unchanged_version_comes_back_with_the_same_attempt(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    add(tmp_path / "m", "1")
    source = new_source(monitor(tmp_path / "m"))
    source.poll()
    first = attempt(target)
    add(tmp_path / "m", "2")
    source.poll()
    shutil.rmtree(tmp_path / "m" / "2")
    source.poll()

    assert (aspired(target), attempt(target)) == ([1], first)


def test_a_servable_taken_out_of_the_config_is_un_aspired_at_once(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    add(tmp_path / "m", "1")
    add(tmp_path / "n", "1")
    source = new_source(monitor(tmp_path / "m"), monitor(tmp_path / "n"))
    source.poll()

    source.set_config(FileSystemStoragePathSourceConfig((monitor(tmp_path / "n"),)))

    assert (aspired(target, "m"), aspired(target, "n")) == ([], [1])


def test_a_look_that_began_before_a_change_is_not_told_after_it(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path / "m", "1")
    config = FileSystemStoragePathSourceConfig((monitor(tmp_path / "m"),))
    source = FileSystemStoragePathSource(config, -1)
    source.set_target(target)
    listdir = os.listdir

    def remove_meanwhile(path: str) -> list[str]:
        source.set_config(FileSystemStoragePathSourceConfig())
        return listdir(path)

    monkeypatch.setattr(os, "listdir", remove_meanwhile)
    source.poll()

    assert target.calls == [("m", [])]


class _WaitingTarget(FakeTarget[StoragePath]):
    """A Target that tests can wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = threading.Condition()

    def set_aspired_versions(self, name: str, versions: object) -> None:
        with self.heard:
            super().set_aspired_versions(name, versions)  # type: ignore[arg-type]
            self.heard.notify_all()

    def wait_for(self, name: str, versions: list[int]) -> bool:
        def has_come() -> bool:
            told = [data.id.version for data in self.aspired.get(name, [])]
            return name in self.aspired and told == versions

        with self.heard:
            return self.heard.wait_for(has_come, timeout=30)


def test_a_running_source_sees_what_appears(tmp_path: Path) -> None:
    target = _WaitingTarget()
    config = FileSystemStoragePathSourceConfig((monitor(tmp_path / "m"),))
    source = FileSystemStoragePathSource(config, 0.01)
    source.set_target(target)
    add(tmp_path / "m", "1")

    assert target.wait_for("m", [1])

    add(tmp_path / "m", "2")

    assert target.wait_for("m", [2])
    source.stop()


def test_a_source_that_looks_once_looks_again_after_a_change(tmp_path: Path) -> None:
    target = _WaitingTarget()
    add(tmp_path / "m", "1")
    add(tmp_path / "n", "1")
    config = FileSystemStoragePathSourceConfig((monitor(tmp_path / "m"),))
    source = FileSystemStoragePathSource(config, 0)
    source.set_target(target)
    assert target.wait_for("m", [1])
    add(tmp_path / "m", "2")

    source.set_config(FileSystemStoragePathSourceConfig((monitor(tmp_path / "n"),)))

    assert target.wait_for("n", [1])
    assert target.aspired["m"] == []
    source.stop()


def test_a_base_path_that_hangs_stalls_no_other_servable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path / "hangs", "1")
    add(tmp_path / "m", "1")
    listdir, released = os.listdir, threading.Event()

    def hang(path: str) -> list[str]:
        if path == str(tmp_path / "hangs"):
            released.wait(60)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", hang)
    target = _WaitingTarget()
    servables = (monitor(tmp_path / "hangs"), monitor(tmp_path / "m"))
    config = FileSystemStoragePathSourceConfig(servables)
    source = FileSystemStoragePathSource(config, 0.01)
    source.set_target(target)

    assert target.wait_for("m", [1])

    add(tmp_path / "m", "2")

    assert target.wait_for("m", [2])
    assert "hangs" not in target.aspired
    released.set()
    assert target.wait_for("hangs", [1])
    source.stop()


def paths(target: Target, name: str = "m") -> list[str | None]:
    return [data.data for data in target.aspired[name]]


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    """Make a base path that is a link to the newest release, as deploy tools do."""
    add(tmp_path / "releases" / "a", "1")
    add(tmp_path / "releases" / "b", "1", "2", content="other")
    (tmp_path / "m").symlink_to("releases/a")
    return tmp_path / "releases"


def switch(base: Path, release: str) -> None:
    """Have the link *base* lead elsewhere, at once."""
    beside = base.parent / "link.tmp"
    beside.symlink_to(release)
    beside.rename(base)


def test_a_version_behind_a_link_is_told_as_where_it_is(
    new_source: NewSource, target: Target, tmp_path: Path, releases: Path
) -> None:
    new_source(monitor(tmp_path / "m")).poll()

    assert paths(target) == [str(releases / "a" / "1")]


def test_a_link_that_leads_elsewhere_brings_its_versions(
    new_source: NewSource, target: Target, tmp_path: Path, releases: Path
) -> None:
    source = new_source(monitor(tmp_path / "m"), is_available=lambda _: True)
    source.poll()
    switch(tmp_path / "m", "releases/b")
    source.poll()

    assert paths(target) == [str(releases / "b" / "2")]


@pytest.mark.usefixtures("releases")
def test_a_version_that_failed_is_another_attempt_behind_another_link(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    source = new_source(monitor(tmp_path / "m", Specific((1,))))
    source.poll()
    before = attempt(target)
    switch(tmp_path / "m", "releases/b")
    source.poll()

    assert attempt(target) != before


def test_a_link_to_nothing_is_a_missing_base_path(
    new_source: NewSource, target: Target, tmp_path: Path, releases: Path
) -> None:
    source = new_source(monitor(tmp_path / "m"))
    source.poll()
    shutil.rmtree(releases / "a")
    source.poll()

    assert aspired(target) == [1]


def test_a_version_that_leads_out_of_the_model_roots_is_in_error(
    new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    add(tmp_path / "m", "1")
    add(tmp_path / "elsewhere", "2")
    (tmp_path / "m" / "2").symlink_to(tmp_path / "elsewhere" / "2")
    roots = (str(tmp_path / "m"),)

    new_source(monitor(tmp_path / "m", All()), model_roots=roots).poll()

    found = {data.id.version: data for data in target.aspired["m"]}
    assert found[1].data == str(tmp_path / "m" / "1")
    assert found[2].data is None
    assert isinstance(found[2].error, PermissionDenied)


@pytest.mark.parametrize("kind", ["rename", "rmtree"])
def test_a_version_that_vanishes_between_looks_is_not_aspired_any_more(
    kind: str, new_source: NewSource, target: Target, tmp_path: Path
) -> None:
    add(tmp_path / "m", "1", "2")
    source = new_source(monitor(tmp_path / "m", All()))
    source.poll()
    if kind == "rename":
        (tmp_path / "m" / "2").rename(tmp_path / "m" / "2.old")
    else:
        shutil.rmtree(tmp_path / "m" / "2")
    source.poll()

    assert aspired(target) == [1]


names = st.sampled_from(["1", "2", "03", "x", "4.tmp", "-5"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), names),
        st.tuples(st.just("remove"), names),
        st.tuples(st.just("link"), names),
        st.tuples(st.just("write"), names),
        st.tuples(st.just("base goes"), st.just("")),
    ),
    max_size=25,
)


@given(steps=steps)
def test_what_is_aspired_is_what_there_is_whatever_was_done(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    top = tmp_path_factory.mktemp("any")
    base, target = top / "m", Target()
    config = FileSystemStoragePathSourceConfig((monitor(base, All()),))
    source = FileSystemStoragePathSource(config, -1)
    source.set_target(target)
    for step, name in steps:
        path = base / name
        if step == "base goes":
            shutil.rmtree(base, ignore_errors=True)
        elif step == "remove":
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path, ignore_errors=True)
        elif step == "write" and path.is_dir():
            (path / "saved_model.pb").write_text(name * 3)
        elif step in {"add", "link"} and not os.path.lexists(path):
            base.mkdir(exist_ok=True)
            if step == "add":
                path.mkdir()
            else:
                path.symlink_to(top / "elsewhere")
        before = aspired(target) if target.calls else []
        source.poll()
        if base.exists():
            there = {version_number(child.name) for child in base.iterdir()} - {None}
            assert set(aspired(target)) == there
        else:
            assert (aspired(target) if target.calls else []) == before


def test_nothing_is_told_while_nothing_changes(
    tmp_path: Path, new_source: NewSource, target: Target
) -> None:
    add(tmp_path / "m", "1")
    source = new_source(monitor(tmp_path / "m"), is_available=lambda _: True)
    for _ in range(3):
        source.poll()
    before = len(target.calls)
    add(tmp_path / "m", "2")
    source.poll()

    assert before == 1
    assert aspired(target) == [2]


def test_a_version_that_is_not_available_is_told_of_at_every_look(
    tmp_path: Path, new_source: NewSource, target: Target
) -> None:
    add(tmp_path / "m", "1")
    source = new_source(monitor(tmp_path / "m"), is_available=lambda _: False)
    for _ in range(3):
        source.poll()

    assert len(target.calls) == 3
