"""When two answers say the same."""

from typing import Any

import numpy as np
import pytest

from servable.errors import InvalidArgument
from servable.export.answers import Tolerance, differences

nan, inf = float("nan"), float("inf")


def float32(*values: float) -> Any:
    return np.array(values, np.float32)


def int64(*values: int) -> Any:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(float32(100.0), float32(101.0), "", id="within both tolerances"),
        pytest.param(
            float32(100.0, 1.0),
            float32(101.2, 1.0),
            "1 of 2 numbers differ, most 100 became 101.2",
            id="out of both",
        ),
        pytest.param(float32(nan, inf), float32(nan, inf), "", id="not finite, alike"),
        pytest.param(
            float32(1.0, 0.0),
            float32(nan, nan),
            "2 of 2 numbers differ, most 1 became nan",
            id="all are no numbers any more",
        ),
        pytest.param(
            float32(0.0, 5.0, 2.0),
            float32(0.0, nan, 2.1),
            "1 of 3 numbers differ, most 5 became nan",
            id="one is no number any more",
        ),
        pytest.param(
            float32(0.0, inf),
            float32(9.0, -inf),
            "2 of 2 numbers differ, most inf became -inf",
            id="the other infinity",
        ),
        pytest.param(int64(100), int64(100), "", id="an id"),
        pytest.param(
            int64(100000, 7),
            int64(100001, 7),
            "1 of 2 numbers differ, most 100000 became 100001",
            id="an id near by is another one",
        ),
        pytest.param(
            int64(2**60, -(2**63)),
            int64(2**60 + 1, 2**63 - 1),
            "2 of 2 numbers differ, most -9223372036854775808 became "
            "9223372036854775807",
            id="what floats cannot tell apart",
        ),
        pytest.param(
            np.array(-1, np.int8),
            np.array(1, np.int8),
            "1 of 1 numbers differ, most -1 became 1",
            id="a scalar",
        ),
        pytest.param(
            np.array([True, False]),
            np.array([True, True]),
            "1 of 2 numbers differ, most False became True",
            id="a truth",
        ),
        pytest.param(float32(1.0), int64(1), "type float32 became int64", id="a type"),
        pytest.param(
            float32(1.0), float32(1.0, 2.0), "shape [1] became [2]", id="a shape"
        ),
        pytest.param(
            np.array([b"cat"], object),
            np.array([b"dog"], object),
            "1 of 1 texts differ, first 'cat' became 'dog'",
            id="a text",
        ),
    ],
)
def test_what_is_different(before: Any, after: Any, expected: str) -> None:
    found = list(differences({"y": before}, {"y": after}, Tolerance(0.01, 0.1)))

    assert found == ([f"output 'y': {expected}"] if expected else [])


def test_integers_differ_by_what_is_allowed_absolutely() -> None:
    pixels = np.array([10, 20], np.uint8), np.array([11, 18], np.uint8)

    assert not list(differences({"y": pixels[0]}, {"y": pixels[1]}, Tolerance(0, 2)))


def test_outputs_that_come_and_go_are_named() -> None:
    found = differences({"a": float32(1)}, {"b": float32(1)}, Tolerance())

    assert list(found) == ["output 'a' is missing", "output 'b' is new"]


@pytest.mark.parametrize("wrong", [-1.0, nan])
def test_a_tolerance_is_no_less_than_none(wrong: float) -> None:
    with pytest.raises(InvalidArgument, match="rtol must be 0 or more"):
        Tolerance(rtol=wrong)
