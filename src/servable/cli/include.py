"""`servable include`."""

from pathlib import Path

import click

import servable


@click.command()
@click.option(
    "--cmake",
    is_flag=True,
    help="Print the directory of the CMake package instead: servable_DIR.",
)
def include(*, cmake: bool) -> None:
    """
    Print the directory of the C and C++ headers.

    A model in C++ is compiled with -I$(servable include); see docs/cpp.md.
    """
    package = Path(servable.__file__).parent
    click.echo((package / ("cmake" if cmake else "include")).resolve())
