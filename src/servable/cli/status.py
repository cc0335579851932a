"""`servable status`: which versions of a model are there."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from servable.cli.client_options import client_options, complete_model

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
    from rich import box  # noqa: PLC0415 - slow to import
    from rich.console import Console  # noqa: PLC0415 - the same
    from rich.markup import escape  # noqa: PLC0415 - the same
    from rich.table import Table  # noqa: PLC0415 - the same

    table = Table("version", "state", "", box=box.SIMPLE_HEAD, show_edge=False)
    for version in versions:
        error = version.error
        failure = "" if error is None else escape(error.status_text)
        table.add_row(str(version.version), version.state, failure)
    Console().print(table)
