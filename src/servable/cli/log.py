"""`servable log`: read what request logging wrote."""

import datetime
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from google.protobuf import json_format

from servable.apis import predict_pb2, tensor_pb2
from servable.cli.tables import print_table
from servable.client.rest_codec import json_string
from servable.client.tensors import make_ndarray
from servable.errors import ServingError
from servable.platforms import prediction_logs
from servable.platforms.prediction_logs import Record

_BAD_FILE: Final = 2


@click.group()
def log() -> None:
    """Read the files that request logging writes."""


@log.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option("--model", help="Only requests to this model.")
@click.option("--version", type=int, help="Only what this version answered.")
@click.option("--signature", help="Only requests for this signature.")
@click.option(
    "--kind", type=click.Choice(prediction_logs.KINDS), help="Only this kind."
)
@click.option("--last", type=click.IntRange(1), help="Only the last so many.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document a line.")
def show(
    *,
    files: tuple[Path, ...],
    model: str | None,
    version: int | None,
    signature: str | None,
    kind: str | None,
    last: int | None,
    as_json: bool,
) -> None:
    """
    Show the requests in FILES, which may still be written to.

    Warm-up files can be shown, too.  The exit status is 2 for a file that is damaged.
    """
    wanted = {
        "model": model,
        "version": version,
        "signature_name": signature,
        "kind": kind,
    }
    filters = {name: value for name, value in wanted.items() if value is not None}
    try:
        if as_json:
            for record in _chosen(files, filters, last):
                click.echo(json.dumps(as_document(record)))
        else:
            print_table(
                ("time", "model", "version", "kind", "signature", "request"),
                map(_row, _chosen(files, filters, last)),
            )
    except (ServingError, OSError) as error:
        click.echo(getattr(error, "message", error), err=True)
        sys.exit(_BAD_FILE)


def _chosen(
    files: tuple[Path, ...], filters: Mapping[str, Any], last: int | None
) -> Iterator[Record]:
    def warn(text: str) -> None:
        click.echo(f"{text}: is it still being written to?", err=True)

    found = (
        record
        for file in files
        for record in prediction_logs.read(file, warn)
        if all(getattr(record, name) == value for name, value in filters.items())
    )
    if last is None:
        yield from found
    else:
        yield from list(found)[-last:]


def _row(record: Record) -> tuple[str, ...]:
    return (
        _time(record),
        record.model,
        "" if record.version is None else str(record.version),
        record.kind,
        record.signature_name,
        _summary(record),
    )


def _time(record: Record) -> str:
    if not record.time:
        return ""
    moment = datetime.datetime.fromtimestamp(record.time, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _summary(record: Record) -> str:
    request: Any = record.request if record.kind else None
    match record.kind:
        case "predict" | "predict_streamed":
            inputs = (
                f"{name} {_type_text(tensor)}"
                for name, tensor in sorted(request.inputs.items())
            )
            return ", ".join(inputs)
        case "classify" | "regress" | "multi_inference":
            kind = request.input.WhichOneof("kind")
            count = len(getattr(request.input, kind).examples) if kind else 0
            return f"{count} example{'' if count == 1 else 's'}"
        case "session_run":
            return ", ".join(feed.name for feed in request.feed)
        case _:
            return "nothing"


def _type_text(tensor: tensor_pb2.TensorProto) -> str:
    array = make_ndarray(tensor)
    dtype = "string" if array.dtype.kind in "OSU" else str(array.dtype)
    return f"{dtype}{list(array.shape)}"


def as_document(record: Record) -> dict[str, Any]:
    """Return *record* as JSON has it: tensors as lists, bytes as REST has them."""
    document: dict[str, Any] = {
        "time": _time(record) or None,
        "model": record.model,
        "version": record.version,
        "kind": record.kind,
        "signature": record.signature_name,
    }
    if not record.kind:
        return document
    request, response = record.request, record.response
    if isinstance(request, predict_pb2.PredictRequest):
        document["inputs"] = _arrays(request.inputs)
        if isinstance(response, predict_pb2.PredictResponse):
            document["outputs"] = _arrays(response.outputs)
        return document
    for name, message in (("request", request), ("response", response)):
        document[name] = json_format.MessageToDict(
            message, preserving_proto_field_name=True
        )
    return document


def _arrays(tensors: Mapping[str, tensor_pb2.TensorProto]) -> dict[str, Any]:
    return {name: _plain(make_ndarray(t)) for name, t in sorted(tensors.items())}


def _plain(array: Any) -> Any:
    if array.dtype.kind in "fiub":
        return array.tolist()
    return _strings(np.asarray(array).tolist())


def _strings(value: Any) -> Any:
    if isinstance(value, list):
        return [_strings(one) for one in value]
    return json_string(value) if isinstance(value, bytes) else str(value)
