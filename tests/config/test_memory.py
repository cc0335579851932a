"""What the machine and control groups say of memory, and what is made of it."""

from pathlib import Path

import pytest

from servable.config.memory import (
    container_limit_bytes,
    memory_bytes,
    usual_in_flight_bytes,
)

V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        pytest.param("0::/\n", {f"{V2}/memory.max": "1000\n"}, 1000, id="a container"),
        pytest.param("0::/\n", {f"{V2}/memory.max": "max\n"}, None, id="no limit"),
        pytest.param(
            "0::/a/b\n",
            {f"{V2}/a/b/memory.max": "max", f"{V2}/a/memory.max": "70"},
            70,
            id="a limit of a group above",
        ),
        pytest.param(
            "4:cpu,memory:/a\n0::/\n",
            {f"{V1}/a/memory.limit_in_bytes": "500"},
            500,
            id="version 1",
        ),
        pytest.param(
            "4:memory:/\n",
            {f"{V1}/memory.limit_in_bytes": "9223372036854771712"},
            None,
            id="no limit in version 1",
        ),
        pytest.param("", {}, None, id="no groups"),
        pytest.param("nonsense\n", {}, None, id="nothing that is known"),
    ],
)
def test_the_least_limit_counts(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int | None
) -> None:
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert container_limit_bytes(tmp_path) == expected


def test_a_system_without_groups_has_no_limit(tmp_path: Path) -> None:
    assert container_limit_bytes(tmp_path) is None


@pytest.mark.parametrize(
    ("limit", "machine", "expected"),
    [
        pytest.param(
            "max", "MemTotal:       16 kB\nMemFree: 1 kB\n", 16384, id="no limit"
        ),
        pytest.param("1000", "MemTotal:       16 kB\n", 1000, id="less than is there"),
        pytest.param(
            "99999", "MemTotal:       16 kB\n", 16384, id="more than there is"
        ),
        pytest.param("1000", "", 1000, id="a machine that does not say"),
        pytest.param("max", "MemFree: 1 kB\n", None, id="nobody says anything"),
    ],
)
def test_memory_is_the_machines_or_the_containers(
    tmp_path: Path, limit: str, machine: str, expected: int | None
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a\n")
    (tmp_path / "proc/meminfo").write_text(machine)
    (tmp_path / V2 / "a").mkdir(parents=True)
    (tmp_path / V2 / "a/memory.max").write_text(limit)

    assert memory_bytes(tmp_path) == expected


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        pytest.param(1 << 30, 256 << 20, id="a quarter of a small machine"),
        pytest.param(1 << 40, 2 << 30, id="two gibibytes of a large one"),
        pytest.param(None, 2 << 30, id="two gibibytes of one that does not say"),
    ],
)
def test_what_requests_may_hold_follows_from_memory(
    memory: int | None, expected: int
) -> None:
    assert usual_in_flight_bytes(memory) == expected
