"""The batcher in examples/batcher does what its README says."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servable.batching.batcher import Batch, Request

FILE = Path(__file__).parents[2] / "examples" / "batcher" / "length_batcher.py"


@pytest.fixture(scope="module")
def batcher() -> Any:
    spec = importlib.util.spec_from_file_location("length_batcher", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LengthBatcher()


def request(*rows: list[int]) -> Request:
    return Request("serving_default", len(rows), {"ids": np.array(rows)})


def test_lengths_of_one_power_of_two_run_together(batcher: Any) -> None:
    short, middle, long = request([1]), request([2, 3, 4], [5, 6, 7]), request([8] * 4)

    assert batcher.group([short, middle, long]) == [[short], [middle, long]]


def test_inputs_get_zeros_and_outputs_lose_what_they_added(batcher: Any) -> None:
    middle, long = request([2, 3, 4]), request([8] * 4)
    batch = Batch([middle, long], 2)

    padded = batcher.pad(batch)["ids"]
    outputs = {"each": padded * 10, "sum": padded.sum(axis=1)}
    parts = batcher.split(batch, outputs)

    assert padded.tolist() == [[2, 3, 4, 0], [8, 8, 8, 8]]
    assert [part["each"].tolist() for part in parts] == [[[20, 30, 40]], [[80] * 4]]
    assert [part["sum"].tolist() for part in parts] == [[9], [32]]
