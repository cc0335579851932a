"""
Whether a directory looks the same as before.

Whoever copies a version into place does not say when it is complete.  What can be
seen is that files appear and grow, and then do not: a signature tells the two
apart without reading a file.
"""

import os
import stat
from dataclasses import dataclass
from typing import TypeAlias

Signature: TypeAlias = frozenset[tuple[str | int, ...]]
"""
Of every entry: its relative name, size in bytes, time of the last change in ns, and who
may read it, by mode, user and group.
"""

# A version with more entries than this is compared by its first ones.
MAX_ENTRIES = 10_000


def directory_signature(path: str) -> Signature:
    """
    Return the signature of what is under *path*; symbolic links are followed.

    What cannot be read counts as empty: it is one more thing that may change.
    Blocks on the file system.
    """
    entries: set[tuple[str | int, ...]] = set()
    seen: set[tuple[int, int]] = set()
    stack = [""]
    while stack and len(entries) < MAX_ENTRIES:
        name = stack.pop()
        full = os.path.join(path, name) if name else path
        try:
            status = os.stat(full)
            children = sorted(os.listdir(full)) if _is_new(status, seen) else []
        except OSError:
            entries.add((name,))
            continue
        readers = (status.st_mode, status.st_uid, status.st_gid)
        entries.add((name, status.st_size, status.st_mtime_ns, *readers))
        stack.extend(os.path.join(name, child) for child in children)
    return frozenset(entries)


def _is_new(status: os.stat_result, seen: set[tuple[int, int]]) -> bool:
    key = (status.st_dev, status.st_ino)
    if not stat.S_ISDIR(status.st_mode) or key in seen:
        return False
    seen.add(key)
    return True


@dataclass(frozen=True, slots=True)
class Attempt:
    """
    Which content of a version was last aspired, and what is there now.

    Attributes:
        aspired: the signature when it was aspired.
        seen: the signature at the last look.
    """

    aspired: Signature
    seen: Signature

    def look(self, signature: Signature) -> "Attempt":
        """
        Return this attempt after a look that found *signature*.

        Other content is aspired when two looks in a row have found it: by then
        nobody is writing it any more.
        """
        is_stable = signature == self.seen
        return Attempt(signature if is_stable else self.aspired, signature)
