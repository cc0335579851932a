"""What the commands that ask a server have in common."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from servable.errors import ServingError

_FAILED: Final = 1
DEFAULT_ADDRESS: Final = "localhost:8500"

_COMPLETION_TIMEOUT_S: Final = 2.0

F = TypeVar("F", bound=Callable[..., None])


def client_options(command: F) -> Callable[..., None]:
    """
    Give a command the options that say which server is asked, and how.

    It gets `address`, `timeout` and `connect`, which returns a Client.  An error of
    the server becomes one line and exit status 1.
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
        default=10.0,
        show_default=True,
        help="Seconds to wait for the answer.",
    )
    @click.option("--tls", is_flag=True, help="Use TLS with the system's roots.")
    @click.option("--tls-ca", type=click.Path(), help="PEM file of the roots to trust.")
    @click.option("--tls-cert", type=click.Path(), help="PEM file of our certificate.")
    @click.option("--tls-key", type=click.Path(), help="PEM file of its key.")
    @click.option(
        "--token", envvar="SERVABLE_TOKEN", help="Bearer token to send along."
    )
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
        def connect() -> Any:
            from servable.client import Client, Tls  # noqa: PLC0415 - slow to import

            has_files = tls_ca is not None or tls_cert is not None
            files = Tls(tls_ca, tls_cert, tls_key) if has_files else tls
            return Client(address, tls=files, token=token, timeout=timeout)

        try:
            command(address=address, timeout=timeout, connect=connect, **arguments)
        except ServingError as exc:
            click.echo(exc.status_text, err=True)
            sys.exit(_FAILED)

    return wrapped


def complete_model(
    context: click.Context, _argument: click.Parameter, incomplete: str
) -> list[str]:
    """Return the models of the server that begin so; none if it does not tell."""
    # The shell waits for this: what is slow to import is imported only here.
    from servable.client import Client  # noqa: PLC0415

    given = context.params.get("address")
    address = given or os.environ.get("SERVABLE_ADDRESS") or DEFAULT_ADDRESS
    with contextlib.suppress(ServingError):
        token = context.params.get("token") or os.environ.get("SERVABLE_TOKEN")
        with Client(
            address, timeout=_COMPLETION_TIMEOUT_S, attempts=1, token=token
        ) as c:
            names = [model.config.name for model in c.administration.models()]
        return sorted(name for name in names if name.startswith(incomplete))
    return []
