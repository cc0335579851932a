"""`servable export`: a Keras file, a SavedModel or a Python function is published."""

import base64
import importlib
import inspect
import json
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from servable.cli.publish import check_target, local_path, publish_version
from servable.cli.quiet import quiet_import, quiet_tensorflow
from servable.cli.saved_model_summary import summarize
from servable.cli.waiting import shown_steps
from servable.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServingError,
)
from servable.export.publishing import check_complete, staged
from servable.export.reasons import reason_of
from servable.export.replay import replay
from servable.export.requests import (
    read_warmup,
    request_log,
    request_of,
    write_warmup,
)
from servable.export.steps import begin

_FAILED: Final = 1
_KERAS_FILES: Final = (".keras", ".h5", ".hdf5")


@click.command()
@click.argument("source")
@click.argument("base_path", metavar="BASE")
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    help="A JSON file of lists of samples, by signature name.",
)
@click.option("--keep", type=int, help="Keep so many versions; all by default.")
@click.option(
    "--as-version", type=int, help="The number; the one after the highest by default."
)
@click.option(
    "--model",
    default="",
    help="The model's name, where BASE is a database without #NAME.",
)
@click.option(
    "--check/--no-check",
    default=None,
    help="Open and ask it before it is published, as by default.",
)
def export(
    source: str,
    base_path: str,
    samples: Path | None,
    keep: int | None,
    as_version: int | None,
    model: str,
    check: bool | None,
) -> None:
    """
    Export SOURCE to the base path BASE as the model's next version.

    SOURCE is a file of Keras (.keras, .h5), the directory of a SavedModel, or
    MODULE:NAME, which is a model, or a function without arguments that returns one,
    or a dict of the arguments of servable.export.export.  Before it is published the
    version is opened in a process of its own, and has to answer the samples as the
    model does.  BASE is what `servable publish` takes, too: a directory, an object
    store or a database.  What was published is printed.  The exit status is 1 if
    nothing was.
    """
    try:
        check_target(base_path, keep, as_version, model)
        folder = local_path(base_path)
        with shown_steps(), tempfile.TemporaryDirectory() as beside:
            if folder is not None:
                options = {"version": as_version, "keep": keep, "check": check}
                done = str(_export(source, folder, samples, options))
            else:
                made = _export(source, Path(beside), samples, {"check": check})
                done = publish_version(str(made), base_path, keep, as_version, model)
    except ServingError as error:
        click.echo(error.status_text, err=True)
        sys.exit(_FAILED)
    except ModuleNotFoundError as error:
        click.echo(str(error), err=True)
        sys.exit(_FAILED)
    click.echo(done)


def _export(
    source: str, base_path: Path, samples: Path | None, options: Mapping[str, Any]
) -> Path:
    """Export *source*; options that are None are not given."""
    given = {name: value for name, value in options.items() if value is not None}
    if Path(source, "saved_model.pb").is_file():
        return export_saved_model(Path(source), base_path, samples, **given)
    return export_model(source, base_path, samples, **given)


def export_model(
    source: str, base_path: Path, samples: Path | None, **options: Any
) -> Path:
    """Export a Keras file, or what a name in a module stands for."""
    given = {} if samples is None else {"samples": read_samples(samples)}
    arguments = {**_arguments(source), **given}
    export_object = _exporting().export
    for name in arguments.keys() - inspect.signature(export_object).parameters.keys():
        raise InvalidArgument(f"{source}: export has no argument {name!r}")
    return Path(export_object(**{**arguments, "base_path": base_path, **options}))


