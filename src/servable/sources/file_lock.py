"""Locks between processes on one machine, as files that vanish with nobody's help."""

import contextlib
import fcntl
import os


class FileLock:
    """
    A lock by the name of a file; held until `release`, or until the process ends.

    Not thread-safe; two objects exclude each other, in one process or in several.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = -1

    def try_acquire(self, *, shared: bool = False) -> bool:
        """
        Take the lock if it is free; return whether it was.

        One that is *shared* is free as long as nobody has it for oneself.
        """
        mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, mode | fcntl.LOCK_NB)
                is_current = self._is_current(file)
            except BlockingIOError:
                os.close(file)
                return False
            except BaseException:
                os.close(file)
                raise
            if is_current:
                self._file = file
                return True
            os.close(file)  # whoever had it removed the file

    def share(self) -> None:
        """Let others share a lock that is held; it may have been lost in between."""
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def release(self, *, remove: bool = False) -> None:
        """Give the lock back, if it is held; *remove* its file if it is held alone."""
        if self._file < 0:
            return
        if remove:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
        os.close(self._file)
        self._file = -1

    def _is_current(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self._path))
        except FileNotFoundError:
            return False
