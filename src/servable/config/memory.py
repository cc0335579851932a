"""
How much memory this process may take, as the machine and its control groups say.

Both versions of control groups are known.  A group is limited by those above it, too.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Final

MOST_IN_FLIGHT_BYTES: Final = 2 << 30

# Groups of version 1 that have no limit say a number near the largest there is.
_UNLIMITED: Final = 1 << 60


def usual_in_flight_bytes(memory_bytes: int | None) -> int:
    """Return what requests in flight may hold together where nobody has said so."""
    if memory_bytes is None:
        return MOST_IN_FLIGHT_BYTES
    return min(memory_bytes // 4, MOST_IN_FLIGHT_BYTES)


def memory_bytes(root: Path = Path("/")) -> int | None:
    """
    Return what the machine has, or the container where that is less; None if unknown.

    Args:
        root: of the file system, for tests.
    """
    known = (_machine_bytes(root), container_limit_bytes(root))
    return min((number for number in known if number is not None), default=None)


def _machine_bytes(root: Path) -> int | None:
    try:
        text = (root / "proc/meminfo").read_text()
    except OSError:
        return None
    found = re.search(r"^MemTotal:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def container_limit_bytes(root: Path = Path("/")) -> int | None:
    """
    Return the least limit of a control group that concerns this process, None for none.

    Args:
        root: of the file system, for tests.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    limits: list[int] = []
    for group in groups:
        _, controllers, path = (*group.split(":", 2), "", "")[:3]
        if controllers == "":
            limits += _limits(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            limits += _limits(top, path, "memory.limit_in_bytes")
    return min(limits, default=None)


def _limits(top: Path, group: str, name: str) -> list[int]:
    """Return the limits of *group* and of all above it."""
    limits = []
    inside = PurePosixPath(group.lstrip("/"))
    for each in (inside, *inside.parents):
        try:
            text = (top / each / name).read_text().strip()
        except OSError:
            continue  # in a container, groups above ours are not to be seen
        if text.isdecimal() and int(text) < _UNLIMITED:
            limits.append(int(text))
    return limits
