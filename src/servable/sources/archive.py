"""
Versions as tar archives: safe to unpack, whoever packed them.

An archive holds files and directories and nothing else.  Links, devices and names that
lead elsewhere are refused, not skipped: such an archive is no version.
"""

import os
import shutil
import tarfile
from collections.abc import Callable
from typing import IO, Final

from servable.errors import DataLoss, InvalidArgument, ResourceExhausted
from servable.sources.store import checked_name

MAX_MEMBERS: Final = 100_000


def pack(directory: str, into: IO[bytes]) -> None:
    """
    Write the files below *directory* into *into* as a tar archive; links are followed.

    Equal files make equal archives: owners and times are left out.

    Raises:
        OSError: A file cannot be read.
    """
    with tarfile.open(fileobj=into, mode="w|", dereference=True) as archive:
        for parent, directories, names in os.walk(directory, followlinks=True):
            directories.sort()
            for name in sorted([*names, *directories]):
                full = os.path.join(parent, name)
                inside = os.path.relpath(full, directory)
                archive.add(full, inside, recursive=False, filter=_anonymous)


def unpack(
    source: IO[bytes],
    directory: str,
    max_bytes: int,
    check: Callable[[], None] = lambda: None,
) -> None:
    """
    Write the files of the tar archive *source*, compressed or not, into *directory*.

    Args:
        source: read from where it is to its end.
        directory: an empty one.
        max_bytes: of all files together.
        check: called for each member; raises to give up.

    Raises:
        InvalidArgument: A member is neither file nor directory, or leads elsewhere.
        ResourceExhausted: It is larger than it may be.
        DataLoss: It is no tar archive, or not a complete one.
    """
    total = members = 0
    try:
        with tarfile.open(fileobj=source, mode="r|*") as archive:
            for member in archive:
                check()
                members += 1
                total += member.size
                if total > max_bytes or members > MAX_MEMBERS:
                    raise ResourceExhausted(
                        f"The archive holds more than {max_bytes} bytes or "
                        f"{MAX_MEMBERS} files"
                    )
                _write(archive, member, directory)
    except (tarfile.TarError, EOFError) as exc:
        raise DataLoss(f"The archive cannot be read: {exc}") from exc
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as exc:
        raise InvalidArgument("Two members of the archive are in one place") from exc


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, directory: str) -> None:
    name = member.name.removeprefix("./").rstrip("/")
    if member.isdir() and name in {"", "."}:
        return
    path = os.path.join(directory, checked_name(name))
    if member.isdir():
        os.makedirs(path, exist_ok=True)
        return
    if not member.isfile():
        raise InvalidArgument(f"{name!r} in the archive is neither file nor directory")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    content = archive.extractfile(member)
    if content is None:
        raise DataLoss(f"{name!r} in the archive has no content")
    # Nothing but what was written here is in the directory, so no link can be followed.
    with content, open(path, "xb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
    if os.path.getsize(path) != member.size:
        raise DataLoss(f"{name!r} in the archive is cut short")


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    member.mode = 0o755 if member.isdir() else 0o644
    return member
