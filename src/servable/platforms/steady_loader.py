"""
Loads whose files must stay as they are.

A version that is still being copied can look complete: a vocabulary of which half is
there is a vocabulary.  Whoever copies it changes it, and that is seen here; the Source
aspires it again when its files have come to rest.
"""

import os
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from servable.core.loader import Loader
from servable.errors import Unavailable
from servable.platforms.loader_around import LoaderAround

_Files: TypeAlias = Mapping[str, tuple[int, int]]

# A version with more files than this is compared by the first ones.
_MAX_FILES: Final = 10_000
# Python writes it beside what it imports.
_COMPILED: Final = "__pycache__"


class SteadyLoader(LoaderAround):
    """
    A Loader that fails when the files at a path change while it loads; see Loader.

    Args:
        new_loader: makes what does everything; again after a load that was in vain.
        path: a version directory, or what stands for one.
    """

    def __init__(self, new_loader: Callable[[], Loader], path: str) -> None:
        super().__init__(new_loader())
        self._new_loader = new_loader
        self._path = path

    def load(self) -> None:
        """
        Load.

        Raises:
            Unavailable: The files have changed meanwhile.
            ServingError: The loader fails.
        """
        before = _files_below(self._path)
        self._loader.load()
        if _files_below(self._path) != before:
            self._loader.unload()
            self._loader = self._new_loader()
            raise Unavailable(f"The files at {self._path} changed while they were read")


def _files_below(path: str) -> _Files:
    """Return size and time of the last change of each file, links followed."""
    files: dict[str, tuple[int, int]] = {}
    seen: set[str] = set()
    for parent, directories, names in os.walk(path, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen or len(files) >= _MAX_FILES:
            directories.clear()  # a link may lead back up
            continue
        seen.add(real)
        directories[:] = [name for name in directories if name != _COMPILED]
        for name in names:
            full = os.path.join(parent, name)
            try:
                status = os.stat(full)
                files[full] = status.st_size, status.st_mtime_ns
            except OSError:
                files[full] = -1, -1
    return files
