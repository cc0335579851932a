"""What is being done for versions, and how far it is."""

import pytest

from servable.core.progress import Progress, ProgressBoard, progress_of
from servable.core.servable_id import ServableId
from servable.testing import FakeClock

M1 = ServableId("m", 1)


class Tells:
    def __init__(self, *told: str) -> None:
        self.told = list(told)

    def progress(self) -> str:
        return self.told.pop(0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def board(clock: FakeClock) -> ProgressBoard:
    return ProgressBoard(clock)


def test_it_is_told_for_how_long(board: ProgressBoard, clock: FakeClock) -> None:
    board.begin(M1, "loads")
    clock.advance(3.0)

    assert board.of(M1) == Progress("loads", 3.0)


def test_who_does_it_may_tell_more(board: ProgressBoard) -> None:
    board.begin(M1, "loads", Tells("43 %", ""))

    assert board.of(M1) == Progress("loads: 43 %", 0.0)
    assert board.of(M1) == Progress("loads", 0.0)


def test_what_is_over_is_forgotten(board: ProgressBoard) -> None:
    board.begin(M1, "loads")
    board.end(M1)

    assert (board.of(M1), board.ids_of("m")) == (None, [])


def test_versions_are_found_by_their_stream(board: ProgressBoard) -> None:
    for servable_id in (M1, ServableId("m", 2), ServableId("other", 3)):
        board.begin(servable_id, "loads")

    assert board.ids_of("m") == [M1, ServableId("m", 2)]


@pytest.mark.parametrize(
    "doer",
    [
        pytest.param(object(), id="that cannot tell"),
        pytest.param(Tells(), id="that fails to tell"),
    ],
)
def test_nothing_is_told_of_somebody(doer: object) -> None:
    assert progress_of(doer) == ""
