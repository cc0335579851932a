"""Shared values: made once, for all who have them at one time."""

import threading

import pytest

from servable.core.shared import SharedValues


class Made:
    """Makes values, and remembers for which keys."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.failures: list[Exception] = []

    def __call__(self, key: str) -> list[str]:
        self.keys.append(key)
        if self.failures:
            raise self.failures.pop()
        return [key]


@pytest.fixture
def made() -> Made:
    return Made()


@pytest.fixture
def values(made: Made) -> SharedValues[str, list[str]]:
    return SharedValues(made)


def test_all_get_the_same(made: Made, values: SharedValues[str, list[str]]) -> None:
    first, second = values.acquire("a"), values.acquire("a")

    assert first is second
    assert made.keys == ["a"]


def test_keys_have_values_of_their_own(
    made: Made, values: SharedValues[str, list[str]]
) -> None:
    assert (values.acquire("a"), values.acquire("b")) == (["a"], ["b"])
    assert made.keys == ["a", "b"]


def test_it_stays_until_the_last_one_gives_it_back(
    made: Made, values: SharedValues[str, list[str]]
) -> None:
    values.acquire("a")
    values.acquire("a")
    values.release("a")
    values.acquire("a")
    assert made.keys == ["a"]
    values.release("a")
    values.release("a")

    assert len(values) == 0
    values.acquire("a")
    assert made.keys == ["a", "a"]


def test_a_failure_is_tried_again_by_the_next_one(
    made: Made, values: SharedValues[str, list[str]]
) -> None:
    made.failures.append(OSError("no"))
    with pytest.raises(OSError, match="no"):
        values.acquire("a")
    assert len(values) == 0

    assert values.acquire("a") == ["a"]


def test_while_one_is_made_others_wait_for_it_and_not_for_each_other() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def make(key: str) -> object:
        if key == "slow":
            begun.set()
            assert go_on.wait(10.0)
        return object()

    values: SharedValues[str, object] = SharedValues(make)
    got: list[object] = []
    threads = [
        threading.Thread(target=lambda: got.append(values.acquire("slow")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(10.0)
    values.acquire("quick")
    assert got == []
    go_on.set()
    for thread in threads:
        thread.join()

    assert got[0] is got[1]
