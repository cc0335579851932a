"""Which versions are aspired by the policies that are ours."""

import pytest

from servable.core.served_versions import Candidates, Pinned
from servable.errors import NotFound


def test_a_pin_is_one_version() -> None:
    assert Pinned(2).choose([1, 2, 3]) == [2]


def test_a_pin_that_is_not_there_changes_nothing() -> None:
    with pytest.raises(NotFound, match="version 9, to which it is pinned, is missing"):
        Pinned(9).choose([1, 2, 3])


@pytest.mark.parametrize(
    ("candidates", "versions", "expected"),
    [
        pytest.param(Candidates(), [], [], id="of nothing is nothing"),
        pytest.param(Candidates(), [4], [4], id="of one version is that"),
        pytest.param(Candidates(), [1, 3, 2], [3, 2], id="are the newest and the next"),
        pytest.param(Candidates(promoted=3), [1, 2, 3], [3], id="end with a promotion"),
        pytest.param(
            Candidates(promoted=3), [2, 3, 4, 5], [5, 3], id="begin after the promoted"
        ),
        pytest.param(
            Candidates(rejected=frozenset({3})), [1, 2, 3], [2, 1], id="skip the bad"
        ),
        pytest.param(
            Candidates(2, frozenset({3})), [1, 2, 3], [2], id="leave the good one alone"
        ),
        pytest.param(
            Candidates(promoted=3), [1, 2], [2], id="do not try again what was before"
        ),
        pytest.param(
            Candidates(promoted=3), [2, 4], [4, 2], id="do without one that is gone"
        ),
        pytest.param(
            Candidates(rejected=frozenset({1})), [1], [], id="of a bad one is nothing"
        ),
    ],
)
def test_candidates(
    candidates: Candidates, versions: list[int], expected: list[int]
) -> None:
    assert candidates.choose(versions) == expected
