"""
What a store of versions is: the contract between a kind of base path and the rest.

A store lists, and reads what is listed.  When that is done, what is fetched and where
it is kept is decided elsewhere: in `remote_versions`, `store_source` and `cache`.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from servable.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Digest:
    """
    What a store says the bytes of a file hash to.

    Attributes:
        algorithm: hashlib's name, or "git" for what git calls the blob of a file.
        hex: digits.
    """

    algorithm: str
    hex: str

    def start(self, size_bytes: int | None) -> "hashlib._Hash":
        """Return what is to be updated with all bytes of a file of that size."""
        if self.algorithm != "git":
            return hashlib.new(self.algorithm, usedforsecurity=False)
        return hashlib.sha1(b"blob %d\0" % (size_bytes or 0), usedforsecurity=False)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """
    One file of a version.

    Attributes:
        name: relative to the version, with `/` between its parts.
        size_bytes: None where the store does not tell.
        identity: equal for equal bytes, another when the file is replaced; it holds
            the URL, and the ETag or whatever the store has instead.
        digest: None where the store tells none.
    """

    name: str
    size_bytes: int | None
    identity: str
    digest: Digest | None = None


Read: TypeAlias = Callable[[RemoteFile, int], Iterator[bytes]]
"""Yields the bytes of a file from an offset on, in pieces of some MiB.  Blocks."""


# How files begin that say that somebody is publishing a version; servable.export has
# the other half of this.
_CLAIM: Final = ".servable-"


@dataclass(frozen=True, slots=True)
class Content:
    """
    What a version consists of, and how it is read.

    Attributes:
        files: all of them, without directories.
        read: how to read one.
        is_whole: it was published at once, so that one look is enough.
        is_archive: the one file is a tar archive of the version.
        instead_of: the identity of the same content, as it came before; see `afresh`.
    """

    files: tuple[RemoteFile, ...]
    read: Read
    is_whole: bool = False
    is_archive: bool = False
    instead_of: str = ""

    def afresh(self) -> "Content":
        """Return the same as another content, of which nothing unchecked came yet."""
        files = (
            file
            if file.digest
            else dataclasses.replace(file, identity=f"{file.identity} afresh")
            for file in self.files
        )
        return dataclasses.replace(self, files=tuple(files), instead_of=self.identity)

    @property
    def is_checked(self) -> bool:
        """Whether the store tells a hash of every file."""
        return all(file.digest for file in self.files)

    @property
    def identity(self) -> str:
        """The same 64 hexadecimal digits for the same files."""
        digest = hashlib.sha256(b"archive" if self.is_archive else b"files")
        for file in sorted(self.files, key=lambda file: file.name):
            for part in (file.name, str(file.size_bytes), file.identity):
                digest.update(part.encode() + b"\0")
        return digest.hexdigest()

    @property
    def is_claimed(self) -> bool:
        """Whether a publisher is not done with it, or was killed."""
        return any(file.name.startswith(_CLAIM) for file in self.files)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files whose size is known."""
        return sum(file.size_bytes or 0 for file in self.files)


@dataclass(frozen=True, slots=True)
class LocalContent:
    """A version that is on this machine already, and is served from where it is."""

    path: str

    @property
    def identity(self) -> str:
        """The path; whoever replaces what is there says so by another one."""
        return self.path


@dataclass(frozen=True, slots=True)
class Fetched:
    """
    What became of one attempt to get something from a store.

    Attributes:
        store: its kind, the scheme of its base paths.
        outcome: "fetched", "failed", or "unreachable" for a look that failed.
        came_bytes: what came over the network.
        was_there_bytes: what the cache had already.
        seconds: how long it took.
        cache_bytes: what the cache holds after it.
    """

    store: str
    outcome: str
    came_bytes: int = 0
    was_there_bytes: int = 0
    seconds: float = 0.0
    cache_bytes: int = 0


class VersionStore(Protocol):
    """
    The versions of one servable in one place.

    Both methods block, may be called from any thread but not at the same time, and
    raise whatever their library raises when the place cannot be reached.
    FileNotFoundError says that there is no such place.
    """

    def children(self) -> Iterable[str]:
        """Return the names of what lies there, in one listing."""

    def content(self, child: str) -> Content | LocalContent:
        """
        Return what the version called *child* consists of.

        Raises:
            ServingError: It is one that can never be fetched.
        """


def checked_name(name: str) -> str:
    """
    Return *name* if it is that of a file below its version, and no trap.

    Raises:
        InvalidArgument: It leads elsewhere, or can be no file's name.
    """
    parts = name.split("/")
    if (
        not name
        or "\0" in name
        or "\\" in name
        or any(part in {"", ".", ".."} for part in parts)
    ):
        raise InvalidArgument(f"{name!r} is no name of a file below a version")
    return name
