"""`servable warmup`: make the file of requests that a version is warmed up with."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click

from servable.apis import prediction_log_pb2
from servable.cli.quiet import quiet_tensorflow
from servable.cli.saved_model_summary import find_version, summarize
from servable.cli.values import by_name, read_inputs
from servable.client.grpc_codec import RPCS
from servable.client.inputs import prepare
from servable.client.operations import ModelRef, Predict
from servable.client.signatures import Signature
from servable.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ServingError,
    from_exception,
)
from servable.platforms import prediction_logs
from servable.platforms.prediction_logs import PART, Record
from servable.platforms.warmup import FILE, MAX_RECORDS, REPLAYED

_FAILED: Final = 1
_LOOK_AGAIN_S: Final = 0.2

Log = prediction_log_pb2.PredictionLog


@click.group()
def warmup() -> None:
    """Make the requests that a version is warmed up with before it is served."""


@warmup.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--log",
    "prefixes",
    multiple=True,
    metavar="FILE|PREFIX",
    help="Take requests from files of logged requests: one file, or all that begin "
    "with the filename_prefix of a logging_config.",
)
@click.option("--model", help="With --log: only requests to this model.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0),
    default=0.0,
    help="With --log: seconds to wait until the running server has logged --count.",
)
@click.option(
    "--input",
    "-i",
    "inputs",
    multiple=True,
    metavar="NAME=VALUE",
    help="Make one Predict request of these inputs; as for `servable predict`.",
)
@click.option("--signature", default="serving_default", help="With --input.")
@click.option(
    "--requests",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='JSON file with a list of {"signature_name": …, "inputs": {…}}.',
)
@click.option(
    "--count",
    type=click.IntRange(1, MAX_RECORDS),
    default=100,
    show_default=True,
    help="At most so many different requests.",
)
@click.option("--tags", default="serve", help="Of the graph that is tried.")
@click.option(
    "--validate/--no-validate", default=True, help="Try every request on the model."
)
def record(
    *,
    directory: Path,
    prefixes: tuple[str, ...],
    model: str | None,
    wait_s: float,
    inputs: tuple[str, ...],
    signature: str,
    requests: Path | None,
    count: int,
    tags: str,
    validate: bool,
) -> None:
    """
    Write the warm-up of the SavedModel in DIRECTORY.

    The requests come from live traffic that was logged (--log), from --input, or from
    a file (--requests).  Each of them is tried on the model first; if one fails,
    nothing is written, and the exit status is 1.  The file replaces the one that was
    there at once, and is used when the version is loaded the next time.
    """
    if sum(map(bool, (prefixes, inputs, requests))) != 1:
        raise click.UsageError("Give one of --log, --input and --requests.")
    quiet_tensorflow()
    try:
        version = find_version(directory)[0]
        if prefixes:
            logs = _logged(prefixes, model, count, wait_s)
        else:
            logs = list(_given(version, tags, inputs, signature, requests))[:count]
        if validate:
            _try(version, tags.split(","), logs)
        path = version / FILE
        written = prediction_logs.write(path, logs)
    except (ServingError, OSError) as error:
        click.echo(getattr(error, "message", error), err=True)
        sys.exit(_FAILED)
    click.echo(f"{path}: {written} request{'' if written == 1 else 's'}")


def _logged(
    prefixes: Sequence[str], model: str | None, count: int, wait_s: float
) -> list[Log]:
    """Return up to *count* different requests, the oldest first."""
    give_up_at = time.monotonic() + wait_s
    while True:
        logs = _different(_records(prefixes, model), count)
        if len(logs) == count or (logs and not wait_s):
            return logs
        if time.monotonic() >= give_up_at:
            break
        time.sleep(_LOOK_AGAIN_S)
    asked = f" to model {model}" if model else ""
    if not logs:
        raise NotFound(f"{' '.join(prefixes)}: no requests{asked} were logged")
    raise DeadlineExceeded(
        f"{len(logs)} different requests{asked} were logged in {wait_s:g} s, and "
        f"{count} are wanted; give a lower --count, or a longer --wait"
    )


def _records(prefixes: Sequence[str], model: str | None) -> Iterator[Record]:
    for file in (file for prefix in prefixes for file in _files(Path(prefix))):
        try:
            for found in prediction_logs.read(file, lambda _: None):
                if f"{found.kind}_log" in REPLAYED and model in {None, found.model}:
                    yield found
        except FileNotFoundError:  # finished just now, under another name, or removed
            continue


def _files(prefix: Path) -> list[Path]:
    if prefix.is_file():
        return [prefix]
    found = [
        file
        for file in prefix.parent.glob(f"{prefix.name}-*")
        if file.name.endswith((".tfrecord", f".tfrecord{PART}"))
    ]
    if not prefix.parent.is_dir():
        raise NotFound(f"{prefix.parent} does not exist")
    # By time, process and number, which are in the name.
    return sorted(found, key=_age)


def _age(file: Path) -> tuple[int, ...]:
    numbers = file.name.split(".tfrecord")[0].split("-")[-3:]
    return tuple(int(number) if number.isdigit() else 0 for number in numbers)


def _different(records: Iterator[Record], count: int) -> list[Log]:
    """Return what warm-up needs of the records: different requests, and no answers."""
    logs: dict[bytes, Log] = {}
    for found in records:
        if len(logs) == count:
            break
        log = Log()
        getattr(log, f"{found.kind}_log").request.CopyFrom(found.request)
        logs.setdefault(log.SerializeToString(deterministic=True), log)
    return list(logs.values())


def _given(
    version: Path,
    tags: str,
    inputs: Sequence[str],
    signature_name: str,
    requests: Path | None,
) -> Iterator[Log]:
    signatures = _signatures(version, tags.split(","))
    if requests is None:
        name = signature_name or "serving_default"
        values = read_inputs(by_name(inputs), lambda: signatures.get(name))
        yield _predict(signatures, signature_name, values)
        return
    for position, entry in enumerate(_entries(requests)):
        try:
            name = entry.get("signature_name") or "serving_default"
            yield _predict(signatures, name, entry["inputs"])
        except ServingError as error:
            raise InvalidArgument(f"request {position}: {error.message}") from None


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InvalidArgument(f"{path} is no JSON: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise InvalidArgument(f"{path} has no list of requests")
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or "inputs" not in entry:
            raise InvalidArgument(f'{path}: request {position} has no "inputs"')
    return entries


def _signatures(version: Path, tags: Sequence[str]) -> dict[str, Signature]:
    for meta_graph in summarize(version).meta_graphs:
        if set(meta_graph.tags) == set(tags):
            return dict(meta_graph.signatures)
    raise NotFound(f"{version} has no graph with the tags {', '.join(tags)}")


def _predict(signatures: dict[str, Signature], name: str, values: Any) -> Log:
    if name not in signatures:
        known = ", ".join(sorted(signatures)) or "none"
        raise NotFound(f"there is no signature {name!r}; there are: {known}")
    operation = Predict(ModelRef("warmup"), name, prepare(values, signatures[name]))
    log = Log()
    log.predict_log.request.MergeFromString(RPCS[Predict].encode(operation))
    return log


def _try(version: Path, tags: Sequence[str], logs: Sequence[Log]) -> None:
    from servable.platforms.tensorflow import TensorFlowPlatform  # noqa: PLC0415

    opened = TensorFlowPlatform(b"", tags).open(str(version))
    try:
        replay: Callable[[int, bytes], bytes] = opened.servable.replay
        for position, log in enumerate(logs):
            found = prediction_logs.record(log)
            try:
                replay(found.number, found.request.SerializeToString())
            except Exception as error:
                failure = from_exception(error)
                raise type(failure)(
                    f"request {position} ({found.kind}, signature "
                    f"{found.signature_name or 'serving_default'}) fails: "
                    f"{failure.status_text}"
                ) from error
    finally:
        opened.close()
