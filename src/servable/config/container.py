"""
How much memory the container of this process may take, as its control groups say.

Both versions of control groups are known.  A group is limited by those above it, too.
"""

from pathlib import Path, PurePosixPath
from typing import Final

# Groups of version 1 that have no limit say a number near the largest there is.
_UNLIMITED: Final = 1 << 60


def memory_limit_bytes(root: Path = Path("/")) -> int | None:
    """
    Return the least limit that concerns this process, None for none.

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
