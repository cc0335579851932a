"""`servable publish`: a SavedModel becomes a version, all at once."""

import contextlib
import sys
from pathlib import Path
from typing import Final

import click

from servable.cli.waiting import shown_steps
from servable.errors import InvalidArgument, NotFound, ServingError
from servable.export.publishing import check_complete, check_numbers
from servable.export.publishing import publish as publish_directory
from servable.export.steps import begin
from servable.export.uploading import store_errors, upload
from servable.sources import database, filesystems
from servable.sources.urls import redacted, scheme_of

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
@click.option(
    "--model",
    default="",
    help="The model's name, where BASE is a database without #NAME.",
)
def publish(
    directory: str, base_path: str, keep: int | None, as_version: int | None, model: str
) -> None:
    """
    Copy the SavedModel in DIR to the base path BASE as its next version.

    BASE is a directory, a database (sqlite:////models.db, postgresql://…) or the URL
    of an object store (s3://…, gs://…).  A server that polls BASE sees the whole
    version or none of it, and publishers at the same time get different numbers.
    What was published is printed.  The exit status is 1 if nothing was.
    """
    try:
        with shown_steps():
            done = publish_version(directory, base_path, keep, as_version, model)
    except ServingError as error:
        click.echo(error.status_text, err=True)
        sys.exit(_FAILED)
    click.echo(done)


def publish_version(
    directory: str, base_path: str, keep: int | None, version: int | None, model: str
) -> str:
    """
    Publish a SavedModel wherever *base_path* is, and return what to tell of it.

    Raises:
        ServingError: nothing was published, or not all that was to go is gone.
    """
    check_target(base_path, keep, version, model)
    model = model or _model_in(base_path)
    if (folder := local_path(base_path)) is not None:
        return str(publish_directory(directory, folder, version=version, keep=keep))
    if scheme_of(base_path) not in _DATABASES:
        store = None
        if scheme_of(base_path) in filesystems.KINDS:
            filesystems.check_installed(scheme_of(base_path))
            store = filesystems.filesystem(base_path, filesystems.WRITING)
        return upload(
            directory, base_path, version=version, keep=keep, filesystem=store
        )
    check_complete(directory)
    with store_errors(redacted(base_path)):
        begin("writing to the database")
        number = database.publish(base_path, model, directory, version)
        if keep is not None:
            _remove_all_but(keep, base_path, model, number)
    return f"version {number} of {model}"


def check_target(
    base_path: str, keep: int | None, version: int | None, model: str
) -> None:
    """
    Check what can be told before there is something to publish.

    Raises:
        InvalidArgument: a number is out of range, or a model has no name.
    """
    check_numbers(version, keep)
    if scheme_of(base_path) not in _DATABASES:
        return
    named = _model_in(base_path)
    if not model and not named:
        raise InvalidArgument("a database has many models: say which, with --model")
    if model and named and model != named:
        raise InvalidArgument(f"--model says {model}, and the base path {named}")


def local_path(base_path: str) -> Path | None:
    """Return the directory that *base_path* means here, None if it is elsewhere."""
    if scheme_of(base_path) != "file":
        return None
    return Path(base_path.removeprefix("file://"))


def _model_in(base_path: str) -> str:
    """Return the model that stands behind `#` in the base path of a database, or ""."""
    return database.split(base_path)[1]


def _remove_all_but(keep: int, base_path: str, model: str, published: int) -> None:
    rows = database.ModelDatabase(base_path).rows(model)
    for number in sorted(row.version for row in rows)[:-keep]:
        if number != published:
            with contextlib.suppress(NotFound):  # another publisher removed it
                database.remove(base_path, model, number)
