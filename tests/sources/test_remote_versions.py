"""Versions in stores: what is looked into, fetched and aspired."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servable.core.served_versions import Pinned
from servable.errors import DataLoss, NotFound
from servable.sources.remote_versions import (
    FAILURES_BEFORE_TOLD,
    Aspired,
    RemoteVersions,
    back_off_s,
)
from servable.sources.store import Content, Digest, LocalContent, RemoteFile
from servable.sources.versions import (
    All,
    Latest,
    ServableVersionPolicy,
    Specific,
    versions_among,
)


def content(mark: str = "", *, is_whole: bool = False) -> Content:
    file = RemoteFile("saved_model.pb", len(mark), mark)
    return Content((file,), lambda _file, _start: iter(()), is_whole)


def look(
    versions: RemoteVersions, there: dict[int, str], *served: int
) -> list[tuple[int, Content]]:
    """Look once; return what is to be fetched."""
    versions.list_found(versions_among(str(number) for number in there))
    for number in versions.to_look_into(lambda n: n in served):
        versions.content_found(number, content(there[number]))
    return versions.to_fetch(now=0.0)


def fetch(versions: RemoteVersions, there: dict[int, str]) -> None:
    """Look until everything that is wanted has been fetched."""
    look(versions, there)
    for number, found in look(versions, there):
        versions.fetched(number, found, path(number, found.identity))


def path(number: int, identity: str) -> str:
    return f"/cache/{number}-{identity[:8]}"


def aspired(versions: RemoteVersions) -> list[int]:
    return [version.version for version in versions.aspire()]


def test_a_version_is_fetched_when_two_looks_have_found_the_same() -> None:
    versions = RemoteVersions(Latest())

    assert look(versions, {1: "a"}) == []
    assert look(versions, {1: "ab"}) == []
    assert [number for number, _ in look(versions, {1: "ab"})] == [1]


def test_a_version_that_was_published_as_a_whole_is_fetched_at_once() -> None:
    versions = RemoteVersions(Latest())
    versions.list_found(versions_among(["1"]))
    versions.content_found(1, content("a", is_whole=True))

    assert [number for number, _ in versions.to_fetch(0.0)] == [1]


def test_what_is_on_this_machine_needs_no_fetch() -> None:
    versions = RemoteVersions(Latest())
    versions.list_found(versions_among(["1"]))
    versions.content_found(1, LocalContent("/models/m/1"))

    assert versions.to_fetch(0.0) == []
    assert versions.aspire() == [Aspired(1, "/models/m/1")]


@pytest.mark.parametrize(
    ("policy", "before", "after", "meanwhile"),
    [
        pytest.param(Latest(), {1: "a"}, {1: "a", 2: "b"}, [1], id="latest"),
        pytest.param(
            Latest(2), {1: "a", 2: "b"}, {1: "a", 2: "b", 3: "c"}, [2, 1], id="latest 2"
        ),
        pytest.param(All(), {1: "a"}, {1: "a", 2: "b"}, [1], id="all"),
        pytest.param(
            Latest(), {1: "a"}, {2: "b"}, [], id="nothing is there of what was"
        ),
    ],
)
def test_what_is_new_takes_the_place_of_what_was_when_it_was_fetched(
    policy: ServableVersionPolicy,
    before: dict[int, str],
    after: dict[int, str],
    meanwhile: list[int],
) -> None:
    versions = RemoteVersions(policy)
    fetch(versions, before)
    aspired(versions)

    look(versions, after, *before)
    assert aspired(versions) == meanwhile
    fetch(versions, after)
    assert aspired(versions) == policy.choose(after)


def test_another_choice_of_versions_keeps_the_old_one_until_it_was_fetched() -> None:
    versions = RemoteVersions(Specific((1,)))
    there = {1: "a", 2: "b"}
    fetch(versions, there)
    aspired(versions)

    versions.policy = Specific((2,))
    look(versions, there, 1)
    assert aspired(versions) == [1]
    fetch(versions, there)
    assert aspired(versions) == [2]


def test_specific_versions_that_never_were_there_change_nothing() -> None:
    versions = RemoteVersions(Specific((1,)))
    fetch(versions, {1: "a"})
    aspired(versions)

    versions.policy = Specific((2,))
    look(versions, {1: "a"}, 1)
    assert aspired(versions) == [1]
    fetch(versions, {1: "a", 2: "b"})
    assert aspired(versions) == [2]
    look(versions, {1: "a"})
    assert aspired(versions) == []


def test_a_version_that_must_be_there_and_is_not_changes_nothing() -> None:
    versions = RemoteVersions(Pinned(1))
    fetch(versions, {1: "a"})
    assert aspired(versions) == [1]

    with pytest.raises(NotFound):
        look(versions, {2: "b"})

    assert aspired(versions) == [1]


def test_another_pin_waits_until_its_version_was_fetched() -> None:
    versions = RemoteVersions(Pinned(1))
    there = {1: "a", 2: "b"}
    fetch(versions, there)
    aspired(versions)

    versions.policy = Pinned(2)
    look(versions, there, 1)
    assert aspired(versions) == [1]
    fetch(versions, there)
    assert aspired(versions) == [2]


def test_while_versions_come_faster_than_looks_the_last_but_one_is_fetched() -> None:
    versions = RemoteVersions(Latest())
    there: dict[int, str] = {}

    fetched = []
    for number in range(1, 6):
        there[number] = str(number)
        fetched += [[n for n, _ in look(versions, there)]]

    assert fetched == [[], [1], [2], [3], [4]]


def test_what_takes_the_place_of_a_newer_one_is_looked_into_again() -> None:
    versions = RemoteVersions(Latest(1))
    look(versions, {1: "a"})
    look(versions, {1: "a", 2: "a"})
    look(versions, {1: "a", 2: "a"})
    found = [look(versions, {1: "b", 2: mark}) for mark in "bcd"]

    assert [[file for _, c in each for file in c.files] for each in found] == [
        [],
        [],
        list(content("b").files),
    ]


def test_what_does_not_load_is_fetched_again_once() -> None:
    versions = RemoteVersions(Latest(1))
    fetch(versions, {1: "one"})
    (first,) = versions.aspire()
    doubts = [versions.did_not_load(1, first.path)]
    fetch(versions, {1: "one"})
    (second,) = versions.aspire()
    doubts.append(versions.did_not_load(1, second.path))
    again = look(versions, {1: "one"})
    fetch(versions, {1: "another"})
    (third,) = versions.aspire()
    doubts.append(versions.did_not_load(1, third.path))

    assert doubts == [True, False, True]
    assert len({first.path, second.path, third.path}) == 3
    assert again == []


def test_what_does_not_load_stays_until_it_has_come_again() -> None:
    versions = RemoteVersions(Latest(1))
    fetch(versions, {1: "one"})
    before = versions.aspire()
    versions.did_not_load(1, before[0].path)

    assert versions.aspire() == before


@pytest.mark.parametrize(
    ("digest", "place"),
    [
        pytest.param(Digest("md5", "0"), "here", id="a hash has told that it is well"),
        pytest.param(None, "elsewhere", id="it was another content that failed"),
    ],
)
def test_what_need_not_be_fetched_again(digest: Digest | None, place: str) -> None:
    versions = RemoteVersions(Latest(1))
    file = RemoteFile("saved_model.pb", 3, "one", digest)
    found = Content((file,), lambda _file, _start: iter(()), is_whole=True)
    versions.list_found(versions_among(["1"]))
    versions.content_found(1, found)
    versions.fetched(1, found, "here")

    assert not versions.did_not_load(1, place)


def test_of_what_comes_again_the_files_with_a_hash_do_not() -> None:
    files = (
        RemoteFile("checked", 3, "one", Digest("md5", "0")),
        RemoteFile("unchecked", 3, "two"),
    )
    first = Content(files, lambda _file, _start: iter(()))
    again = first.afresh()

    assert again.files[0] == first.files[0]
    assert again.files[1].identity != first.files[1].identity
    assert again.instead_of == first.identity


def test_a_version_that_is_served_is_left_alone() -> None:
    versions = RemoteVersions(Latest())
    fetch(versions, {1: "a"})

    assert versions.to_look_into(lambda _: True) == []
    assert versions.to_look_into(lambda _: False) == [1]


def test_one_that_is_not_served_is_fetched_again_when_it_changed() -> None:
    versions = RemoteVersions(Latest())
    fetch(versions, {1: "half"})
    (before,) = versions.aspire()

    fetch(versions, {1: "whole"})

    assert versions.aspire() != [before]


def test_a_failure_is_told_when_it_lasts() -> None:
    versions = RemoteVersions(Latest())
    fetch(versions, {1: "a"})
    aspired(versions)
    look(versions, {1: "a", 2: "b"}, 1)
    look(versions, {1: "a", 2: "b"}, 1)

    error = DataLoss("x")
    told = []
    for _ in range(FAILURES_BEFORE_TOLD):
        versions.failed(2, error, 0.0)
        told.append(versions.aspire())

    served = Aspired(1, path(1, content("a").identity))
    assert told == [[served]] * 2 + [[served, Aspired(2, None, error)]]


def test_what_failed_is_put_off() -> None:
    versions = RemoteVersions(Latest())
    look(versions, {1: "a"})
    look(versions, {1: "a"})
    versions.failed(1, DataLoss("x"), 0.0)
    versions.put_off(1, retry_at=5.0)

    assert versions.to_fetch(4.9) == []
    assert [number for number, _ in versions.to_fetch(5.0)] == [1]


def test_files_that_nobody_needs_are_let_go_of() -> None:
    versions = RemoteVersions(Latest())
    fetch(versions, {1: "a"})
    aspired(versions)
    fetch(versions, {1: "a", 2: "b"})
    aspired(versions)

    assert versions.forget(lambda number: number == 1) == []
    assert versions.forget(lambda _: False) == [1]
    assert versions.forget(lambda _: False) == []


numbers = st.integers(1, 4)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("there"), st.dictionaries(numbers, st.sampled_from("ab"))),
        st.tuples(st.just("fetched"), numbers),
        st.tuples(st.just("failed"), numbers),
    ),
    max_size=30,
)


@given(st.sampled_from([Latest(), Latest(2), All(), Specific((1, 3))]), steps)
def test_what_is_aspired_was_fetched_and_is_there(
    policy: ServableVersionPolicy, steps: list[tuple[str, object]]
) -> None:
    """And none goes while what is to take its place is not fetched."""
    versions = RemoteVersions(policy)
    there: dict[int, str] = {}
    seen: dict[int, list[str]] = {}
    fetched: set[str] = set()
    told: list[int] = []
    for kind, argument in steps:
        if kind == "there":
            there = argument  # type: ignore[assignment]
            look(versions, there)
            for number in there:
                seen.setdefault(number, []).append(there[number])
        else:
            for number, found in versions.to_fetch(0.0):
                if number == argument and kind == "fetched":
                    # Nobody was writing it: two looks in a row found it so.
                    assert seen[number][-1] == seen[number][-2]
                    fetched.add(path(number, found.identity))
                    versions.fetched(number, found, path(number, found.identity))
                elif number == argument:
                    versions.failed(number, DataLoss("x"), 0.0)
        before, told = told, [v.version for v in versions.aspire() if v.path]
        assert set(told) <= there.keys()
        assert {v.path for v in versions.aspire() if v.path} <= fetched
        lost = (set(before) - set(told)) & there.keys()
        assert not lost or len(told) >= len(policy.choose(there))


@pytest.mark.parametrize(
    ("failures", "poll_wait_s", "jitter", "delay_s"),
    [
        pytest.param(0, 10.0, 0.5, 10.0, id="no failure"),
        pytest.param(0, 10.0, 0.0, 9.0, id="a little earlier"),
        pytest.param(0, 10.0, 1.0, 11.0, id="or later"),
        pytest.param(1, 1.0, 1.0, 1.0, id="once"),
        pytest.param(2, 1.0, 1.0, 2.0, id="twice"),
        pytest.param(4, 1.0, 1.0, 8.0, id="four times"),
        pytest.param(4, 1.0, 0.0, 4.0, id="half of it by chance"),
        pytest.param(10, 1.0, 1.0, 60.0, id="a minute at most"),
        pytest.param(10_000, 1.0, 1.0, 60.0, id="for ever"),
        pytest.param(10, 300.0, 1.0, 300.0, id="or as long as between two looks"),
    ],
)
def test_a_store_that_fails_is_asked_less_and_less_often(
    failures: int, poll_wait_s: float, jitter: float, delay_s: float
) -> None:
    assert back_off_s(failures, poll_wait_s, jitter) == pytest.approx(delay_s)


def claimed(mark: str = "") -> Content:
    files = (RemoteFile(".servable-theirs", 0, "claim"), *content(mark).files)
    return Content(files, lambda _file, _start: iter(()))


def test_what_somebody_is_publishing_holds_up_no_other_and_is_watched() -> None:
    """A publisher that was killed leaves its claim for good."""
    versions = RemoteVersions(Latest())
    there = {1: content("a"), 2: claimed("half")}

    def look_again() -> list[int]:
        versions.list_found(versions_among(map(str, there)))
        for number in versions.to_look_into(lambda _: False):
            versions.content_found(number, there[number])
        return [number for number, _ in versions.to_fetch(0.0)]

    # Version 2 is looked into, then 1, then 1 is settled.
    assert [look_again() for _ in range(3)] == [[], [], [1]]
    versions.fetched(1, there[1], path(1, there[1].identity))
    assert aspired(versions) == [1]
    there[2] = content("whole")
    assert look_again() == []
    assert look_again() == [2]


def test_where_all_is_claimed_nothing_is_waited_for() -> None:
    versions = RemoteVersions(Latest())
    versions.list_found(versions_among(["1"]))
    versions.content_found(1, claimed())

    assert (versions.is_waiting, versions.is_done) == (False, False)
