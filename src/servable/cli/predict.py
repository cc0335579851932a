"""`servable predict`: ask a model from the shell."""

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from servable.cli.client_options import client_options
from servable.errors import InvalidArgument

if TYPE_CHECKING:
    from servable.client import Client, Outputs

_WHOLE: Final = ""  # the name of a value that was given without one


@click.command()
@click.argument("model")
@click.option(
    "--input",
    "-i",
    "inputs",
    multiple=True,
    required=True,
    metavar="NAME=VALUE",
    help="A value is JSON, text, @FILE with .npy or .json, or - for JSON from stdin.  "
    "NAME= may be left out where the signature has one input.",
)
@click.option("--signature", default="", help="Signature name; serving_default.")
@click.option("--version", type=int, help="A version; the latest if left out.")
@click.option("--label", help="Version label instead of a version.")
@click.option("--output", "outputs", multiple=True, help="An output; all if left out.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
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
    as_json: bool,
    as_curl: bool,
    as_python: bool,
    address: str,
    timeout: float,  # noqa: ARG001 - is in the client already
    connect: Callable[[], "Client"],
) -> None:
    """Run a signature of MODEL and print its outputs."""
    named = dict(map(split_input, inputs))
    which = {"signature": signature, "version": version, "label": label}
    arguments: dict[str, Any] = {k: v for k, v in which.items() if v not in ("", None)}
    if outputs:
        arguments["outputs"] = list(outputs)
    if as_python:
        click.echo(_python(address, model, named, arguments))
        return
    values = read_inputs(named)
    if as_curl:
        click.echo(_curl(address, model, values, arguments))
        return
    with connect() as client:
        answer = client.predict(model, values, **arguments)
    click.echo(_json(answer) if as_json else _text(answer))


def read_inputs(named: Mapping[str, str]) -> Any:
    """
    Return the values of --input options by name, or the one that has no name.

    Raises:
        UsageError: One has no name, and is not alone.
        InvalidArgument: A file cannot be read.
    """
    values: Any = {name: _read(text) for name, text in named.items()}
    if _WHOLE not in values:
        return values
    if len(values) > 1:
        raise click.UsageError("--input without a name stands alone.")
    return values[_WHOLE]


def split_input(argument: str) -> tuple[str, str]:
    """Return name and value; JSON and files may have a = of their own."""
    name, equals, value = argument.partition("=")
    if not equals or argument[0] in '[{"@-':
        return _WHOLE, argument
    return name, value


def _read(text: str) -> Any:
    if text == "-":
        return _parse(sys.stdin.read(), "stdin")
    if not text.startswith("@"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    path = Path(text[1:])
    try:
        if path.suffix == ".npy":
            import numpy as np  # noqa: PLC0415 - only for files

            return np.load(path, allow_pickle=False)
        return _parse(path.read_text("utf-8"), str(path))
    except (OSError, ValueError) as exc:
        raise InvalidArgument(f"cannot read {path}: {exc}") from None


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise InvalidArgument(f"{where} is no JSON: {exc}") from None


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


def _json(outputs: "Outputs") -> str:
    return json.dumps({name: _plain(array) for name, array in outputs.items()})


def _text(outputs: "Outputs") -> str:
    return "\n".join(
        f"{name}: {array.dtype}{list(array.shape)}\n{array}"
        for name, array in outputs.items()
    )


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
    sources = {name: _source(text) for name, text in named.items()}
    if _WHOLE in sources:
        given = sources[_WHOLE]
    else:
        given = ", ".join(f"{name!r}: {source}" for name, source in sources.items())
        given = f"{{{given}}}"
    more = "".join(f", {name}={value!r}" for name, value in arguments.items())
    imports = {
        module
        for source in sources.values()
        for module in ("json", "numpy", "sys")
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


def _source(text: str) -> str:
    """Return Python that reads a value as this command does."""
    if text == "-":
        return "json.load(sys.stdin)"
    if not text.startswith("@"):
        return repr(_read(text))
    path = text[1:]
    if path.endswith(".npy"):
        return f"numpy.load({path!r})"
    return f"json.load(open({path!r}))"
