"""
What is being done for somebody who waits, told by what does it.

Nobody listens unless a command does, and who does something need not know.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Step:
    """
    Something that may take long.

    Attributes:
        what: in words, as "copying".
        done: returns how many bytes of it are done, on any thread; None where nobody
            can tell.
        total: how many there are.
    """

    what: str
    done: Callable[[], int] | None = None
    total: int = 0


_listener: Final[ContextVar[Callable[[Step], None]]] = ContextVar(
    "listener", default=lambda _: None
)


@contextmanager
def heard_by(listener: Callable[[Step], None]) -> Iterator[None]:
    """Have *listener* called with each Step that this context begins."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def begin(what: str, done: Callable[[], int] | None = None, total: int = 0) -> None:
    """Tell that a Step begins, and with it that the one before is over."""
    _listener.get()(Step(what, done, total))


def bytes_in(directory: Path) -> int:
    """Return how many bytes the files in *directory* have now."""
    size = 0
    for path in directory.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except OSError:  # gone meanwhile
            continue
    return size
