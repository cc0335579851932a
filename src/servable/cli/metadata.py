"""`servable metadata`: what a model can be asked."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from servable.cli.client_options import client_options, complete_model
from servable.cli.show import print_signature, signatures_document
from servable.cli.tables import printable

if TYPE_CHECKING:
    from servable.client import Client


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option("--version", type=int, help="A version; the latest if left out.")
@click.option("--label", help="Version label instead of a version.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@client_options
def metadata(
    *,
    model: str,
    version: int | None,
    label: str | None,
    as_json: bool,
    connect: Callable[[], "Client"],
    **_options: object,
) -> None:
    """Show the signatures of MODEL: their inputs, outputs, types and shapes."""
    with connect() as client:
        answer = client.metadata(model, version=version, label=label)
    if as_json:
        document = {
            "model": answer.name,
            "version": answer.version,
            "signatures": signatures_document(answer.signatures),
        }
        click.echo(json.dumps(document, indent=2))
        return
    name = click.style(printable(answer.name), bold=True)
    click.echo(f"{name} version {answer.version}")
    for signature in answer.signatures.values():
        print_signature(signature)
