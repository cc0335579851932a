"""Addresses as people write them, made into what gRPC and HTTP connect to."""

import enum
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from servable.errors import InvalidArgument

if TYPE_CHECKING:
    import ssl

DEFAULT_GRPC_PORT: Final = 8500
DEFAULT_REST_PORT: Final = 8501

_RESOLVERS: Final = ("dns:", "ipv4:", "ipv6:", "xds:", "unix-abstract:", "vsock:")


class Protocol(enum.Enum):
    """What is spoken at an address."""

    GRPC = "gRPC"
    REST = "REST"


@dataclass(frozen=True, slots=True)
class Target:
    """
    One address of a server.

    Attributes:
        address: gRPC's name of it, or the base URL.
        secure: TLS is spoken there.
    """

    protocol: Protocol
    address: str
    secure: bool = False

    def __str__(self) -> str:
        return self.address

    @property
    def question(self) -> str:
        """What to ask oneself when nothing was reached there."""
        port = f"does it run, is this its {self.protocol.value} address,"
        if self.secure:
            return (
                f"{port} is its certificate one that tls= trusts, and does it ask for "
                "one of yours?"
            )
        return f"{port} and one without TLS?"


@dataclass(frozen=True, slots=True)
class Tls:
    """
    Whom to trust, and who we are; paths of PEM files.

    Attributes:
        ca: the roots to trust; None takes the system's.
        certificate: our certificate chain, for mutual TLS.
        key: its private key.
        server_name: the name to expect in the server's certificate, where it is not
            the host in the address.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidArgument("a certificate and its key are given together")

    def read(self, path: str | os.PathLike[str] | None) -> bytes | None:
        """Return the content of one of the files, None without a path."""
        return None if path is None else Path(path).read_bytes()

    def context(self) -> "ssl.SSLContext":
        """
        Return a context with these files.

        Raises:
            InvalidArgument: one cannot be read, or is not what it should be.
        """
        import ssl  # noqa: PLC0415 - slow, and only here

        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as exc:
            raise InvalidArgument(f"ca={self.ca!s} cannot be used: {exc}") from None
        if self.certificate is not None:
            try:
                # Nobody is asked for a password, which gRPC could not take either.
                context.load_cert_chain(self.certificate, self.key, password="")
            except OSError as exc:
                raise InvalidArgument(
                    f"certificate={self.certificate!s} and key={self.key!s} cannot be "
                    f"used: {exc}"
                ) from None
        return context


Token: TypeAlias = str | Callable[[], str]


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How to connect, whatever the protocol."""

    tls: Tls | None = None
    token: Token | None = field(default=None, repr=False)
    keep_alive_s: float | None = 300.0

    def authorization(self) -> str | None:
        """
        Return the value of the authorization header, None without a token.

        Raises:
            InvalidArgument: no header can carry the token.
        """
        if self.token is None:
            return None
        token = self.token() if callable(self.token) else self.token
        if not isinstance(token, str):
            raise InvalidArgument(f"a token is text, and not {type(token).__name__}")
        if not token or not (
            token.isascii() and token.isprintable() and " " not in token
        ):
            raise InvalidArgument(
                "the token cannot be sent: it has to be printable ASCII, without "
                "spaces and line breaks; of a file, strip() what was read"
            )
        return f"Bearer {token}"


def parse_targets(address: str | Sequence[str], *, secure: bool) -> Sequence[Target]:
    """
    Return the targets that *address* names: one, several, or several with commas.

    Raises:
        InvalidArgument: one of them is no address, or they speak different protocols.
    """
    if isinstance(address, str):
        is_list = address.startswith(_RESOLVERS)
        parts = [address] if is_list else address.split(",")
    else:
        several: Any = address
        parts = list(several) if isinstance(several, Iterable) else [several]
    for part in parts:
        if not isinstance(part, str):
            raise InvalidArgument(
                f"{part!r} is no address; give text, as 'localhost:{DEFAULT_GRPC_PORT}'"
            )
    targets = [parse_target(part.strip(), secure=secure) for part in parts]
    if not targets:
        raise InvalidArgument("no address was given")
    if len({target.protocol for target in targets}) > 1:
        raise InvalidArgument(
            f"{', '.join(map(str, targets))} speak gRPC and REST; "
            "one client speaks one of them"
        )
    return targets


def parse_target(address: str, *, secure: bool = False) -> Target:
    """
    Return the target for one address.

    `host`, `host:port`, `grpc://…`, `grpcs://…` and `unix:/path` are gRPC,
    `http://…` and `https://…` are REST; so is whatever gRPC's own resolvers take.

    Raises:
        InvalidArgument: it is none of these.
    """
    scheme, separator, rest = address.partition("://")
    if separator and scheme in ("http", "https"):
        return _rest_target(scheme, rest.rstrip("/"), address, secure=secure)
    if separator and scheme in ("grpc", "grpcs"):
        address, secure = rest.rstrip("/"), secure or scheme == "grpcs"
    elif address.startswith(("unix:", *_RESOLVERS)):
        return Target(Protocol.GRPC, address, secure)
    elif separator:
        raise InvalidArgument(
            f"{address!r} is no address of a server; give host:8500 for gRPC, "
            "http://host:8501 for REST, or unix:/path"
        )
    return Target(Protocol.GRPC, _with_port(address, DEFAULT_GRPC_PORT), secure)


def _rest_target(scheme: str, rest: str, address: str, *, secure: bool) -> Target:
    if secure and scheme == "http":
        raise InvalidArgument(f"{address!r} is not encrypted; write https://")
    host, slash, path = rest.partition("/")
    default = 443 if scheme == "https" else DEFAULT_REST_PORT
    url = f"{scheme}://{_with_port(host, default)}{slash}{path}"
    return Target(Protocol.REST, url, scheme == "https")


def _with_port(host: str, default: int) -> str:
    _, bracket, after = host.rpartition("]")
    name, colon, port = after.rpartition(":") if bracket else host.rpartition(":")
    if not colon:
        if not host:
            raise InvalidArgument("an address begins with a host")
        return f"{host}:{default}"
    is_port = port.isascii() and port.isdigit() and 0 < int(port) <= 65535  # noqa: PLR2004
    if not is_port or (not bracket and (not name or ":" in name)):
        raise InvalidArgument(
            f"{host!r} is no address; give host:port, as localhost:{default}"
        )
    return host
