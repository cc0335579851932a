"""`servable version`."""

import click

from servable.cli import process


@click.command()
def version() -> None:
    """Print the versions of servable and of the TensorFlow that it would use."""
    click.echo(f"servable {process.servable_version()}")
    click.echo(f"TensorFlow {process.tensorflow_version()}")
