"""Making what was written durable, before it gets the name under which it is seen."""

import os
from pathlib import Path


def sync_tree(path: str | os.PathLike[str]) -> None:
    """
    Have all files and directories under *path* written to disk; blocks until then.

    Paths that are no local directory (object stores) are left alone.
    """
    root = Path(path)
    if not root.is_dir():
        return
    for directory, _, names in os.walk(root):
        for name in (*names, "."):
            sync(os.path.join(directory, name))  # noqa: PTH118 - "." must stay


def sync(path: str | os.PathLike[str]) -> None:
    """Have one file or directory written to disk; blocks until then."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