def export_saved_model(
    source: Path,
    base_path: Path,
    samples: Path | None,
    *,
    version: int | None = None,
    keep: int | None = None,
    check: bool = True,
) -> Path:
    """
    Publish a SavedModel, if it can be opened and answers the samples at all.

    Without samples those count that come with it, as its warm-up requests.
    """
    check_complete(source)
    given = {} if samples is None else read_samples(samples)
    graphs = [g for g in summarize(source).meta_graphs if "serve" in g.tags]
    if check and (faults := [fault for graph in graphs for fault in graph.faults]):
        raise FailedPrecondition(f"{source} cannot be served: {faults[0]}")
    signatures = {
        name: signature
        for graph in graphs
        for name, signature in graph.signatures.items()
    }
    unknown = sorted(given.keys() - signatures.keys())
    if unknown:
        raise InvalidArgument(f"there are samples for {unknown}, and no signature")
    logs = [
        request_log(
            name,
            signatures[name].method_name,
            sample,
            {key: spec.dtype for key, spec in signatures[name].inputs.items()},
            {key: spec.shape for key, spec in signatures[name].inputs.items()},
        )
        for name in given
        for sample in given[name]
    ]
    with staged(base_path) as staging:
        staging.copy(source)
        if logs:
            write_warmup(staging.path, logs)
        if check:
            begin("trying the model in another process")
            _check_that_it_answers(staging.path)
        return staging.publish(version=version, keep=keep)


def _check_that_it_answers(model: Path) -> None:
    logs = read_warmup(model)
    for log, answer in zip(logs, replay(model, logs), strict=True):
        if answer.error is not None:
            name = request_of(log).model_spec.signature_name
            raise FailedPrecondition(
                f"the model fails a sample for signature {name!r}: "
                f"{reason_of(answer.error)}"
            )


def read_samples(path: Path) -> Mapping[str, Any]:
    """
    Return the samples in a JSON file, by signature name.

    `{"b64": …}` stands for bytes, as over REST.

    Raises:
        InvalidArgument: it is no such file.
    """
    try:
        document = json.loads(path.read_text(), object_hook=_bytes)
    except (OSError, ValueError) as exc:
        raise InvalidArgument(f"{path} cannot be read: {exc}") from None
    if not isinstance(document, dict) or not all(
        isinstance(value, list) for value in document.values()
    ):
        raise InvalidArgument(f"{path} must have lists of samples by signature name")
    return document


def _bytes(value: dict[str, Any]) -> Any:
    if value.keys() == {"b64"}:
        return base64.b64decode(value["b64"])
    return value


def _arguments(source: str) -> dict[str, Any]:
    if source.endswith(_KERAS_FILES):
        if not Path(source).is_file():
            raise NotFound(f"there is no file {source}")
        _exporting()
        from servable.export.keras_files import load_keras  # noqa: PLC0415 - as there

        begin("reading the model")
        return {"model": load_keras(source)}
    module, colon, name = source.partition(":")
    if not colon:
        raise NotFound(
            f"{source} is no file of Keras, no SavedModel, and no MODULE:NAME"
        )
    _exporting()
    begin(f"running {source}")
    sys.path.insert(0, "")
    try:
        value = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except (AttributeError, ImportError, ValueError) as exc:
        raise NotFound(f"{source}: {exc}") from exc
    except Exception as exc:  # whatever the module raises
        raise InvalidArgument(f"{source}: {_told(exc)}") from exc
    try:
        return _made(value)
    except Exception as exc:  # whatever the function raises
        raise InvalidArgument(f"{source}: {_told(exc)}") from exc


def _exporting() -> Any:
    """Import what exports objects: TensorFlow, for seconds, if not every source."""
    begin("importing TensorFlow")
    quiet_tensorflow()
    with quiet_import():
        from servable.export import exporting  # noqa: PLC0415
    return exporting


def _told(exc: Exception) -> str:
    """Return what *exc* is, and where in somebody's program it came from."""
    *_, last = traceback.extract_tb(exc.__traceback__)
    is_theirs = last.filename not in (__file__, importlib.__file__)
    where = f" ({last.filename}, line {last.lineno})" if is_theirs else ""
    return f"{type(exc).__name__}: {reason_of(exc)}{where}"


def _made(value: Any) -> dict[str, Any]:
    if callable(value) and type(value).__name__ == "function":
        value = value()
    if isinstance(value, dict) and "model" in value:
        return dict(value)
    return {"model": value}
