"""What the commands that ask a server have in common."""

import contextlib
import functools
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.core import ParameterSource

from servable.errors import NotFound, ServingError

if TYPE_CHECKING:
    from servable.client import Client

_FAILED: Final = 1
DEFAULT_ADDRESS: Final = "localhost:8500"
_DEFAULT_TIMEOUT_S: Final = 10.0
_VARIABLE: Final = "SERVABLE_TOKEN"

_COMPLETION_TIMEOUT_S: Final = 2.0

F = TypeVar("F", bound=Callable[..., None])


@dataclass(frozen=True, slots=True)
class Connection:
    """
    Which server is asked, and how; called it gives a Client.

    Attributes:
        is_token_told: the token stands in the environment, and need not be printed.
    """

    address: str
    timeout_s: float = _DEFAULT_TIMEOUT_S
    tls: bool = False
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    token: str | None = field(default=None, repr=False)
    is_token_told: bool = False

    def __call__(self, **options: Any) -> "Client":
        """Return a Client, with further options of it; nothing is connected yet."""
        from servable.client import Client, Tls  # noqa: PLC0415 - slow to import

        return Client(
            self.address,
            tls=Tls(self.ca, self.certificate, self.key) if self._files() else self.tls,
            token=self.token,
            timeout=self.timeout_s,
            **options,
        )

    def python(self) -> str:
        """Return the Python that makes this Client."""
        arguments = [repr(self.address)]
        if files := self._files():
            given = ", ".join(f"{name}={path!r}" for name, path in files.items())
            arguments.append(f"tls=Tls({given})")
        elif self.tls:
            arguments.append("tls=True")
        if self.token is not None:
            told = f"os.environ[{_VARIABLE!r}]"
            arguments.append(
                f"token={told if self.is_token_told else repr(self.token)}"
            )
        if self.timeout_s != _DEFAULT_TIMEOUT_S:
            arguments.append(f"timeout={self.timeout_s!r}")
        return f"Client({', '.join(arguments)})"

    def rest_address(self) -> str:
        """
        Return the first address as that of REST.

        Raises:
            UsageError: It is one of gRPC that has none beside it.
        """
        from servable.client.targets import (  # noqa: PLC0415 - slow to import
            DEFAULT_REST_PORT,
            Protocol,
            parse_targets,
        )

        target = parse_targets(self.address, secure=self.tls or bool(self._files()))[0]
        if target.protocol is Protocol.REST:
            return target.address
        host, _, port = target.address.rpartition(":")
        if not port.isdigit() or host.startswith(("unix", "vsock")):
            raise click.UsageError(
                f"{self.address} is for gRPC only; give --address http://HOST:PORT."
            )
        # Where REST is unless somebody moved it.
        return f"http{'s' if target.secure else ''}://{host}:{DEFAULT_REST_PORT}"

    def curl_options(self) -> Sequence[str]:
        """Return the options with which curl connects as this Client does."""
        names = {"ca": "--cacert", "certificate": "--cert", "key": "--key"}
        options = [
            f"{names[name]} {shlex.quote(path)}" for name, path in self._files().items()
        ]
        if self.token is not None:
            header = "Authorization: Bearer "
            told = f'"{header}${_VARIABLE}"'
            literal = shlex.quote(header + self.token)
            options.append(f"-H {told if self.is_token_told else literal}")
        if self.timeout_s != _DEFAULT_TIMEOUT_S:
            options.append(f"--max-time {self.timeout_s:g}")
        return options

    def _files(self) -> dict[str, str]:
        files = {"ca": self.ca, "certificate": self.certificate, "key": self.key}
        return {name: path for name, path in files.items() if path is not None}


def client_options(command: F) -> Callable[..., None]:
    """
    Give a command the options that say which server is asked, and how.

    It gets `address`, `timeout` and `connect`, a Connection.  An error of the server
    becomes one line and exit status 1.
    """

    @click.option(
        "--address",
        default=DEFAULT_ADDRESS,
        show_default=True,
        envvar="SERVABLE_ADDRESS",
        help="HOST:PORT or unix:PATH for gRPC, http://HOST:PORT for REST.",
    )
    @click.option(
        "--timeout",
        default=_DEFAULT_TIMEOUT_S,
        show_default=True,
        help="Seconds to wait for the answer.",
    )
    @click.option("--tls", is_flag=True, help="Use TLS with the system's roots.")
    @click.option("--tls-ca", type=click.Path(), help="PEM file of the roots to trust.")
    @click.option("--tls-cert", type=click.Path(), help="PEM file of our certificate.")
    @click.option("--tls-key", type=click.Path(), help="PEM file of its key.")
    @click.option("--token", envvar=_VARIABLE, help="Bearer token to send along.")
    @functools.wraps(command)
    def wrapped(
        *,
        address: str,
        timeout: float,
        tls: bool,
        tls_ca: str | None,
        tls_cert: str | None,
        tls_key: str | None,
        token: str | None,
        **arguments: Any,
    ) -> None:
        # What gRPC logs on stderr, as of each handshake that fails, is in the error.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        source = click.get_current_context().get_parameter_source("token")
        connect = Connection(
            *(address, timeout, tls, tls_ca, tls_cert, tls_key, token),
            is_token_told=source is ParameterSource.ENVIRONMENT,
        )
        try:
            command(address=address, timeout=timeout, connect=connect, **arguments)
        except ServingError as exc:
            is_advised = isinstance(exc, NotFound)
            advice = getattr(exc, "__notes__", ()) if is_advised else ()
            click.echo("; ".join((exc.status_text, *advice)), err=True)
            sys.exit(_FAILED)

    return wrapped


def complete_model(
    context: click.Context, _argument: click.Parameter, incomplete: str
) -> list[str]:
    """Return the models of the server that begin so; none if it does not tell."""
    given = context.params
    connect = Connection(
        given.get("address") or os.environ.get("SERVABLE_ADDRESS") or DEFAULT_ADDRESS,
        _COMPLETION_TIMEOUT_S,
        given.get("tls") or False,
        given.get("tls_ca"),
        given.get("tls_cert"),
        given.get("tls_key"),
        given.get("token") or os.environ.get(_VARIABLE),
    )
    with contextlib.suppress(ServingError), connect(attempts=1) as client:
        names = [model.config.name for model in client.administration.models()]
        return sorted(name for name in names if name.startswith(incomplete))
    return []
