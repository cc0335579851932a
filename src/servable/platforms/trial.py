"""
Versions that a process of its own loads first, with --canary_load.

What a runtime does with a bad model may end the process that it is in.  So a clean one
loads the version, warms it up and ends; only then the server loads it.  What runs in
that process is in cli/trial_load.py; here it is started, timed, and judged.
"""

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from servable.core.loader import Loader
from servable.core.servable_id import ServableId
from servable.core.storage_path import StoragePath
from servable.errors import Code, DeadlineExceeded, Internal, from_code
from servable.platforms.loader_around import LoaderAround
from servable.platforms.platform import Platform

_logger = logging.getLogger(__name__)

# The package may be where an interpreter does not look by itself.
_SOURCE: Final = str(Path(__file__).parents[2])
_BOOTSTRAP: Final = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from servable.cli.trial_load import main; main(sys.argv[2:])"
)
_LAST_BYTES: Final = 8 << 10
_LONGEST_WORDS: Final = 300
_PATH: Final = re.compile(r"(?<![\w./])/[^\s:;,'\"()]+")


@dataclass(frozen=True, slots=True)
class Trials:
    """
    How versions are tried.

    Attributes:
        options: of the server, as ServerOptions.to_json() has them.
        limit_s: how long a process may take.
    """

    options: str
    limit_s: float

    def run(self, platform: str, servable_id: ServableId, path: str) -> None:
        """
        Have a process load the version at *path*, and wait for it.  Blocks.

        Raises:
            DeadlineExceeded: It takes too long.
            Internal: It does not survive.
            ServingError: What the version fails to load with.
        """
        telling, told = os.pipe()
        command = [sys.executable, "-P", "-c", _BOOTSTRAP, _SOURCE]
        command += [str(os.getpid()), str(told)]
        work = {
            "options": self.options,
            "platform": platform,
            "name": servable_id.name,
            "version": servable_id.version,
            "path": path,
            "import_path": [os.path.abspath(entry) for entry in sys.path if entry],
        }
        with open(telling, "rb") as outcome:
            try:
                process = subprocess.Popen(  # noqa: S603 - our own
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=(told,),
                    process_group=0,  # Ctrl-C is for the server
                )
            finally:
                os.close(told)
            words = self._wait(process, json.dumps(work).encode())
            told_outcome = outcome.read()
        if told_outcome:
            code, message = json.loads(told_outcome)
            if code != Code.OK:
                raise from_code(Code(code), message)
            return
        end = _described(process.returncode)
        _logger.error(
            "The process that tried %s first ended by %s; its last words:\n%s",
            servable_id,
            end,
            words or "(none)",
        )
        raise Internal(
            f"The process that tried the version first ended by {end}"
            + (f": {said}" if (said := last_line(words)) else "")
        )

    def _wait(self, process: "subprocess.Popen[bytes]", work: bytes) -> str:
        """Return the last words of a process, once it has ended or was killed."""
        tail = _Tail(process.stdout)
        with process:
            try:
                if process.stdin is not None:
                    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                        stdin.write(work)
                process.wait(self.limit_s)
            except subprocess.TimeoutExpired:
                raise DeadlineExceeded(
                    f"The load took longer than {self.limit_s:g} s "
                    "(--load_timeout_seconds)"
                ) from None
            finally:
                process.kill()
                words = tail.words()
        return words


class TrialPlatform:
    """A platform whose versions are tried first; see Platform."""

    def __init__(self, platform: Platform, trials: Trials) -> None:
        self._platform = platform
        self._trials = trials

    @property
    def name(self) -> str:
        """That of the platform."""
        return self._platform.name

    def loader(self, servable_id: ServableId, path: StoragePath) -> "TrialLoader":
        """Return the Loader of the version at *path*."""
        return TrialLoader(
            self._platform.loader(servable_id, path),
            lambda: self._trials.run(self.name, servable_id, path),
        )


class TrialLoader(LoaderAround):
    """A Loader that loads only what another process has loaded; see Loader."""

    def __init__(self, loader: Loader, try_first: Callable[[], None]) -> None:
        super().__init__(loader)
        self._try_first = try_first

    def load(self) -> None:
        """Try, and then load; raises what either fails with."""
        self._try_first()
        self._loader.load()


def last_line(words: str) -> str:
    """Return the last line that says something, without paths of this machine."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return _PATH.sub("(path)", lines[-1])[:_LONGEST_WORDS] if lines else ""


class _Tail:
    """The end of what a process writes, however much that is."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._bytes = b""
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def words(self) -> str:
        """Return it, once everything was read."""
        self._thread.join(1.0)
        return self._bytes.decode(errors="backslashreplace")

    def _read(self, stream: IO[bytes] | None) -> None:
        # It is closed under us when somebody else holds the other end.
        with contextlib.suppress(ValueError, OSError):
            while stream is not None and (read := os.read(stream.fileno(), 1 << 16)):
                self._bytes = (self._bytes + read)[-_LAST_BYTES:]


def _described(returncode: int) -> str:
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"
