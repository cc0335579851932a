"""What loaders that stand around another one leave to it."""

from collections.abc import Callable, Hashable, Mapping

import pytest

from servable.core.loader import Loader, shared_resources
from servable.core.progress import progress_of
from servable.platforms.steady_loader import SteadyLoader
from servable.platforms.timed_loader import TimedLoader
from servable.platforms.trial import TrialLoader
from servable.testing import FakeLoader


class Telling(FakeLoader):
    """A loader that shares something, and tells how far it is."""

    def shared_resources(self) -> Mapping[Hashable, int]:
        return {"table": 9}

    def progress(self) -> str:
        return "43 %"


@pytest.mark.parametrize(
    "around",
    [
        lambda loader: SteadyLoader(lambda: loader, "/nowhere"),
        lambda loader: TimedLoader(lambda: loader, 60.0),
        lambda loader: TrialLoader(loader, lambda: None),
        lambda loader: TimedLoader(
            lambda: SteadyLoader(lambda: TrialLoader(loader, lambda: None), "/x"), 60.0
        ),
    ],
    ids=["steady", "timed", "tried", "all of them"],
)
def test_everything_but_the_load_is_the_loaders(
    around: Callable[[Loader], Loader],
) -> None:
    inner = Telling("s", size_bytes=7)
    loader = around(inner)
    loader.load()
    told = loader.estimate_resources(), shared_resources(loader), progress_of(loader)
    loader.unload()

    assert told == (7, {"table": 9}, "43 %")
    assert loader.servable() == "s"
    assert inner.calls[-1] == "unload"
