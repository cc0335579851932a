"""The batcher in Python does what the engine's does, and its faults are errors."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servable.batching.batcher import Arrays, Batch, Batcher, Request, RowBatcher
from servable.batching.hosting import HostedBatcher
from servable.errors import Internal, NotFound, ServingError

INT32, STRING = 3, 7
Tensor = tuple[int, tuple[int, ...], Any]


def ints(shape: Sequence[int], values: Sequence[int]) -> Tensor:
    return INT32, tuple(shape), np.array(values, np.int32).tobytes()


def texts(*values: bytes) -> Tensor:
    return STRING, (len(values),), list(values)


def seen(tensor: Tensor) -> tuple[tuple[int, ...], list[Any]]:
    number, shape, data = tensor
    if number == STRING:
        return shape, data
    return shape, np.frombuffer(data, np.int32).tolist()


def answers(
    batcher: Batcher,
    feeds: Sequence[Tensor],
    padded_size: Callable[[int], int] = lambda rows: rows,
    run: Callable[[Tensor], Tensor] = lambda fed: fed,
) -> tuple[list[tuple[tuple[int, ...], list[Any]]], list[tuple[int, ...]]]:
    """Return what requests get that the engine runs as one batch, and what it ran."""
    hosted = HostedBatcher("mine", batcher)
    requests = [(feed[1][0] if feed[1] else 0, {"x": feed}) for feed in feeds]
    got: dict[int, tuple[tuple[int, ...], list[Any]]] = {}
    runs = []
    for places, group in hosted.group("s", requests):
        rows = sum(requests[place][0] for place in places)
        # As the engine has it, no rows are never padded.
        ((alias, fed),) = group.pad(padded_size(rows) if rows else 0)
        runs.append(fed[1])
        parts = group.split({"y": run(fed)})
        for place, part in zip(places, parts, strict=True):
            ((output, tensor),) = part
            assert (alias, output) == ("x", "y")
            got[place] = seen(tensor)
    return [got[place] for place in range(len(feeds))], runs


@pytest.mark.parametrize(
    ("feeds", "size", "runs"),
    [
        pytest.param(
            [ints([2], [1, 2]), ints([0], []), ints([3], [3, 4, 5])],
            8,
            [(8,)],
            id="each request gets its own rows and none of those added",
        ),
        pytest.param(
            [ints([1, 2], [1, 2]), ints([1, 1], [3]), ints([1, 2], [4, 5])],
            0,
            [(2, 2), (1, 1)],
            id="rows of other shapes run apart",
        ),
        pytest.param(
            [ints([1], [1]), texts(b"a", b"")],
            0,
            [(1,), (2,)],
            id="types never mix",
        ),
        pytest.param(
            [texts(b"a"), texts(b"", b"bc")], 4, [(4,)], id="strings are rows, too"
        ),
        pytest.param([ints([0, 2], [])], 4, [(0, 2)], id="no rows are no rows"),
    ],
)
def test_rows_stand_together_as_the_engine_has_them(
    feeds: list[Tensor], size: int, runs: list[tuple[int, ...]]
) -> None:
    got, ran = answers(RowBatcher(), feeds, lambda rows: max(rows, size))

    assert got == [seen(feed) for feed in feeds]
    assert ran == runs


def test_rows_that_are_added_repeat_the_first_of_the_last_request() -> None:
    feeds = [ints([1], [1]), ints([2], [3, 4]), ints([0], [])]
    fed = []

    def run(tensor: Tensor) -> Tensor:
        fed.append(tensor)
        return tensor

    answers(RowBatcher(), feeds, lambda rows: rows + 2, run)

    assert seen(fed[0]) == ((5,), [1, 3, 4, 3, 3])


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=6),
    st.integers(0, 3),
    st.integers(0, 5),
)
def test_no_row_is_lost_or_doubled_and_order_is_kept(
    rows: list[int], width: int, extra: int
) -> None:
    numbers = iter(range(1000))
    feeds = [
        ints([count, width], [next(numbers) for _ in range(count * width)])
        for count in rows
    ]

    got, _ = answers(RowBatcher(), feeds, lambda total: total + extra)

    assert got == [seen(feed) for feed in feeds]


@pytest.mark.parametrize(
    ("output", "shape"),
    [
        pytest.param(ints([], [7]), "[]", id="no rows at all"),
        pytest.param(ints([1], [7]), "[1]", id="one for all"),
        pytest.param(ints([4], [7] * 4), "[4]", id="more than were fed"),
    ],
)
def test_outputs_without_a_row_for_each_row_are_refused(
    output: Tensor, shape: str
) -> None:
    feeds = [ints([1], [1]), ints([1], [2])]

    with pytest.raises(ServingError) as caught:
        answers(RowBatcher(), feeds, run=lambda _: output)

    assert caught.value.message == (
        f"Output y has shape {shape}; a row for each of 2 was expected"
    )


def test_who_is_alone_gets_whatever_comes() -> None:
    got, _ = answers(RowBatcher(), [ints([2], [1, 2])], run=lambda _: ints([], [7]))

    assert got == [((), [7])]


class LeavesOut(RowBatcher):
    def group(self, requests: Sequence[Request]) -> Sequence[Sequence[Request]]:
        return [requests[1:]]


class Doubles(RowBatcher):
    def group(self, requests: Sequence[Request]) -> Sequence[Sequence[Request]]:
        return [requests, requests[:1]]


class Invents(RowBatcher):
    def group(self, requests: Sequence[Request]) -> Sequence[Sequence[Request]]:
        return [[*requests, Request("s", 1, {})]]


class Raises(RowBatcher):
    def pad(self, batch: Batch) -> Arrays:
        raise ZeroDivisionError("by " + str(batch.rows))


class Refuses(RowBatcher):
    def split(self, batch: Batch, outputs: Arrays) -> Sequence[Arrays]:
        raise NotFound(f"nothing for {', '.join(outputs)} of {batch.rows}")


@pytest.mark.parametrize(
    ("batcher", "error", "text"),
    [
        pytest.param(
            LeavesOut(),
            Internal,
            "The batcher mine has not put each request into one group",
            id="leaves out a request",
        ),
        pytest.param(
            Doubles(),
            Internal,
            "The batcher mine has not put each request into one group",
            id="groups a request twice",
        ),
        pytest.param(
            Invents(),
            Internal,
            "The batcher mine failed to group: KeyError: ",
            id="makes up a request",
        ),
        pytest.param(
            Raises(),
            Internal,
            "The batcher mine failed to pad: ZeroDivisionError: by 2",
            id="raises",
        ),
        pytest.param(
            Refuses(), NotFound, "nothing for y of 2", id="raises with a code"
        ),
    ],
)
def test_what_it_does_wrong_is_told_to_its_requests(
    batcher: Batcher, error: type[ServingError], text: str
) -> None:
    with pytest.raises(error) as caught:
        answers(batcher, [ints([1], [1]), ints([1], [2])])

    assert caught.value.message.startswith(text)


@pytest.mark.parametrize(
    "batcher",
    [
        pytest.param(Raises(), id="an exception"),
        pytest.param(LeavesOut(), id="a request that is left out"),
    ],
)
def test_the_log_has_each_kind_of_mistake_once(
    batcher: Batcher, caplog: pytest.LogCaptureFixture
) -> None:
    hosted = HostedBatcher("mine", batcher)
    requests = [(1, {"x": ints([1], [1])}), (1, {"x": ints([1], [2])})]

    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            with pytest.raises(Internal):
                hosted.group("s", requests)[0][1].pad(2)

    (record,) = caplog.records
    assert record.message.startswith("The batcher mine ")
