"""A server in a control group with little memory, and versions that take it."""

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")
pytest.importorskip("tensorflow", reason="needs TensorFlow")

import tensorflow as tf

from servable.client import Client
from servable.errors import ServingError

pytestmark = pytest.mark.tensorflow

GROUPS = {
    Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes",
    Path("/sys/fs/cgroup"): "memory.max",
}
MEMORY = 1 << 30
# By its files a version needs 1.2 times as much; both fit once and not twice.
WEIGHT = 480 << 20


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a control group that may have MEMORY."""
    for top, name in GROUPS.items():
        made = top / f"servable-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            made.mkdir()
            try:
                (made / name).write_text(str(MEMORY))
                yield made
            finally:
                made.rmdir()
            return
    pytest.skip("needs leave to make a control group")


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Write versions 1 and 2 of x plus their number, with variables of WEIGHT bytes."""
    directory = tmp_path_factory.mktemp("heavy")
    model = tf.Module()
    model.weight = tf.Variable(tf.zeros(WEIGHT // 4))
    for version in (1, 2):

        def plus(x: Any, number: float = float(version)) -> Any:
            return {"y": x + number + model.weight[0]}

        spec = tf.TensorSpec([None], tf.float32, name="x")
        signature = tf.function(plus, input_signature=[spec])
        tf.saved_model.save(model, str(directory / str(version)), signatures=signature)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def serve(
    start: Callable[..., Any], group: Path, heavy: Path, tmp_path: Path
) -> Callable[[str], Any]:
    """Return what serves version 1 inside of the group, with a flag."""

    def serve(flag: str) -> Any:
        (tmp_path / "m").mkdir()
        shutil.copytree(heavy / "1", tmp_path / "m" / "1", copy_function=os.link)
        enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        return start(
            *(flag, str(tmp_path / "m")),
            within=("sh", "-c", enter, "sh"),
            opened="Successfully loaded",
        )

    return serve


def publish(heavy: Path, base: Path) -> None:
    """Add version 2, at once."""
    beside = base.parent / "2.tmp"
    shutil.copytree(heavy / "2", beside, copy_function=os.link)
    beside.rename(base / "2")


def states(client: Client) -> dict[int, tuple[str, str]]:
    return {s.version: (s.state, s.code.name) for s in client.status("m")}


def end(server: Any) -> None:
    """Have it end before its group goes."""
    server.process.kill()
    server.process.wait()


REFUSED = {1: ("AVAILABLE", "OK"), 2: ("END", "RESOURCE_EXHAUSTED")}
SWAPPED = {1: ("END", "OK"), 2: ("AVAILABLE", "OK")}


def test_a_version_that_does_not_fit_into_the_container_is_refused(
    serve: Callable[[str], Any],
    wait_until: Callable[[Callable[[], bool], str], None],
    heavy: Path,
    tmp_path: Path,
) -> None:
    server = serve("--model_options=aspired_version_policy: 'availability_preserving'")
    is_over = threading.Event()
    answers: list[float] = []
    failures: list[ServingError] = []

    def ask() -> None:
        with Client(server.grpc, attempts=1) as client:
            while not is_over.is_set():
                try:
                    answers.extend(client.predict("m", [1.0])["y"].tolist())
                except ServingError as error:
                    failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with Client(server.grpc, attempts=1) as client:
            publish(heavy, tmp_path / "m")
            wait_until(lambda: states(client) == REFUSED, f"states {REFUSED}")
    finally:
        is_over.set()
        asking.join()
        end(server)

    assert failures == []
    assert set(answers) == {2.0}


def test_a_version_takes_the_place_of_the_one_before_where_that_is_wanted(
    serve: Callable[[str], Any],
    wait_until: Callable[[Callable[[], bool], str], None],
    heavy: Path,
    tmp_path: Path,
) -> None:
    server = serve("--model_options=aspired_version_policy: 'resource_preserving'")
    try:
        with Client(server.grpc, attempts=1) as client:
            publish(heavy, tmp_path / "m")
            wait_until(lambda: states(client) == SWAPPED, f"states {SWAPPED}")
            assert client.predict("m", [1.0])["y"].tolist() == [3.0]
    finally:
        end(server)


def test_the_container_ends_who_takes_memory_for_both(
    serve: Callable[[str], Any], heavy: Path, tmp_path: Path
) -> None:
    server = serve(f"--max_model_memory_bytes={1 << 40}")
    publish(heavy, tmp_path / "m")

    # So the others were refused, or swapped, for a reason.
    assert server.process.wait(60) == -signal.SIGKILL
