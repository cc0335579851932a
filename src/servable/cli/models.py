"""`servable models`: what a running server serves, and how that is changed."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from google.protobuf import json_format

from servable.apis import POOL, administration_pb2, model_server_config_pb2
from servable.cli.client_options import client_options
from servable.cli.status_line import StatusLine
from servable.cli.tables import print_table, printable
from servable.core.servable_state import ManagerState
from servable.errors import Code, DeadlineExceeded, NotFound, ServingError
from servable.sources.urls import redacted, scheme_of

if TYPE_CHECKING:
    from servable.client import Client

Connect = Callable[[], "Client"]

_LOOK_S: Final = 0.1
_TELL_AGAIN_S: Final = 10.0


@click.group()
def models() -> None:
    """
    List and change what a running server serves.

    Servers take this from their own machine and from clients with a verified
    certificate; --allow_remote_administration lets others.  Changes last until the
    server ends, or its model config file changes.
    """


@models.command("list")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@client_options
def list_(*, name: str | None, as_json: bool, connect: Connect, **_: Any) -> None:
    """Show all models, or the one called NAME: versions, states, who answers."""
    with connect() as client:
        found = client.administration.models(name or "")
        if name and not found:
            raise NotFound(f"There is no model {name}")
    if as_json:
        response = administration_pb2.ListModelsResponse(models=found)
        click.echo(json_format.MessageToJson(response, descriptor_pool=POOL))
    else:
        _show(found)


@models.command()
@click.argument("name")
@click.argument("base_path")
@click.option("--platform", default="tensorflow", show_default=True)
@click.option("--version-policy", help='"all", "latest:N" or "specific:V,V".')
@click.option("--pin", type=int, metavar="VERSION", help="Serve this version only.")
@click.option(
    "--canary", type=float, metavar="PERCENT", help="For the newest version, to begin."
)
@click.option(
    "--shadow", type=float, metavar="PERCENT", help="Of copies for the newest version."
)
@click.option(
    "--aspired-version-policy", default="", help="Such as resource_preserving."
)
@click.option("--replace", is_flag=True, help="Change a model that is there.")
@click.option(
    "--wait",
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until it is available; 0 not at all.",
)
@client_options
def add(
    *,
    name: str,
    base_path: str,
    replace: bool,
    wait: float,
    timeout: float,
    connect: Connect,
    address: str,
    **options: Any,
) -> None:
    """
    Serve the versions under BASE_PATH as model NAME.

    It waits until one of them is available, and tells how far that is.  The exit
    status is 1 if none is: because it cannot be loaded, or not so soon.
    """
    del timeout, address
    config = _config(name, base_path, **options)
    with connect() as client:
        _add(client, config, replace=replace, wait_s=wait)


@models.command()
@click.argument("name")
@client_options
def remove(*, name: str, connect: Connect, **_: Any) -> None:
    """Serve the model NAME no more."""
    with connect() as client:
        click.echo(client.administration.remove_model(name))


@models.command()
@click.argument("config", required=False, type=click.Path())
@client_options
def reload(*, config: str | None, connect: Connect, **_: Any) -> None:
    """
    Have the server read its model config file again, or send it the file CONFIG.

    With CONFIG, exactly its models are served afterwards; the command returns when the
    new ones are available.
    """
    with connect() as client:
        if config is None:
            click.echo(client.administration.reload())
            return
        try:
            text = Path(config).read_text()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise click.UsageError(f"{config}: {why}") from None
        try:
            client.reload_config(text)
        except DeadlineExceeded as error:
            raise _with_problems(error, client) from None
        click.echo(f"{config} is in force")


@models.command()
@click.argument("name")
@click.argument("labels", nargs=-1, metavar="LABEL=VERSION...")
@click.option("--remove", multiple=True, metavar="LABEL", help="Take a label away.")
@client_options
def label(
    *,
    name: str,
    labels: Sequence[str],
    remove: Sequence[str],
    connect: Connect,
    **_: Any,
) -> None:
    """Give labels to available versions of the model NAME."""
    wanted = {}
    for text in labels:
        key, _equals, version = text.rpartition("=")
        try:
            wanted[key] = int(version)
        except ValueError:
            raise click.UsageError(f"{text!r} is no LABEL=VERSION") from None
    with connect() as client:
        click.echo(client.administration.set_labels(name, wanted, remove))


@models.command()
@click.argument("name")
@click.argument("version", required=False, type=int)
@client_options
def promote(*, name: str, version: int | None, connect: Connect, **_: Any) -> None:
    """
    Let the candidate of NAME, or VERSION, answer everything.

    Of a pinned model it moves the pin to VERSION.
    """
    with connect() as client:
        click.echo(client.administration.promote(name, version))


@models.command()
@click.argument("name")
@client_options
def rollback(*, name: str, connect: Connect, **_: Any) -> None:
    """Let the candidate of NAME answer nothing any more."""
    with connect() as client:
        click.echo(client.administration.roll_back(name))


def _with_problems(error: DeadlineExceeded, client: "Client") -> DeadlineExceeded:
    """Return *error* with what keeps the server's models from being available."""
    try:
        found = client.administration.models()
    except ServingError:
        return error  # it was the server that did not answer
    problems = [model.problem for model in found if model.problem]
    return DeadlineExceeded("; ".join([error.message, *problems]))


