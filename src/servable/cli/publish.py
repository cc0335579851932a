"""`servable publish`: a SavedModel becomes a version, all at once."""

import sys
from typing import Final

import click

from servable.errors import InvalidArgument, ServingError
from servable.export.publishing import check_complete
from servable.export.publishing import publish as publish_directory
from servable.export.uploading import upload
from servable.sources import database
from servable.sources.urls import scheme_of

_FAILED: Final = 1
_DATABASES: Final = frozenset(
    {"sqlite", "postgres", "postgresql", "postgresql+psycopg"}
)


@click.command()
@click.argument("directory", type=click.Path(), metavar="DIR")
@click.argument("base_path", metavar="BASE")
@click.option("--keep", type=int, help="Keep so many versions; all by default.")
@click.option(
    "--as-version", type=int, help="The number; the one after the highest by default."
)
@click.option("--model", default="", help="The model's name, where BASE is a database.")
def publish(
    directory: str, base_path: str, keep: int | None, as_version: int | None, model: str
) -> None:
    """
    Copy the SavedModel in DIR to the base path BASE as its next version.

    BASE is a directory, a database (sqlite:////models.db, postgresql://…) or the URL
    of an object store (s3://…, gs://…).  A server that polls BASE sees the whole
    version or none of it; in directories and databases publishers at the same time
    get different numbers.  What was published is printed.  The exit status is 1 if
    nothing was.
    """
    try:
        click.echo(_publish(directory, base_path, keep, as_version, model))
    except ServingError as error:
        click.echo(error.status_text, err=True)
        sys.exit(_FAILED)


def _publish(
    directory: str, base_path: str, keep: int | None, version: int | None, model: str
) -> str:
    scheme = scheme_of(base_path)
    if scheme == "file":
        path = base_path.removeprefix("file://")
        return str(publish_directory(directory, path, version=version, keep=keep))
    if scheme not in _DATABASES:
        return upload(directory, base_path, version=version, keep=keep)
    if not model:
        raise InvalidArgument("a database has many models: say which, with --model")
    if keep is not None:
        raise InvalidArgument("--keep is for directories and object stores")
    check_complete(directory)
    number = database.publish(base_path, model, directory, version)
    return f"version {number} of {model}"
