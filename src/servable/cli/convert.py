"""`servable convert`: a SavedModel of what came before."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from servable.cli.quiet import quiet_import, quiet_tensorflow
from servable.cli.waiting import shown_steps
from servable.errors import InvalidArgument, ServingError
from servable.export.steps import begin

_FAILED: Final = 1


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="[NAME=]TENSOR",
    help="An input of a frozen graph; all placeholders by default.",
)
@click.option(
    "--output",
    "outputs",
    multiple=True,
    metavar="[NAME=]TENSOR",
    help="An output of a frozen graph; all that nothing depends on by default.",
)
def convert(
    source: Path, out: Path, inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    """
    Write SOURCE as the SavedModel OUT, a directory that does not exist yet.

    SOURCE is a frozen GraphDef (.pb, .pbtxt), the directory of a session bundle, or a
    file of Keras (.keras, .h5).  The exit status is 1 if nothing was written.
    """
    quiet_tensorflow()
    try:
        with shown_steps():
            begin("importing TensorFlow")
            with quiet_import():  # which takes seconds
                from servable.export.converting import convert as run  # noqa: PLC0415

            made = run(source, out, inputs=_named(inputs), outputs=_named(outputs))
    except (ServingError, ModuleNotFoundError) as error:
        click.echo(getattr(error, "status_text", error), err=True)
        sys.exit(_FAILED)
    click.echo(made)


def _named(given: Sequence[str]) -> dict[str, str]:
    named = {}
    for text in given:
        name, equals, tensor = text.partition("=")
        key = name if equals else name.partition(":")[0].rpartition("/")[2]
        if key in named:
            raise InvalidArgument(f"{key!r} is named twice")
        named[key] = tensor if equals else name
    return named
