"""`servable predict`: ask a model from the shell."""

import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from servable.cli.client_options import Connection, client_options, complete_model
from servable.cli.printed_calls import curl_call, python_call
from servable.cli.tables import print_table
from servable.cli.values import by_name, plain, read_inputs
from servable.errors import InvalidArgument

if TYPE_CHECKING:
    from servable.client import Client, Outputs, Signature

_FORMATS: Final = ("text", "table", "json", "npy")


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option(
    "--input",
    "-i",
    "inputs",
    multiple=True,
    required=True,
    metavar="NAME=VALUE",
    help="A value is JSON, text, @FILE (.json, .csv, .npy, .npz or a picture), or - "
    "for one of these from stdin.  NAME= may be left out where the signature has one "
    "input, and for a .csv or .npz that holds them all.",
)
@click.option("--signature", default="", help="Signature name; serving_default.")
@click.option("--version", type=int, help="A version; the latest if left out.")
@click.option("--label", help="Version label instead of a version.")
@click.option("--output", "outputs", multiple=True, help="An output; all if left out.")
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    metavar="ROWS",
    help="Send so many rows at a time, and show how far it is.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    default="text",
    show_default=True,
    help="How to print the outputs; npy is a file, .npz for several outputs.",
)
@click.option("--json", "form", flag_value="json", help="Short for --format json.")
@click.option("--curl", "as_curl", is_flag=True, help="Print the call with curl.")
@click.option("--python", "as_python", is_flag=True, help="Print the call in Python.")
@client_options
def predict(
    *,
    model: str,
    inputs: tuple[str, ...],
    signature: str,
    version: int | None,
    label: str | None,
    outputs: tuple[str, ...],
    batch_size: int | None,
    form: str,
    as_curl: bool,
    as_python: bool,
    connect: Connection,
    **_options: object,
) -> None:
    """Run a signature of MODEL and print its outputs."""
    named = by_name(inputs)
    which = {"signature": signature, "version": version, "label": label}
    arguments: dict[str, Any] = {k: v for k, v in which.items() if v not in ("", None)}
    if outputs:
        arguments["outputs"] = list(outputs)
    if form == "npy" and not (as_curl or as_python) and sys.stdout.isatty():
        raise click.UsageError("--format npy is not for terminals: add > FILE.npy")
    with connect() as client:

        def known() -> "Signature | None":
            metadata = client.metadata(model, version=version, label=label)
            return metadata.signatures.get(signature or "serving_default")

        if as_python:
            click.echo(python_call(connect, model, named, arguments, known))
            return
        values = read_inputs(named, known)
        if as_curl:
            click.echo(curl_call(connect, model, values, arguments))
            return
        if batch_size is None:
            answer: Mapping[str, Any] = client.predict(model, values, **arguments)
        else:
            answer = _in_batches(client, model, values, batch_size, arguments)
    _PRINTERS[form](answer)


def _in_batches(
    client: "Client",
    model: str,
    values: Any,
    batch_size: int,
    arguments: Mapping[str, Any],
) -> Mapping[str, Any]:
    """
    Send *batch_size* rows at a time, and return the outputs of all.

    Raises:
        InvalidArgument: Inputs or outputs are not so many rows.
    """
    import numpy as np  # noqa: PLC0415 - only here

    rows = _rows(values)
    batches = range(0, rows, batch_size)
    answers: list[Outputs] = []
    with click.progressbar(
        length=rows,
        label=f"{rows} rows",
        file=sys.stderr,
        hidden=not sys.stderr.isatty(),
    ) as progress:
        for start in batches:
            part = _slice(values, slice(start, start + batch_size))
            sent = min(batch_size, rows - start)
            answer = client.predict(model, part, **arguments)
            for name, array in answer.items():
                if array.shape[:1] != (sent,):
                    raise InvalidArgument(
                        f"output {name!r} of {sent} rows has the shape "
                        f"{list(array.shape)}; without --batch-size it may be that"
                    )
            answers.append(answer)
            progress.update(sent)
    names = answers[0]
    return {
        name: np.concatenate([answer[name] for answer in answers]) for name in names
    }


def _rows(values: Any) -> int:
    named = values if isinstance(values, Mapping) else {"the input": values}
    counts = {}
    for name, value in named.items():
        shape = getattr(value, "shape", None)
        if shape == () or (shape is None and not isinstance(value, list)):
            raise InvalidArgument(f"{name} is one value; --batch-size needs rows")
        counts[name] = len(value)
    if len(set(counts.values())) != 1 or 0 in counts.values():
        said = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise InvalidArgument(f"--batch-size needs inputs of as many rows: {said}")
    return next(iter(counts.values()))


def _slice(values: Any, rows: slice) -> Any:
    if isinstance(values, Mapping):
        return {name: value[rows] for name, value in values.items()}
    return values[rows]


def _print_json(outputs: Mapping[str, Any]) -> None:
    click.echo(json.dumps({name: plain(array) for name, array in outputs.items()}))


def _print_text(outputs: Mapping[str, Any]) -> None:
    for name, array in outputs.items():
        click.echo(f"{name}: {_type_of(array)}{list(array.shape)}\n{array}")


def _type_of(array: Any) -> str:
    """Return the name that `servable metadata` has for it."""
    return "string" if array.dtype.hasobject else str(array.dtype)


def _print_npy(outputs: Mapping[str, Any]) -> None:
    """Write a .npy of the only output, or a .npz; texts are as wide as the longest."""
    import numpy as np  # noqa: PLC0415 - only here

    arrays = {
        name: array.astype("S") if array.dtype.hasobject else array
        for name, array in outputs.items()
    }
    file = io.BytesIO()
    if len(arrays) == 1:
        np.save(file, next(iter(arrays.values())))
    else:
        np.savez(file, allow_pickle=False, **arrays)
    sys.stdout.buffer.write(file.getvalue())


def _print_table(outputs: Mapping[str, Any]) -> None:
    """Print a line for each row; outputs of other lengths get a table of their own."""
    for names in _of_one_length(outputs):
        headings = [
            f"{name} {_type_of(outputs[name])}{list(outputs[name].shape[1:])}"
            for name in names
        ]
        rows = zip(*(_cells(outputs[name]) for name in names), strict=True)
        numbered = ((str(number), *row) for number, row in enumerate(rows))
        print_table(("", *headings), numbered)


def _of_one_length(outputs: Mapping[str, Any]) -> Sequence[Sequence[str]]:
    lengths: dict[int, list[str]] = {}
    for name, array in outputs.items():
        lengths.setdefault(len(array) if array.ndim else -1, []).append(name)
    return list(lengths.values())


def _cells(array: Any) -> Iterator[str]:
    """Return what stands in the rows of a column, large ones in short."""
    import numpy as np  # noqa: PLC0415 - only here

    for value in array if array.ndim else [array[()]]:
        if isinstance(value, bytes):
            yield str(plain(value))
        else:
            shown = np.array2string(np.asarray(value), threshold=8, edgeitems=2)
            yield shown if np.ndim(value) else str(value)


_PRINTERS: Final[Mapping[str, Callable[[Mapping[str, Any]], None]]] = {
    "text": _print_text,
    "table": _print_table,
    "json": _print_json,
    "npy": _print_npy,
}
