"""`servable status`: which versions of a model are there."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from servable.cli.client_options import client_options, complete_model
from servable.cli.tables import print_table

if TYPE_CHECKING:
    from servable.client import Client


@click.command()
@click.argument("model", required=False, shell_complete=complete_model)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@client_options
def status(
    *,
    model: str | None,
    as_json: bool,
    address: str,
    timeout: float,
    connect: Callable[[], "Client"],
) -> None:
    """
    Show the state of every version of MODEL.

    Without MODEL it says whether a server answers.  The exit status is 1 if it does
    not, or does not know the model.
    """
    with connect() as client:
        if model is None:
            client.wait_until_ready(timeout=timeout)
            document = {"address": address, "answers": True}
            click.echo(json.dumps(document) if as_json else f"{address} answers")
            return
        versions = client.status(model)
    if as_json:
        rows = [
            {
                "version": version.version,
                "state": version.state,
                "code": version.code.name,
                "message": version.message,
            }
            for version in versions
        ]
        click.echo(json.dumps({"model": model, "versions": rows}, indent=2))
        return
    print_table(
        ("version", "state", ""),
        (
            (
                str(version.version),
                version.state,
                "" if version.error is None else version.error.status_text,
            )
            for version in versions
        ),
    )
