"""`servable predict`: ask a model from the shell."""

import io
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from servable.cli.client_options import client_options, complete_model
from servable.cli.tables import print_table
from servable.cli.values import WHOLE, by_name, is_picture, read_inputs
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
    address: str,
    timeout: float,  # noqa: ARG001 - is in the client already
    connect: Callable[[], "Client"],
) -> None:
    """Run a signature of MODEL and print its outputs."""
    named = by_name(inputs)
    which = {"signature": signature, "version": version, "label": label}
    arguments: dict[str, Any] = {k: v for k, v in which.items() if v not in ("", None)}
    if outputs:
        arguments["outputs"] = list(outputs)
    if as_python:
        click.echo(_python(address, model, named, arguments))
        return
    if form == "npy" and not as_curl and sys.stdout.isatty():
        raise click.UsageError("--format npy is not for terminals: add > FILE.npy")
    with connect() as client:

        def known() -> "Signature | None":
            metadata = client.metadata(model, version=version, label=label)
            return metadata.signatures.get(signature or "serving_default")

        values = read_inputs(named, known)
        if as_curl:
            click.echo(_curl(address, model, values, arguments))
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


def _plain(value: Any) -> Any:
    """Return what JSON has for a value: arrays as lists, bytes as text or base 64."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, complex):
        return [value.real, value.imag]
    if isinstance(value, bytes):
        from servable.client.rest_codec import json_string  # noqa: PLC0415

        return json_string(value)
    return value


def _print_json(outputs: Mapping[str, Any]) -> None:
    click.echo(json.dumps({name: _plain(array) for name, array in outputs.items()}))


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
            yield str(_plain(value))
        else:
            shown = np.array2string(np.asarray(value), threshold=8, edgeitems=2)
            yield shown if np.ndim(value) else str(value)


_PRINTERS: Final[Mapping[str, Callable[[Mapping[str, Any]], None]]] = {
    "text": _print_text,
    "table": _print_table,
    "json": _print_json,
    "npy": _print_npy,
}


def _curl(address: str, model: str, values: Any, arguments: Mapping[str, Any]) -> str:
    from servable.client.operations import ModelRef  # noqa: PLC0415 - slow to import
    from servable.client.rest_codec import model_path  # noqa: PLC0415

    if "outputs" in arguments:
        raise click.UsageError("REST always gives all outputs; leave --output out.")
    if not address.startswith(("http://", "https://")):
        host = address.rpartition(":")[0] or address
        address = f"http://{host}:8501"  # where REST is unless somebody moved it
    ref = ModelRef(model, arguments.get("version"), arguments.get("label"))
    document: dict[str, Any] = {}
    if "signature" in arguments:
        document["signature_name"] = arguments["signature"]
    if isinstance(values, Mapping):
        document["inputs"] = {name: _plain(value) for name, value in values.items()}
    else:
        document["inputs"] = _plain(values)
    body = shlex.quote(json.dumps(document))
    return f"curl -d {body} {shlex.quote(address + model_path(ref) + ':predict')}"


def _python(
    address: str, model: str, named: Mapping[str, str], arguments: Mapping[str, Any]
) -> str:
    sources = {name: _source(name, text) for name, text in named.items()}
    if WHOLE in sources:
        given = sources[WHOLE]
    else:
        given = ", ".join(f"{name!r}: {source}" for name, source in sources.items())
        given = f"{{{given}}}"
    more = "".join(f", {name}={value!r}" for name, value in arguments.items())
    imports = {
        module
        for source in sources.values()
        for module in ("json", "numpy", "PIL.Image", "sys")
        if f"{module}." in source
    }
    return "\n".join(
        [
            *(f"import {module}" for module in sorted(imports)),
            "from servable.client import Client",
            "",
            f"with Client({address!r}) as client:",
            f"    print(client.predict({model!r}, {given}{more}))",
        ]
    )


def _source(name: str, text: str) -> str:
    """Return Python that reads a value as this command does."""
    if text == "-":
        return "json.load(sys.stdin)"
    if not text.startswith("@") or text.endswith(".csv"):
        values = read_inputs({name: text})
        return repr(values[name] if name else values)
    path = text[1:]
    if path.endswith(".npz"):
        archive = f"numpy.load({path!r})"
        return f"{archive}[{name!r}]" if name else f"dict({archive})"
    if path.endswith(".npy"):
        return f"numpy.load({path!r})"
    if is_picture(text):
        return f"numpy.asarray(PIL.Image.open({path!r}))[numpy.newaxis]"
    return f"json.load(open({path!r}))"
