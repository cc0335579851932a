"""
Sockets that are bound before the server is: by its supervisor, or by systemd.

Both hand them over in the same way, that of sd_listen_fds(3): descriptors from 3 on,
and three variables that say how many there are, what each is for, and for whom.
Nothing here listens or accepts; the engine does, on what it is given.
"""

import contextlib
import dataclasses
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from servable.errors import InvalidArgument

if TYPE_CHECKING:
    from servable.config.server_options import ServerOptions

FIRST_DESCRIPTOR: Final = 3
GRPC, GRPC_SOCKET, REST = "grpc", "grpc_socket", "rest"
_VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


def bind(
    grpc_port: int, grpc_socket_path: str, rest_port: int
) -> dict[str, socket.socket]:
    """
    Bind the sockets that a server with these flags would, and listen on none of them.

    Until the server listens, clients are refused, as they are without a supervisor.
    One that cannot be bound is left to the server, which says why.
    """
    bound: dict[str, socket.socket] = {}
    for name, port in ((GRPC, grpc_port), (REST, rest_port)):
        for family, host in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):  # noqa: S104
            if port > 0 and name not in bound:
                with contextlib.suppress(OSError):
                    bound[name] = _bind_tcp(family, host, port)
    if grpc_socket_path:
        with contextlib.suppress(OSError):
            bound[GRPC_SOCKET] = _bind_unix(grpc_socket_path)
    return bound


def handed_over(names: list[str], pid: int) -> dict[str, str]:
    """Return the variables for a child of *pid* with the sockets called *names*."""
    if not names:
        return {}
    return {
        "LISTEN_FDS": str(len(names)),
        "LISTEN_PID": str(pid),
        "LISTEN_FDNAMES": ":".join(names),
    }


def without_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return *environment* without what was said for another process."""
    return {k: v for k, v in environment.items() if k not in _VARIABLES}


def inherited(
    environment: Mapping[str, str], pid: int, parent_pid: int
) -> dict[str, int]:
    """
    Return the descriptors that were handed over to this process, by name.

    They are for it when they are for its parent, too: a shell that was started with
    them passes them on, and so does the supervisor, who cannot know its child's number.

    Raises:
        InvalidArgument: The names are not those of sockets of a server.
    """
    if environment.get("LISTEN_PID") not in (str(pid), str(parent_pid)):
        return {}
    count = int(environment.get("LISTEN_FDS", "0"))
    names = environment.get("LISTEN_FDNAMES", "").split(":") if count else []
    known = {GRPC, GRPC_SOCKET, REST}
    if len(names) != count or len({*names}) != count or not known.issuperset(names):
        raise InvalidArgument(
            f"LISTEN_FDNAMES is {':'.join(names)!r} for {count} sockets; each is to be "
            f"one of {', '.join(sorted(known))} (FileDescriptorName= in systemd)"
        )
    return {name: FIRST_DESCRIPTOR + at for at, name in enumerate(names)}


def with_listeners(
    options: "ServerOptions", listeners: Mapping[str, int]
) -> "ServerOptions":
    """Return *options* for a server that listens on what it was handed over."""
    for descriptor in listeners.values():
        os.set_inheritable(descriptor, False)  # processes of models have no use for it
    if GRPC in listeners:
        options = dataclasses.replace(
            options,
            grpc_listener=listeners[GRPC],
            grpc_port=_port(listeners[GRPC]),
        )
    if REST in listeners:
        options = dataclasses.replace(
            options, rest_listener=listeners[REST], rest_port=_port(listeners[REST])
        )
    if GRPC_SOCKET in listeners:
        options = dataclasses.replace(
            options,
            grpc_socket_listener=listeners[GRPC_SOCKET],
            grpc_socket_path=_path(listeners[GRPC_SOCKET]),
        )
    return options


def is_listening(bound: socket.socket) -> bool:
    """Return whether anybody listens on a socket, or ever has."""
    return bool(bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _bind_tcp(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    with contextlib.ExitStack() as on_error:
        bound = on_error.enter_context(socket.socket(family))
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind((host, port))
        on_error.pop_all()
    return bound


def _bind_unix(path: str) -> socket.socket:
    with contextlib.ExitStack() as on_error:
        bound = on_error.enter_context(socket.socket(socket.AF_UNIX))
        try:
            bound.bind(path)
        except OSError:
            if not _is_abandoned(path):
                raise
            Path(path).unlink()
            bound.bind(path)
        on_error.pop_all()
    return bound


def _is_abandoned(path: str) -> bool:
    if not Path(path).is_socket():
        return False  # it is no file of ours
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False


def _port(descriptor: int) -> int:
    with _borrowed(descriptor) as borrowed:
        name = borrowed.getsockname()
    if not isinstance(name, tuple):
        raise InvalidArgument(f"Descriptor {descriptor} is no TCP socket")
    port: int = name[1]
    return port


def _path(descriptor: int) -> str:
    with _borrowed(descriptor) as borrowed:
        name = borrowed.getsockname()
    if not isinstance(name, str):
        raise InvalidArgument(f"Descriptor {descriptor} is no Unix socket")
    return name


def _borrowed(descriptor: int) -> socket.socket:
    try:
        return socket.socket(fileno=os.dup(descriptor))
    except OSError as error:
        raise InvalidArgument(
            f"Descriptor {descriptor} is no socket: {error.strerror}"
        ) from None
