"""Which process of this machine listens on an address, from ``/proc``."""

import re
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_LISTEN = "0A"
_ACCEPTS_CONNECTIONS = 0x10000  # __SO_ACCEPTCON of the kernel, in the flags column


def listening_pid_or_none(address: str) -> int | None:
    """
    Return the process that listens on *address*, or None when it cannot be told.

    address is ``host:port``, where host is taken to be this machine, or ``unix:path``.
    None also where there is no ``/proc`` and where the process is another user's.  Of
    several processes that share the socket it is the oldest.
    """
    if address.startswith("unix:"):
        path = address.removeprefix("unix:").removeprefix("//")
        inodes = set(_unix_inodes(path))
    else:
        _, _, port = address.rpartition(":")
        inodes = set(_tcp_inodes(int(port))) if port.isdecimal() else set()
    if not inodes:
        return None
    pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())
    return next((pid for pid in sorted(pids) if inodes & set(_sockets_of(pid))), None)


def _tcp_inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        for fields in _rows(_PROC / "net" / table):
            local, state = fields[1], fields[3]
            if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                yield fields[9]


def _unix_inodes(path: str) -> Iterator[str]:
    for fields in _rows(_PROC / "net" / "unix"):
        listens = int(fields[3], 16) & _ACCEPTS_CONNECTIONS
        if listens and fields[7:] == [path]:
            yield fields[6]


def _rows(table: Path) -> Iterator[list[str]]:
    try:
        lines = table.read_text().splitlines()
    except OSError:
        return
    for line in lines[1:]:
        yield line.split()


def _sockets_of(pid: int) -> Iterator[str]:
    folder = _PROC / str(pid) / "fd"
    try:
        links = list(folder.iterdir())
    except OSError:
        return
    for link in links:
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if found := re.fullmatch(r"socket:\[(\d+)\]", target):
            yield found[1]
