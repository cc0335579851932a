"""
Model roots: the only places that models may come from, where an operator names some.

Whoever may change the configuration of a server may have it open any file that it can
read.  Roots bound that: base paths are compared as they are written, and local
versions once more as they are, with every link to them and in them followed.
"""

import os
import posixpath
from collections.abc import Iterator, Sequence

from servable.errors import PermissionDenied
from servable.sources.urls import redacted, scheme_of


def check_base_path(base_path: str, roots: Sequence[str]) -> None:
    """
    Check that *base_path* is one of *roots* or below one; no roots allow everything.

    Touches no file system.

    Raises:
        PermissionDenied: It is not, or it has a part `..`.
    """
    if not roots:
        return
    if ".." in base_path.split("?")[0].split("/"):
        raise PermissionDenied(
            f"Base path {redacted(base_path)} has a part `..`, and where there are "
            "--model_roots it may not"
        )
    if not any(_is_below(base_path, root) for root in roots):
        raise PermissionDenied(
            f"Base path {redacted(base_path)} is not below one of --model_roots"
        )


def leads_out(path: str, roots: Sequence[str]) -> bool:
    """
    Return whether local *path*, or a link in it, leads to what is below no root.

    Blocks.
    """
    if not roots:
        return False
    local = [os.path.realpath(root) for root in roots if scheme_of(root) == "file"]
    return not all(
        any(_is_below(real, root) for root in local) for real in _real_paths(path)
    )


def _real_paths(path: str) -> Iterator[str]:
    """Yield where *path* leads, and where all links and directories in it lead."""
    waiting, seen = [os.path.realpath(path)], set[str]()
    while waiting:
        real = waiting.pop()
        if real in seen:
            continue
        seen.add(real)
        yield real
        try:
            with os.scandir(real) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        waiting.append(os.path.realpath(entry.path))
                    elif entry.is_dir():
                        waiting.append(entry.path)
        except OSError:  # a file, gone, or nothing that we may read
            continue


def _is_below(path: str, root: str) -> bool:
    if scheme_of(path) != scheme_of(root):
        return False
    if scheme_of(path) == "file":
        path, root = posixpath.normpath(path), posixpath.normpath(root)
    root = root.rstrip("/")
    return path == root or path.startswith(f"{root}/")
