"""`servable include`."""

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Final

import click

import servable

_HEADERS: Final = ("include", "include/servable/servable.h")
_CMAKE: Final = ("cmake", "cmake/servable/servable-config.cmake")


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
    found = cmake_directory() if cmake else include_directory()
    if found is None:
        raise click.ClickException("The headers are not installed.")
    click.echo(found)


def include_directory() -> Path | None:
    """Return where `servable/servable.h` is found from, None if it is nowhere."""
    header = _find(*_HEADERS, "servable/servable.h")
    return header and header.parents[1]


def cmake_directory() -> Path | None:
    """Return where `servable-config.cmake` is, None if it is nowhere."""
    package = _find(*_CMAKE, "servable-config.cmake")
    return package and package.parent


def _find(source: str, installed: str, name: str) -> Path | None:
    # Run from its sources, the package finds what lies beside it there.
    beside = Path(servable.__file__).parents[2] / source / name
    if beside.is_file():
        return beside
    try:
        listed = files("servable") or []
    except PackageNotFoundError:
        return None
    found = (path.locate() for path in listed if path.as_posix().endswith(installed))
    return next((Path(str(path)).resolve() for path in found), None)
