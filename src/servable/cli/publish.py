"""`servable publish`: a SavedModel becomes a version, all at once."""

import sys
from typing import Final

import click

from servable.errors import ServingError
from servable.export.publishing import publish as publish_directory

_FAILED: Final = 1


@click.command()
@click.argument("directory", type=click.Path(), metavar="DIR")
@click.argument("base_path", type=click.Path(), metavar="BASE")
@click.option("--keep", type=int, help="Keep so many versions; all by default.")
@click.option(
    "--as-version", type=int, help="The number; the one after the highest by default."
)
def publish(
    directory: str, base_path: str, keep: int | None, as_version: int | None
) -> None:
    """
    Copy the SavedModel in DIR to the base path BASE as its next version.

    A server that polls BASE sees the whole version or none of it, and publishers at
    the same time get different numbers.  The directory of the version is printed.
    The exit status is 1 if nothing was published.
    """
    try:
        path = publish_directory(directory, base_path, version=as_version, keep=keep)
    except ServingError as error:
        click.echo(error.status_text, err=True)
        sys.exit(_FAILED)
    click.echo(path)
