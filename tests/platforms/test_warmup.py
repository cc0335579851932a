"""Warm-up: which requests are replayed, and what fails a load."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servable.apis import prediction_log_pb2
from servable.errors import (
    DataLoss,
    InvalidArgument,
    NotFound,
    ServingError,
    Unimplemented,
)
from servable.platforms import warmup
from servable.platforms.tfrecord import frame
from servable.platforms.warmup import ModelWarmup

WAIT_S = 30.0


class FakeEngine:
    def __init__(self) -> None:
        self.warmups: list[tuple[str, str, int]] = []

    def record_warmup(
        self, path: str, status: str, records: int, latency_s: float
    ) -> None:
        assert latency_s >= 0.0
        self.warmups.append((path, status, records))


class FakeServable:
    def __init__(self, answer: Callable[[bytes], bytes] = bytes) -> None:
        self.replayed: list[tuple[int, bytes]] = []
        self.in_all_sizes: list[bool] = []
        self._answer = answer

    def replay(
        self,
        log_type: int,
        request: bytes,
        engine: object = None,
        all_batch_sizes: bool = False,
    ) -> bytes:
        assert isinstance(engine, FakeEngine)
        self.replayed.append((log_type, request))
        self.in_all_sizes.append(all_batch_sizes)
        return self._answer(request)


def log(kind: str, name: str = "m") -> prediction_log_pb2.PredictionLog:
    made = prediction_log_pb2.PredictionLog()
    request = getattr(made, kind).request
    if kind == "multi_inference_log":
        request.tasks.add().model_spec.name = name
    elif kind == "predict_streamed_log":
        request.add().model_spec.name = name
    else:
        request.model_spec.name = name
    return made


def version(path: Path, records: Sequence[bytes]) -> str:
    file = path / warmup.FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(map(frame, records)))
    return str(path)


def logs(*names: str) -> list[bytes]:
    return [log("predict_log", name).SerializeToString() for name in names]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("classify_log", 2),
        ("regress_log", 3),
        ("multi_inference_log", 4),
        ("predict_log", 6),
    ],
)
def test_requests_are_replayed_as_what_they_were(
    kind: str, number: int, engine: FakeEngine, tmp_path: Path
) -> None:
    servable = FakeServable()
    made = log(kind)

    path = version(tmp_path, [made.SerializeToString()])
    ModelWarmup(engine).run(path, servable)

    request = getattr(made, kind).request
    assert servable.replayed == [(number, request.SerializeToString())]
    assert engine.warmups == [(path, "OK", 1)]


@pytest.mark.parametrize("all_batch_sizes", [False, True])
def test_all_sizes_of_batches_are_warmed_up_where_that_is_asked_for(
    engine: FakeEngine, tmp_path: Path, *, all_batch_sizes: bool
) -> None:
    servable = FakeServable()

    path = version(tmp_path, logs("a"))
    ModelWarmup(engine, all_batch_sizes=all_batch_sizes).run(path, servable)

    assert servable.in_all_sizes == [all_batch_sizes]


def test_requests_are_replayed_in_their_order_each_as_often_as_asked(
    engine: FakeEngine, tmp_path: Path
) -> None:
    servable = FakeServable()

    path = version(tmp_path, logs("a", "b"))
    ModelWarmup(engine, num_request_iterations=2).run(path, servable)

    replayed = [request for _, request in servable.replayed]
    a, b = (log("predict_log", name).predict_log.request for name in "ab")
    assert replayed == [r.SerializeToString() for r in (a, a, b, b)]
    assert engine.warmups == [(path, "OK", 2)]


def test_threads_replay_at_the_same_time(engine: FakeEngine, tmp_path: Path) -> None:
    together = threading.Barrier(3)

    def meet(_: bytes) -> bytes:
        together.wait(WAIT_S)
        return b""

    path = version(tmp_path, logs("a", "b", "c"))
    ModelWarmup(engine, num_threads=3).run(path, FakeServable(meet))

    assert engine.warmups == [(path, "OK", 3)]


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_request_that_fails_fails_the_warm_up(
    num_threads: int, engine: FakeEngine, tmp_path: Path
) -> None:
    def fail(request: bytes) -> bytes:
        raise NotFound(f"no {request.decode()[-1]}")

    path = version(tmp_path, logs("a"))
    with pytest.raises(NotFound, match=r"^no a$"):
        ModelWarmup(engine, num_threads=num_threads).run(path, FakeServable(fail))

    assert engine.warmups == [(path, "NOT_FOUND: no a", 1)]


def test_a_model_without_requests_is_not_warmed_up(
    engine: FakeEngine, tmp_path: Path
) -> None:
    ModelWarmup(engine).run(str(tmp_path), FakeServable())

    assert engine.warmups == []


def test_records_that_hold_nothing_are_passed_over(
    engine: FakeEngine, tmp_path: Path
) -> None:
    servable = FakeServable()

    path = version(tmp_path, [b""] * 1000)
    ModelWarmup(engine).run(path, servable)

    assert servable.replayed == []
    assert engine.warmups == [(path, "OK", 1000)]


@pytest.mark.parametrize(
    ("records", "error", "text"),
    [
        pytest.param(
            [b""] * 1001,
            InvalidArgument,
            "Number of warmup records exceeds the maximum (1000) at {file}",
            id="too many records",
        ),
        pytest.param(
            [b"\xff junk"],
            InvalidArgument,
            "Failed to parse warmup record: \\xff junk from {file}",
            id="no message",
        ),
        pytest.param(
            [log("session_run_log").SerializeToString()],
            Unimplemented,
            "Unsupported log_type for warmup: 5",
            id="a run of a session",
        ),
        pytest.param(
            [log("predict_streamed_log").SerializeToString()],
            Unimplemented,
            "Unsupported log_type for warmup: 7",
            id="a stream",
        ),
    ],
)
def test_what_is_refused(
    records: list[bytes],
    error: type[ServingError],
    text: str,
    engine: FakeEngine,
    tmp_path: Path,
) -> None:
    path = version(tmp_path, records)

    with pytest.raises(error) as caught:
        ModelWarmup(engine).run(path, FakeServable())

    assert caught.value.message == text.format(file=tmp_path / warmup.FILE)


def test_a_file_of_something_else_is_data_loss(
    engine: FakeEngine, tmp_path: Path
) -> None:
    path = version(tmp_path, [])
    (tmp_path / warmup.FILE).write_bytes(b"hello, hello")

    with pytest.raises(DataLoss) as caught:
        ModelWarmup(engine).run(path, FakeServable())

    assert caught.value.message == (
        "corrupted record at 0 (Is this even a TFRecord file?). Please verify your "
        "warmup data is in TFRecord format."
    )


@given(st.lists(st.binary(max_size=60), max_size=3))
def test_any_records_are_replayed_or_refused(records: list[bytes]) -> None:
    kinds = set()
    for record in records:
        try:
            found = warmup._request(record, "file")
        except (InvalidArgument, Unimplemented):
            continue
        if found is not None:
            kinds.add(found[0])

    assert kinds <= {2, 3, 4, 6}
