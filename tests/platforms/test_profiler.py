"""A profile is taken, handed over, and leaves nothing behind."""

from pathlib import Path

import pytest

from servable.errors import Code, FailedPrecondition
from servable.platforms.profiler import Profiler, open_session


class FakeSession:
    """Writes what TensorFlow's would, or fails."""

    def __init__(self, problem: Exception | None = None, content: bytes = b"x") -> None:
        self.problem = problem
        self.content = content
        self.levels: dict[str, int] = {}
        self.logdir = Path()

    def start(self, logdir: str, options: dict[str, int]) -> None:
        self.logdir = Path(logdir)
        self.levels = options

    def export_to_tb(self) -> None:
        if self.problem:
            raise self.problem
        run = self.logdir / "plugins" / "profile" / "run"
        run.mkdir(parents=True)
        (run / "host.xplane.pb").write_bytes(self.content)


def test_a_profile_is_handed_over_and_leaves_nothing_behind() -> None:
    session = FakeSession()
    profiler = Profiler(lambda: session)

    assert profiler.start(3, 1, 0) == (Code.OK, "")
    assert session.levels == {
        "host_tracer_level": 3,
        "device_tracer_level": 1,
        "python_tracer_level": 0,
    }
    assert profiler.stop() == (Code.OK, "", b"x")
    assert not session.logdir.exists()


def test_a_profile_that_fails_is_told_of_and_the_next_one_is_taken() -> None:
    sessions = [FakeSession(RuntimeError("no"), b""), FakeSession()]
    made = iter(sessions)
    profiler = Profiler(lambda: next(made))

    assert profiler.start(2, 1, 0) == (Code.OK, "")
    assert profiler.stop() == (Code.INTERNAL, "no", b"")
    assert not sessions[0].logdir.exists()
    assert profiler.start(2, 1, 0) == (Code.OK, "")
    assert profiler.stop()[2] == b"x"


def test_what_was_not_begun_is_not_ended() -> None:
    assert Profiler(FakeSession).stop()[0] == Code.FAILED_PRECONDITION


def test_a_tensorflow_without_a_profiler_is_told_of(tmp_path: Path) -> None:
    def new_session() -> FakeSession:
        open_session(tmp_path)
        return FakeSession()

    with pytest.raises(FailedPrecondition):
        open_session(tmp_path)
    refused = Profiler(new_session).start(2, 1, 0)
    assert refused == (Code.FAILED_PRECONDITION, "This TensorFlow has no profiler")