def _config(
    name: str,
    base_path: str,
    *,
    platform: str,
    version_policy: str | None,
    pin: int | None,
    canary: float | None,
    shadow: float | None,
    aspired_version_policy: str,
) -> model_server_config_pb2.ModelConfig:
    if sum(choice is not None for choice in (version_policy, pin, canary, shadow)) > 1:
        raise click.UsageError(
            "Of --version-policy, --pin, --canary and --shadow one can be given."
        )
    config = model_server_config_pb2.ModelConfig(
        name=name, base_path=_as_meant_here(base_path), model_platform=platform
    )
    if version_policy is not None:
        _set_version_policy(config, version_policy)
    if aspired_version_policy:
        config.servable.aspired_version_policy = aspired_version_policy
    if pin is not None:
        config.servable.pinned.SetInParent()
        config.servable.pinned.version = pin
    if canary is not None:
        config.servable.canary.percent = canary
    if shadow is not None:
        config.servable.shadow.percent = shadow
    return config


def _as_meant_here(base_path: str) -> str:
    """
    Return *base_path* as the server is to take it, which runs in another directory.

    One that is complete stays as it is written: what may be in it is for the server.
    """
    is_complete = scheme_of(base_path) != "file" or base_path.startswith("/")
    return base_path if is_complete else os.path.abspath(base_path)  # noqa: PTH100


def _set_version_policy(config: model_server_config_pb2.ModelConfig, text: str) -> None:
    kind, _, argument = text.partition(":")
    policy = config.model_version_policy
    try:
        if (kind, argument) == ("all", ""):
            policy.all.SetInParent()
        elif kind == "latest":
            policy.latest.num_versions = int(argument or 1)
        elif kind == "specific":
            policy.specific.versions.extend(int(v) for v in argument.split(","))
        else:
            raise _no_version_policy(text)
    except ValueError:
        raise _no_version_policy(text) from None


def _no_version_policy(text: str) -> click.UsageError:
    return click.UsageError(
        f'{text!r} is no version policy; write "all", "latest:N" or "specific:V,V".'
    )


def _add(
    client: "Client",
    config: model_server_config_pb2.ModelConfig,
    *,
    replace: bool,
    wait_s: float,
) -> None:
    """Add a model, and print what happens to its versions meanwhile."""
    administration = client.administration
    status = StatusLine(sys.stdout)
    news = _News(is_followed=status.is_seen)
    news.lines(administration.models(config.name), time.monotonic())  # of before
    with futures.ThreadPoolExecutor(1) as pool, status:
        adding = pool.submit(
            administration.add_model, config, replace=replace, wait_s=wait_s
        )
        is_done = False
        while not is_done:
            is_done = bool(futures.wait([adding], _LOOK_S).done)
            found = administration.models(config.name)
            for line in news.lines(found, time.monotonic()):
                status.print(line)
            versions = [version for model in found for version in model.versions]
            working = [version for version in versions if version.progress]
            status.show("; ".join(map(_version_line, working)))
    click.echo(adding.result())


