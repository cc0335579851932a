"""`servable show`: what is in a SavedModel."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from servable.cli.saved_model_summary import MetaGraph, Summary, summarize
from servable.cli.tables import print_table, printable
from servable.client.signatures import Signature, TensorSpec, shape_text
from servable.errors import ServingError

_BAD_DIRECTORY: Final = 2


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--ops", is_flag=True, help="Count the operations of each graph, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(directory: Path, ops: bool, as_json: bool) -> None:
    """
    Show what is in the SavedModel in DIRECTORY.

    Its graphs, tags, signatures, assets, variables and operations.  DIRECTORY may
    also be a base path: then the newest version is shown, and the others are named.
    TensorFlow is not needed.  The exit status is 2 if there is no SavedModel.
    """
    try:
        summary = summarize(directory)
    except (ServingError, OSError) as exc:
        click.echo(getattr(exc, "message", exc), err=True)
        sys.exit(_BAD_DIRECTORY)
    if as_json:
        click.echo(json.dumps(as_document(summary), indent=2))
    else:
        render(summary, ops=ops)


def render(summary: Summary, *, ops: bool = False) -> None:
    """Print *summary* for people, with each graph's *ops* if that is wanted."""
    click.secho(printable(str(summary.path)), bold=True)
    if summary.version is not None:
        others = ", ".join(map(str, summary.other_versions)) or "none"
        click.echo(f"version {summary.version}; other versions: {others}")
    click.echo(
        f"graph {size_text(summary.graph_bytes)}, "
        f"variables {size_text(summary.variables_bytes)}"
    )
    for name, size in summary.extra.items():
        click.echo(f"goes along: {printable(name)} ({size_text(size)})")
    for meta_graph in summary.meta_graphs:
        _render_meta_graph(meta_graph, ops)


def _render_meta_graph(meta_graph: MetaGraph, ops: bool) -> None:
    tags = printable(", ".join(meta_graph.tags) or "none")
    made_by = printable(meta_graph.tensorflow_version or "an unknown version")
    heading = click.style(f"tags {tags}", bold=True)
    click.echo(f"\n{heading} {click.style(f'(TensorFlow {made_by})', dim=True)}")
    for signature in meta_graph.signatures.values():
        print_signature(signature)
    click.echo()
    if not meta_graph.signatures:
        click.echo("no signatures: nothing here can be asked")
    for fault in meta_graph.faults:
        click.secho(printable(fault), fg="red")
    for name, size in meta_graph.assets.items():
        text = "missing" if size is None else size_text(size)
        click.echo(f"asset {printable(name)} ({text})")
    total = sum(meta_graph.ops.values())
    click.echo(f"{total} operations of {len(meta_graph.ops)} kinds")
    if ops:
        rows = ((str(count), op) for op, count in meta_graph.ops.items())
        print_table(("", "operation"), rows)


def print_signature(signature: Signature) -> None:
    """Print inputs and outputs of a signature, one in a row, after an empty line."""
    click.secho(f"\n{printable(signature.name)}", bold=True, nl=False)
    if signature.method_name:
        click.secho(f"  {printable(signature.method_name)}", dim=True, nl=False)
    click.echo()
    print_table(("", "name", "type", "shape", "tensor"), _rows(signature))


def _rows(signature: Signature) -> Iterator[tuple[str, ...]]:
    for name, spec in signature.inputs.items():
        defaulted = name in signature.defaults
        yield "input (has default)" if defaulted else "input", name, *_cells(spec)
    for name, spec in signature.outputs.items():
        yield "output", name, *_cells(spec)


def _cells(spec: TensorSpec) -> tuple[str, ...]:
    return str(spec.dtype or "?"), shape_text(spec.shape), spec.name


def size_text(size: int) -> str:
    """Return a number of bytes with a unit."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < 1024:  # noqa: PLR2004 - a unit to the next
            return f"{amount:.0f} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def as_document(summary: Summary) -> dict[str, Any]:
    """Return *summary* as JSON has it; sizes are bytes, shapes have null for any."""
    return {
        "path": str(summary.path),
        "version": summary.version,
        "other_versions": list(summary.other_versions),
        "graph_bytes": summary.graph_bytes,
        "variables_bytes": summary.variables_bytes,
        "assets_extra": dict(summary.extra),
        "meta_graphs": [
            {
                "tags": list(meta_graph.tags),
                "tensorflow_version": meta_graph.tensorflow_version,
                "signatures": signatures_document(meta_graph.signatures),
                "faults": list(meta_graph.faults),
                "assets": dict(meta_graph.assets),
                "ops": dict(meta_graph.ops),
            }
            for meta_graph in summary.meta_graphs
        ],
    }


def signatures_document(signatures: Mapping[str, Signature]) -> dict[str, Any]:
    """Return signatures as JSON has them."""
    return {
        signature.name: {
            "method_name": signature.method_name,
            "inputs": {n: _spec(spec) for n, spec in signature.inputs.items()},
            "outputs": {n: _spec(spec) for n, spec in signature.outputs.items()},
            "defaults": sorted(signature.defaults),
        }
        for signature in signatures.values()
    }


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {
        **dataclasses.asdict(spec),
        "dtype": None if spec.dtype is None else spec.dtype.name,
        "shape": None if spec.shape is None else list(spec.shape),
    }
