"""A server in a control group with little memory."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("servable._engine", reason="the engine is not built")

from servable.client import Client

GROUPS = {
    Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes",
    Path("/sys/fs/cgroup"): "memory.max",
}
MEMORY = 1 << 30
# By its files a version needs 1.2 times as much, which fits once and not twice.
FILE = 400 << 20


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


def add_weight(version: Path) -> None:
    """Have a version seem as large as it says, at no cost."""
    (version / "weight").touch()
    os.truncate(version / "weight", FILE)


@pytest.mark.parametrize(
    ("policy", "states"),
    [
        pytest.param(
            "availability_preserving",
            {1: ("AVAILABLE", "OK"), 2: ("END", "RESOURCE_EXHAUSTED")},
            id="refused",
        ),
        pytest.param(
            "resource_preserving",
            {1: ("END", "OK"), 2: ("AVAILABLE", "OK")},
            id="swapped where that is wanted",
        ),
    ],
)
def test_a_version_that_does_not_fit_into_the_container_is_refused(
    start: Callable[..., Any],
    write_version: Callable[..., Path],
    wait_until: Callable[[Callable[[], bool], str], None],
    tmp_path: Path,
    group: Path,
    policy: str,
    states: dict[int, tuple[str, str]],
) -> None:
    base = tmp_path / "models" / "m"
    add_weight(write_version(base / "1"))
    enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
    server = start(
        f"--model_options=aspired_version_policy: '{policy}'",
        str(base),
        within=("sh", "-c", enter, "sh"),
        opened="Successfully loaded",
    )
    version = write_version(tmp_path / "elsewhere" / "2", two=5.0)
    add_weight(version)
    version.rename(base / "2")
    with Client(server.grpc, attempts=1) as client:

        def found() -> dict[int, tuple[str, str]]:
            return {s.version: (s.state, s.code.name) for s in client.status("m")}

        wait_until(lambda: found() == states, f"states {states}")
        answer = client.predict("m", [2.0])["y"].tolist()
    server.process.kill()
    server.process.wait()

    assert answer == ([3.0] if states[1][0] == "AVAILABLE" else [6.0])