class _News:
    """
    What is worth a line of what happens to a model and its versions.

    Args:
        is_followed: somebody sees how far things are, and needs no lines for that.
    """

    def __init__(self, *, is_followed: bool) -> None:
        self._is_followed = is_followed
        self._told: dict[int, tuple[tuple[str, ...], float]] = {}
        self._problem = ""

    def lines(self, found: Iterable[administration_pb2.Model], now: float) -> list[str]:
        """Return a line for what is wrong, and for each version as it is needed."""
        lines = []
        for model in found:
            if model.problem not in ("", self._problem):
                lines.append(printable(model.problem))
            self._problem = model.problem
            lines += self._version_lines(model.versions, now)
        return lines

    def _version_lines(
        self, versions: Iterable[administration_pb2.Version], now: float
    ) -> list[str]:
        """Return a line for each version that does another thing, or one for long."""
        lines = []
        for version in versions:
            # How far it is comes behind a colon, and is another thing each time.
            doing = version.progress.partition(":")[0]
            what = _state(version), doing, version.status.status.error_message
            told, told_at = self._told.get(version.status.version, (None, now))
            is_long = bool(version.progress) and now - told_at >= _TELL_AGAIN_S
            if what != told or (is_long and not self._is_followed):
                self._told[version.status.version] = what, now
                lines.append(_version_line(version))
        return lines


def _version_line(version: administration_pb2.Version) -> str:
    words = f"version {version.status.version} is {_state(version)}"
    if version.progress:
        words = f"{words}: {_progress(version)}"
    if version.status.status.error_code:
        words = f"{words}: {_error(version)}"
    return words


def _progress(version: administration_pb2.Version) -> str:
    return f"{version.progress} ({version.progress_seconds:.0f} s)"


def _state(version: administration_pb2.Version) -> str:
    return ManagerState(version.status.state).name


def _error(version: administration_pb2.Version) -> str:
    status = version.status.status
    return f"{Code(status.error_code).name}: {status.error_message}"


def _show(found: Sequence[administration_pb2.Model]) -> None:
    if not found:
        click.echo("No models.")
        return
    print_table(
        ("model", "version", "state", "answers", "labels", ""),
        (row for model in found for row in _rows(model)),
    )
    for model in found:
        if model.HasField("rollout"):
            rollout = model.rollout
            verdict = rollout.verdict or "no candidate"
            click.echo(printable(f"{model.config.name}: {rollout.kind}, {verdict}"))
        if model.problem:
            click.echo(printable(f"{model.config.name}: {model.problem}"))


def _rows(model: administration_pb2.Model) -> Iterator[tuple[str, ...]]:
    rows = [_row(model, version) for version in model.versions]
    rows = rows or [("", "none yet", "", "", redacted(model.config.base_path))]
    for at, row in enumerate(rows):
        yield "" if at else model.config.name, *row


def _row(
    model: administration_pb2.Model, version: administration_pb2.Version
) -> tuple[str, ...]:
    labels = [
        label
        for label, number in sorted(model.config.version_labels.items())
        if number == version.status.version
    ]
    notes = []
    if version.progress:
        notes.append(_progress(version))
    if version.status.status.error_code:
        notes.append(_error(version))
    copies = [f"{n} {what}" for what, n in sorted(version.shadow_requests.items()) if n]
    if copies:
        notes.append(f"copies: {', '.join(copies)}")
    answers = f"{version.default_percent:g} %" if version.default_percent else ""
    return (
        str(version.status.version),
        _state(version),
        answers,
        ", ".join(labels),
        "; ".join(notes),
    )
