"""What control groups say of memory."""

from pathlib import Path

import pytest

from servable.config.container import memory_limit_bytes

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

    assert memory_limit_bytes(tmp_path) == expected


def test_a_system_without_groups_has_no_limit(tmp_path: Path) -> None:
    assert memory_limit_bytes(tmp_path) is None
