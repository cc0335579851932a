"""Loads during which somebody is at the files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from servable.errors import NotFound, Unavailable
from servable.platforms.steady_loader import SteadyLoader
from servable.testing import FakeLoader


class Watched(FakeLoader):
    """A Loader during whose first load something happens."""

    def __init__(self, meanwhile: list[Callable[[], object]]) -> None:
        super().__init__()
        self._meanwhile = meanwhile

    def load(self) -> None:
        super().load()
        if self._meanwhile:
            self._meanwhile.pop()()


@pytest.fixture
def version(tmp_path: Path) -> Path:
    path = tmp_path / "m" / "1"
    (path / "assets").mkdir(parents=True)
    (path / "saved_model.pb").write_text("graph")
    (path / "assets" / "vocabulary").write_text("some wor")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "table").write_text("rows")
    (path / "table").symlink_to(tmp_path / "shared")
    (path / "table" / "loop").symlink_to(path)
    return path


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda path: (path / "assets" / "vocabulary").write_text("some words"),
            id="a file grows",
        ),
        pytest.param(
            lambda path: (path / "assets" / "more").write_text("x"), id="a file comes"
        ),
        pytest.param(
            lambda path: (path / "assets" / "vocabulary").unlink(), id="a file goes"
        ),
        pytest.param(
            lambda path: (path / "table" / "table").write_text("more rows"),
            id="a file behind a link grows",
        ),
        pytest.param(
            lambda path: path.rename(path.parent / "gone"), id="the version goes"
        ),
    ],
)
def test_what_is_read_while_it_changes_is_not_loaded(
    change: Callable[[Path], object], version: Path
) -> None:
    made: list[Watched] = []
    meanwhile: list[Callable[[], object]] = [lambda: change(version)]

    def new_loader() -> Watched:
        made.append(Watched(meanwhile))
        return made[-1]

    loader = SteadyLoader(new_loader, str(version))
    with pytest.raises(Unavailable, match="changed while they were read"):
        loader.load()
    assert not made[0].is_loaded
    loader.load()

    assert made[1].is_loaded
    assert made[1].calls == ["load", "loaded"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda _: None, id="nothing"),
        pytest.param(lambda path: (path / "saved_model.pb").read_text(), id="a read"),
        pytest.param(
            lambda path: (path.parent / "2").mkdir(), id="another version comes"
        ),
        pytest.param(
            lambda path: (
                (path / "__pycache__").mkdir(),
                (path / "__pycache__" / "model.pyc").write_text("x"),
            ),
            id="Python compiles what it imports",
        ),
    ],
)
def test_what_is_no_change(change: Callable[[Path], object], version: Path) -> None:
    inner = Watched([lambda: change(version)])
    SteadyLoader(lambda: inner, str(version)).load()

    assert inner.is_loaded


def test_a_load_that_fails_fails_as_it_does(version: Path) -> None:
    inner = FakeLoader(failures=[NotFound("no graph")])

    with pytest.raises(NotFound, match="no graph"):
        SteadyLoader(lambda: inner, str(version)).load()
