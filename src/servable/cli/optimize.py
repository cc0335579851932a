"""`servable optimize`: a faster SavedModel with the same answers."""

import sys
from pathlib import Path
from typing import Final

import click

from servable.cli.quiet import quiet_import, quiet_tensorflow
from servable.cli.saved_model_summary import find_version
from servable.cli.waiting import shown_steps
from servable.errors import ServingError
from servable.export.answers import Tolerance
from servable.export.requests import read_logs
from servable.export.steps import begin

_FAILED: Final = 1


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--requests",
    type=click.Path(path_type=Path),
    help="Requests that both have to answer the same, in a TFRecord file as warm-up "
    "has it; by default those that come with MODEL.",
)
@click.option(
    "--rtol", default=1e-3, show_default=True, help="Relative tolerance, for floats."
)
@click.option("--atol", default=1e-4, show_default=True, help="Absolute tolerance.")
def optimize(
    model: Path, out: Path, requests: Path | None, rtol: float, atol: float
) -> None:
    """
    Write a faster SavedModel of MODEL as OUT, a directory that does not exist yet.

    Variables become constants, what does not depend on inputs is computed, and batch
    normalizations are folded into convolutions.  Signatures, tables, assets and
    warm-up requests stay.  Nothing is written if the answers are others.  MODEL may
    be a base path, which stands for its newest version.
    """
    quiet_tensorflow()
    try:
        source, _, _ = find_version(model)
        logs = None if requests is None else read_logs(requests)
        tolerance = Tolerance(rtol, atol)
        with shown_steps():
            begin("importing TensorFlow")
            with quiet_import():  # which takes seconds
                from servable.export.optimizing import optimize as run  # noqa: PLC0415

            made = run(source, out, logs=logs, tolerance=tolerance)
    except (ServingError, ModuleNotFoundError) as error:
        click.echo(getattr(error, "status_text", error), err=True)
        sys.exit(_FAILED)
    before, after = made.nodes
    click.echo(f"{made.path}: {after} operations of {before}, {made.folded} folded")
    if made.compared:
        click.echo(f"{made.compared} requests are answered the same")
    else:
        click.echo(
            "no answers were compared: no request came with the model that it answers"
        )
