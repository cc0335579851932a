"""Loads that are given up."""

import threading

import pytest

from servable.errors import DeadlineExceeded, NotFound
from servable.platforms.timed_loader import TimedLoader
from servable.testing import FakeLoader

WAIT_S = 20.0


class Slow(FakeLoader):
    """Loads when it is let, and tells when it is let go of."""

    def __init__(self, may_load: threading.Event) -> None:
        super().__init__("slow")
        self._may_load = may_load
        self.is_unloaded = threading.Event()

    def load(self) -> None:
        assert self._may_load.wait(WAIT_S)
        super().load()

    def unload(self) -> None:
        super().unload()
        self.is_unloaded.set()


def test_a_load_in_time_is_the_loaders_own() -> None:
    inner = FakeLoader("x")
    loader = TimedLoader(lambda: inner, WAIT_S)
    loader.load()

    assert loader.servable() == inner.servable()


def test_what_a_load_raises_comes_through() -> None:
    loader = TimedLoader(lambda: FakeLoader(failures=[NotFound("no graph")]), WAIT_S)

    with pytest.raises(NotFound, match="no graph"):
        loader.load()


def test_a_load_that_hangs_is_given_up_and_let_go_of_later() -> None:
    may_load = threading.Event()
    made: list[Slow] = []

    def new_loader() -> Slow:
        made.append(Slow(may_load))
        return made[-1]

    loader = TimedLoader(new_loader, 0.01)
    with pytest.raises(DeadlineExceeded, match=r"took longer than 0\.01 s"):
        loader.load()
    may_load.set()

    assert made[0].is_unloaded.wait(WAIT_S)
    assert len(made) == 2  # the next attempt has a loader of its own
    assert not made[1].is_unloaded.is_set()
