"""Which setting is chosen for a target, and what the file says of it."""

from pathlib import Path

import pytest

pytest.importorskip("servable._engine")

from servable.bench import tune
from servable.bench.runner import ClosedLoop
from servable.bench.tune import Point, Setting
from servable.config import batching_parameters


def point(size: int, rate: float, p99_ms: float, errors: int = 0) -> Point:
    return Point(Setting(size), ClosedLoop(8), rate, p99_ms / 2, p99_ms, errors)


@pytest.mark.parametrize(
    ("points", "size"),
    [
        pytest.param([point(2, 100, 5), point(8, 200, 9)], 8, id="the most answers"),
        pytest.param(
            [point(2, 100, 5), point(8, 200, 11)], 2, id="within the target only"
        ),
        pytest.param(
            [point(8, 200, 5, errors=1), point(4, 100, 5)], 4, id="without errors only"
        ),
        pytest.param(
            [point(64, 201, 5), point(8, 200, 5)], 8, id="smaller if about as many"
        ),
        pytest.param([point(8, 200, 11)], None, id="none"),
        pytest.param([], None, id="nothing measured"),
    ],
)
def test_what_is_best(points: list[Point], size: int | None) -> None:
    found = tune.best(points, 10.0)

    assert (found and found.setting.max_batch_size) == size


def test_the_file_that_is_written_is_read_as_what_was_measured(tmp_path: Path) -> None:
    file = tmp_path / "batching.txt"
    file.write_text(tune.parameters_file(point(16, 1234, 7.5), 10.0, 3))

    parameters = batching_parameters.read(str(file))

    assert parameters.max_batch_size == 16
    assert parameters.num_batch_threads == 3
    assert "1234 requests/s" in file.read_text()


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    points = [point(0, 50, 3), point(0, 60, 6), point(8, 100, 3), point(8, 150, 20)]

    tune.draw(tmp_path / "tune.png", "m", points, 10.0)

    assert (tmp_path / "tune.png").read_bytes().startswith(b"\x89PNG")
