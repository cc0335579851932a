"""Threads for work that may never come back."""

import threading

import pytest

from servable.core.worker_pool import WorkerPool
from servable.testing import FakeClock

TIMEOUT_S = 30


class Gate:
    """A job that says when it has begun, and ends when it may."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self) -> None:
        self.thread = threading.current_thread()
        self.begun.set()
        self.may_end.wait(TIMEOUT_S)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_as_many_jobs_run_at_a_time_as_there_are_places(clock: FakeClock) -> None:
    pool = WorkerPool("test", 2, stall_s=10, clock=clock)
    gates = [Gate() for _ in range(3)]
    for gate in gates:
        pool.submit(gate)
    for gate in gates[:2]:
        assert gate.begun.wait(TIMEOUT_S)

    third_began_early = gates[2].begun.is_set()
    gates[0].may_end.set()

    assert not third_began_early
    assert gates[2].begun.wait(TIMEOUT_S)
    for gate in gates:
        gate.may_end.set()


def test_a_stalled_job_gives_its_place_to_another(clock: FakeClock) -> None:
    pool = WorkerPool("test", 1, stall_s=10, clock=clock)
    hung, next_one = Gate(), Gate()
    pool.submit(hung)
    assert hung.begun.wait(TIMEOUT_S)
    pool.submit(next_one)

    ask_again_at = pool.relieve(now=9.9)
    began_early = next_one.begun.is_set()
    pool.relieve(now=10)

    assert (ask_again_at, began_early) == (10, False)
    assert next_one.begun.wait(TIMEOUT_S)
    hung.may_end.set()
    next_one.may_end.set()


def test_a_job_that_nobody_has_begun_is_a_reason_to_ask_again(
    clock: FakeClock,
) -> None:
    pool = WorkerPool("test", 0, stall_s=10, clock=clock)
    pool.submit(lambda: None)

    assert pool.relieve(now=5) == 15


def test_without_jobs_there_is_nothing_to_ask_for(clock: FakeClock) -> None:
    assert WorkerPool("test", 1, stall_s=10, clock=clock).relieve(now=0) is None


def test_a_stalled_thread_leaves_when_it_comes_back(clock: FakeClock) -> None:
    pool = WorkerPool("test", 1, stall_s=10, clock=clock)
    hung, next_one = Gate(), Gate()
    pool.submit(hung)
    assert hung.begun.wait(TIMEOUT_S)
    pool.submit(next_one)
    pool.relieve(now=10)
    assert next_one.begun.wait(TIMEOUT_S)
    assert hung.thread is not None

    hung.may_end.set()
    hung.thread.join(TIMEOUT_S)

    assert not hung.thread.is_alive()
    next_one.may_end.set()


@pytest.mark.parametrize("failure", [RuntimeError("x"), SystemExit(1)], ids=repr)
def test_a_job_that_fails_costs_no_thread(
    clock: FakeClock, failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    pool = WorkerPool("test", 1, stall_s=10, clock=clock)
    done = threading.Event()

    def fail() -> None:
        raise failure

    pool.submit(fail)
    pool.submit(done.set)

    assert done.wait(TIMEOUT_S)
    assert "A job of the pool test failed" in caplog.text


def test_a_smaller_pool_lets_threads_go(clock: FakeClock) -> None:
    pool = WorkerPool("test", 3, stall_s=10, clock=clock)
    gates = [Gate() for _ in range(3)]
    for gate in gates:
        pool.submit(gate)
    for gate in gates:
        assert gate.begun.wait(TIMEOUT_S)
    pool.resize(1)
    threads = [gate.thread for gate in gates if gate.thread]
    for gate in gates[:2]:
        gate.may_end.set()
    for thread in threads[:2]:
        thread.join(TIMEOUT_S)

    alive = [thread.is_alive() for thread in threads]
    gates[2].may_end.set()

    assert alive == [False, False, True]


def test_a_closed_pool_runs_nothing_more(clock: FakeClock) -> None:
    pool = WorkerPool("test", 1, stall_s=10, clock=clock)
    gate, never = Gate(), threading.Event()
    pool.submit(gate)
    assert gate.begun.wait(TIMEOUT_S)
    pool.submit(never.set)
    assert gate.thread is not None

    pool.close()
    pool.submit(never.set)
    gate.may_end.set()
    gate.thread.join(TIMEOUT_S)

    assert not never.is_set()
