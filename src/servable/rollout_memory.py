"""
What was decided about versions, kept for the next start.

One JSON file for all models of a user, by name and base path: the version that was
promoted, and those that were rejected.  When it is read and written is decided in
`rollouts.py`; a file that cannot be read or written costs the memory, and nothing else.
"""

import contextlib
import fcntl
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from servable.core.served_versions import Candidates

_log = logging.getLogger(__name__)

_VERSION: Final = 1


def default_state_file() -> Path:
    """Return the file for decisions in the state of whoever runs this."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "servable" / "rollouts.json"


class RolloutMemory:
    """
    Decisions in a file; several servers may share it.

    Methods block, and may be called from any thread.

    Args:
        path: made when something is to be kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def recall(self, name: str, base_path: str) -> Candidates:
        """Return what was decided of the model, as far as it is known."""
        for model in self._read():
            if _is_of(model, name, base_path):
                return Candidates(model["promoted"], frozenset(model["rejected"]))
        return Candidates()

    def keep(self, name: str, base_path: str, candidates: Candidates) -> None:
        """Keep what is decided of the model now, in place of what was before."""
        decided = {
            "name": name,
            "base_path": base_path,
            "promoted": candidates.promoted,
            "rejected": sorted(candidates.rejected),
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._alone():
                others = [m for m in self._read() if not _is_of(m, name, base_path)]
                self._write({"version": _VERSION, "models": [*others, decided]})
        except OSError as exc:
            _log.warning(
                "What was decided of model %s will be forgotten at the next start: %s",
                name,
                exc,
            )

    def _read(self) -> list[dict[str, Any]]:
        try:
            models = json.loads(self._path.read_text(encoding="utf-8"))["models"]
            return [model for model in models if _is_whole(model)]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as exc:
            _log.warning("%s does not tell what was decided: %r", self._path, exc)
            return []

    def _write(self, content: dict[str, Any]) -> None:
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=".rollouts-")
        written = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            written.replace(self._path)
        except BaseException:
            written.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other servers from writing meanwhile."""
        with Path(f"{self._path}.lock").open("a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def __repr__(self) -> str:
        return f"<RolloutMemory {self._path}>"


def _is_of(model: dict[str, Any], name: str, base_path: str) -> bool:
    return bool(model["name"] == name and model["base_path"] == base_path)


def _is_whole(model: Any) -> bool:
    """Return whether *model* is as `keep` writes it."""
    rejected, promoted = model["rejected"], model["promoted"]
    return (
        isinstance(model["name"], str)
        and isinstance(model["base_path"], str)
        and (promoted is None or isinstance(promoted, int))
        and all(isinstance(version, int) for version in rejected)
    )
