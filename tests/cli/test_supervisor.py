"""When a server that died is started again."""

import pytest

from servable.cli.supervisor import Restarts


@pytest.mark.parametrize(
    ("lived", "waits"),
    [
        pytest.param([0.1], [0.0], id="the first time at once"),
        pytest.param(
            [0.1] * 5, [0.0, 0.5, 1.0, 2.0, 4.0], id="later each time in a row"
        ),
        pytest.param([3600.0] * 3, [0.0] * 3, id="at once after a healthy life"),
        pytest.param(
            [0.1, 0.1, 60.0, 0.1],
            [0.0, 0.5, 0.0, 0.5],
            id="a healthy life begins a new row",
        ),
    ],
)
def test_how_long_is_waited(lived: list[float], waits: list[float]) -> None:
    restarts = Restarts()

    assert [restarts.wait_s(seconds) for seconds in lived] == waits


def test_no_wait_is_longer_than_the_longest() -> None:
    restarts = Restarts()
    waits = [restarts.wait_s(0.0) for _ in range(2000)]

    assert max(waits) == waits[-1] == 30.0
