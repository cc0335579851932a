"""
Threads for work that may block, and may never come back.

A job that has run for too long no longer counts: another thread takes its place,
so that one hung file system or request holds up only itself.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

_log = logging.getLogger(__name__)


class Pool(Protocol):
    """Where the manager has its blocking calls made."""

    def submit(self, job: Callable[[], None]) -> None:
        """Have *job* run on another thread; never blocks."""

    def relieve(self, now: float) -> float | None:
        """
        Replace the threads of jobs that have run for too long.

        Returns when to ask again, None when there are no jobs.
        """

    def close(self) -> None:
        """Run no more jobs; those that run are left alone."""


class WorkerPool:
    """
    A pool of daemon threads that start when needed; thread-safe.

    Args:
        name: of the threads.
        size: how many jobs run at a time, not counting those that run too long.
        stall_s: after how many seconds a job runs too long.
        clock: what `relieve` is given the time of.
    """

    def __init__(
        self,
        name: str,
        size: int,
        stall_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._size = size
        self._stall_s = stall_s
        self._clock = clock
        self._work = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._started_at: dict[threading.Thread, float | None] = {}  # None: idle
        self._stalled: set[threading.Thread] = set()
        self._is_closed = False

    def submit(self, job: Callable[[], None]) -> None:
        """Have *job* run when a thread is free; its exceptions are logged."""
        with self._work:
            if self._is_closed:
                return
            self._jobs.append(job)
            self._start_threads()
            self._work.notify()

    def resize(self, size: int) -> None:
        """Run *size* jobs at a time from now on; surplus ones run to their end."""
        with self._work:
            self._size = size
            self._start_threads()
            self._work.notify_all()

    def relieve(self, now: float) -> float | None:
        """Replace stalled threads; see Pool."""
        with self._work:
            running = {
                thread: started_at
                for thread, started_at in self._started_at.items()
                if started_at is not None and thread not in self._stalled
            }
            for thread, started_at in list(running.items()):
                if now - started_at >= self._stall_s:
                    self._stalled.add(thread)
                    del running[thread]
            self._start_threads()
            self._work.notify_all()
            waiting = [now] if self._jobs else []
            since = min([*running.values(), *waiting], default=None)
            return None if since is None else since + self._stall_s

    def close(self) -> None:
        """Run no more jobs; those that run are left alone."""
        with self._work:
            self._is_closed = True
            self._jobs.clear()
            self._work.notify_all()

    def _start_threads(self) -> None:
        idle = sum(started_at is None for started_at in self._started_at.values())
        room = self._size - (len(self._started_at) - len(self._stalled))
        for _ in range(min(len(self._jobs) - idle, room)):
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._started_at[thread] = None
            thread.start()

    def _run(self) -> None:
        this = threading.current_thread()
        while (job := self._next_job(this)) is not None:
            try:
                job()
            except BaseException:  # noqa: BLE001 - or the thread would be gone
                _log.exception("A job of the pool %s failed", self._name)
            del job  # or its servable would live until the next one comes

    def _next_job(self, this: threading.Thread) -> Callable[[], None] | None:
        with self._work:
            self._started_at[this] = None
            self._stalled.discard(this)
            while not self._jobs and not self._is_surplus():
                self._work.wait()
            if self._is_surplus():
                del self._started_at[this]
                return None
            self._started_at[this] = self._clock()
            return self._jobs.popleft()

    def _is_surplus(self) -> bool:
        counted = len(self._started_at) - len(self._stalled)
        return self._is_closed or counted > self._size

    def __repr__(self) -> str:
        with self._work:
            running = sum(at is not None for at in self._started_at.values())
            return (
                f"<WorkerPool {self._name} {running} running of {self._size}, "
                f"{len(self._stalled)} stalled, {len(self._jobs)} waiting>"
            )
