"""
The call of `servable predict` for elsewhere: a line of curl, a program in Python.

Both do what the command would do; what depends on the model is asked of the server.
"""

import json
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from servable.cli.client_options import Connection
from servable.cli.values import (
    WHOLE,
    is_picture,
    picture_form,
    plain,
    read_inputs,
)

if TYPE_CHECKING:
    from servable.client import Signature

    Known = Callable[[], Signature | None]

_MODULES: Final = ("json", "numpy", "os", "pathlib", "PIL.Image", "sys")


def curl_call(
    connection: Connection, model: str, values: Any, arguments: Mapping[str, Any]
) -> str:
    """
    Return the command for *values* as they were read.

    Raises:
        UsageError: REST has no such call.
    """
    from servable.client.operations import ModelRef  # noqa: PLC0415 - slow to import
    from servable.client.rest_codec import model_path  # noqa: PLC0415

    if "outputs" in arguments:
        raise click.UsageError("REST always gives all outputs; leave --output out.")
    ref = ModelRef(model, arguments.get("version"), arguments.get("label"))
    document: dict[str, Any] = {}
    if "signature" in arguments:
        document["signature_name"] = arguments["signature"]
    if isinstance(values, Mapping):
        document["inputs"] = {name: _told(value) for name, value in values.items()}
    else:
        document["inputs"] = _told(values)
    body = shlex.quote(json.dumps(document))
    url = shlex.quote(connection.rest_address() + model_path(ref) + ":predict")
    return " ".join(["curl", *connection.curl_options(), "-d", body, url])


def _told(value: Any) -> Any:
    """Return what JSON has for a value, rows of features as serialized examples."""
    is_rows = isinstance(value, list) and value
    if is_rows and all(isinstance(row, Mapping) for row in value):
        from servable.client.examples import make_examples  # noqa: PLC0415

        value = [example.SerializeToString() for example in make_examples(value)]
    return plain(value)


def python_call(
    connection: Connection,
    model: str,
    named: Mapping[str, str],
    arguments: Mapping[str, Any],
    known: "Known",
) -> str:
    """
    Return the program that reads --input options *named* and makes the call.

    *known* is asked for the signature only if what is read depends on it.

    Raises:
        InvalidArgument: A file that the program depends on cannot be read.
    """
    sources = {name: _source(name, text, known) for name, text in named.items()}
    if WHOLE in sources:
        given = sources[WHOLE]
    else:
        given = ", ".join(f"{name!r}: {source}" for name, source in sources.items())
        given = f"{{{given}}}"
    client = connection.python()
    more = "".join(f", {name}={value!r}" for name, value in arguments.items())
    imports = [name for name in _MODULES if f"{name}." in f"{client} {given}"]
    tls = ", Tls" if "Tls(" in client else ""
    return "\n".join(
        [
            *(f"import {module}" for module in imports),
            f"from servable.client import Client{tls}",
            "",
            f"with {client} as client:",
            f"    print(client.predict({model!r}, {given}{more}))",
        ]
    )


def _source(name: str, text: str, known: "Known") -> str:
    """Return Python that reads a value as the command does."""
    if text == "-":
        return "json.load(sys.stdin)"
    if not text.startswith("@") or text.endswith(".csv"):
        values = read_inputs({name: text}, known)
        return repr(values[name] if name else values)
    path = text[1:]
    if path.endswith(".npz"):
        archive = f"numpy.load({path!r})"
        return f"{archive}[{_member(name, text)!r}]" if name else f"dict({archive})"
    if path.endswith(".npy"):
        return f"numpy.load({path!r})"
    if is_picture(text):
        return _picture_source(name, text, known)
    return f"json.loads({_bytes_of(path)})"


def _member(name: str, text: str) -> str:
    """Return the name of the array that the command takes from a .npz."""
    arrays: Mapping[str, Any] = read_inputs({WHOLE: text})
    return next(iter(arrays)) if len(arrays) == 1 else name


def _bytes_of(path: str) -> str:
    return f"pathlib.Path({path!r}).read_bytes()"


def _picture_source(name: str, text: str, known: "Known") -> str:
    form, path = picture_form(name, known()), text[1:]
    if not form.mode:
        return f"[{_bytes_of(path)}]" if form.is_row else _bytes_of(path)
    source = f"PIL.Image.open({path!r}).convert({form.mode!r})"
    if form.width or form.height:
        pixels = read_inputs({name: text}, known)
        height, width = (pixels[name] if name else pixels).shape[-3:-1]
        source = f"{source}.resize(({width}, {height}))"
    at = ["numpy.newaxis"] if form.is_row else []
    at += ["..."] if at or form.mode == "L" else []
    at += ["numpy.newaxis"] if form.mode == "L" else []
    return f"numpy.asarray({source})" + (f"[{', '.join(at)}]" if at else "")
