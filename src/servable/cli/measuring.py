"""Options of the commands that put load on a model: ``servable bench`` and ``tune``."""

from pathlib import Path

import click

input_option = click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=JSON",
    help="Value of an input, or NAME=@FILE.npy; inputs not given are random.",
)


def check_that_plots_can_be_drawn(plot: Path | None) -> None:
    """
    Look for what a picture needs before anything is measured for it.

    Raises:
        click.ClickException: it is not installed.
    """
    if plot is None:
        return
    try:
        import matplotlib as mpl  # noqa: F401, PLC0415 - slow, and seldom needed
    except ModuleNotFoundError:
        raise click.ClickException(
            "--plot needs matplotlib: pip install 'servable[bench]'"
        ) from None
