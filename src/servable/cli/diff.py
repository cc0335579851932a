"""`servable diff`: what is different in two SavedModels, and in what they answer."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from servable.cli.saved_model_summary import MetaGraph, Summary, summarize
from servable.cli.waiting import shown_steps
from servable.client.signatures import Signature
from servable.errors import ServingError, from_code
from servable.export.answers import (
    ATOL,
    RTOL,
    Tolerance,
    arrays_of,
    differences,
)
from servable.export.replay import Answer, replay
from servable.export.requests import Log, read_logs, read_warmup, request_of
from servable.export.steps import begin

_DIFFERENT: Final = 1
_TROUBLE: Final = 2


@click.command()
@click.argument("old", type=click.Path(path_type=Path), metavar="A")
@click.argument("new", type=click.Path(path_type=Path), metavar="B")
@click.option(
    "--requests",
    type=click.Path(path_type=Path),
    help="Requests to ask both, in a TFRecord file as warm-up has it; by default the "
    "warm-up requests of A and B.",
)
@click.option("--rtol", default=RTOL, show_default=True, help="Relative, for floats.")
@click.option("--atol", default=ATOL, show_default=True, help="Absolute.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def diff(
    old: Path,
    new: Path,
    requests: Path | None,
    rtol: float,
    atol: float,
    as_json: bool,
) -> None:
    """
    Compare the SavedModels in A and B: tags, signatures, assets and answers.

    A and B may also be base paths, which stand for their newest versions.  Answers
    are those to the requests that come with the models, or to those in a file; each
    model is run in a process of its own.  The exit status is 0 if nothing is
    different, 1 if something is, and 2 if that cannot be told: one of them is no
    SavedModel, cannot be opened, or has a signature that names a tensor which is not
    in its graph.
    """
    try:
        tolerance = Tolerance(rtol, atol)
        logs = None if requests is None else read_logs(requests)
        summaries = summarize(old), summarize(new)
    except (ServingError, OSError) as exc:
        click.echo(getattr(exc, "message", exc), err=True)
        sys.exit(_TROUBLE)
    found = {"contents": list(contents(*summaries)), "answers": []}
    troubles = [
        f"{summary.path}: {fault}"
        for summary in summaries
        for graph in summary.meta_graphs
        for fault in graph.faults
    ]
    olds, news = (summary.path for summary in summaries)
    try:
        asked = _warmup(olds, news) if logs is None else logs
        with shown_steps():
            found["answers"] += answers(olds, news, asked, tolerance)
        if not asked and not as_json:
            click.echo("no answers were compared: there are no requests", err=True)
    except ServingError as exc:
        troubles.append(exc.message)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for line in (*found["contents"], *found["answers"]):
            click.echo(line)
    for trouble in troubles:
        click.echo(trouble, err=True)
    sys.exit(_TROUBLE if troubles else _DIFFERENT if any(found.values()) else 0)


def contents(old: Summary, new: Summary) -> Iterator[str]:
    """Yield what is different in tags, signatures and assets, for people."""
    olds = {graph.tags: graph for graph in old.meta_graphs}
    news = {graph.tags: graph for graph in new.meta_graphs}
    for tags, what in _keys(olds, news):
        name = f"graph [{', '.join(tags)}]"
        if what:
            yield f"{name} is {what}"
        else:
            yield from _graph(name, olds[tags], news[tags])


def _graph(where: str, old: MetaGraph, new: MetaGraph) -> Iterator[str]:
    for name, what in _keys(old.signatures, new.signatures):
        if name.startswith("__saved_model"):
            continue  # how it is initialized is its own affair
        signature = f"{where}, signature {name!r}"
        if what:
            yield f"{signature} is {what}"
        else:
            yield from _signature(signature, old.signatures[name], new.signatures[name])
    for name, what in _keys(old.assets, new.assets):
        if what:
            yield f"{where}, asset {name!r} is {what}"
        elif old.assets[name] != new.assets[name]:
            sizes = f"{old.assets[name]} to {new.assets[name]} bytes"
            yield f"{where}, asset {name!r} changed from {sizes}"


def _signature(where: str, old: Signature, new: Signature) -> Iterator[str]:
    if old.method_name != new.method_name:
        yield f"{where}: {old.method_name} became {new.method_name}"
    for side in ("inputs", "outputs"):
        olds, news = getattr(old, side), getattr(new, side)
        for name, what in _keys(olds, news):
            tensor = f"{where}, {side[:-1]} {name!r}"
            if what:
                yield f"{tensor} is {what}"
            elif str(olds[name]) != str(news[name]):
                yield f"{tensor}: {olds[name]} became {news[name]}"


def _keys(old: Mapping[Any, Any], new: Mapping[Any, Any]) -> Iterator[tuple[Any, str]]:
    for key in sorted(old.keys() | new.keys()):
        yield key, "" if key in old and key in new else "gone" if key in old else "new"


def answers(
    old: Path, new: Path, logs: list[Log], tolerance: Tolerance
) -> Iterator[str]:
    """
    Yield which requests are answered otherwise, for people.

    Raises:
        ServingError: one of the two cannot be opened.
    """
    if not logs:
        return
    olds, news = _replay(old, logs), _replay(new, logs)
    for number, (log, before, after) in enumerate(
        zip(logs, olds, news, strict=True), 1
    ):
        name = request_of(log).model_spec.signature_name or "serving_default"
        for text in _answer(log, before, after, tolerance):
            yield f"request {number}, signature {name!r}: {text}"


def _warmup(old: Path, new: Path) -> list[Log]:
    """Return the requests that come with the two, each once."""
    unique = {log.SerializeToString(): log for log in read_warmup(old)}
    unique.update((log.SerializeToString(), log) for log in read_warmup(new))
    return list(unique.values())


def _replay(model: Path, logs: list[Log]) -> list[Answer]:
    begin(f"asking {model}")
    try:
        return replay(model, logs)
    except ServingError as exc:
        raise from_code(exc.code, f"{model} cannot be tried: {exc.message}") from None


def _answer(
    log: Log, before: Answer, after: Answer, tolerance: Tolerance
) -> Iterator[str]:
    if before.error is None and after.error is None:
        yield from differences(
            arrays_of(log, before.response), arrays_of(log, after.response), tolerance
        )
    elif before.error is None:
        yield f"fails now: {_text(after)}"
    elif after.error is None:
        yield f"does not fail any more: {_text(before)}"
    elif _text(before) != _text(after):
        yield f"fails otherwise: {_text(before)} became {_text(after)}"


def _text(answer: Answer) -> str:
    return answer.error.status_text if answer.error is not None else ""
