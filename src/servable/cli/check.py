"""
`servable check`: what a model config file would serve, without serving it; and what
the operations of a model could do.
"""

import errno
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from servable.cli.saved_model_summary import find_version
from servable.cli.tables import print_table, printable
from servable.config import model_server_config
from servable.config.model_server_config import (
    TENSORFLOW,
    All,
    Latest,
    ModelConfig,
    ModelServerConfig,
    Specific,
)
from servable.core.served_versions import Canary, Pinned, Shadow
from servable.errors import ServingError, Unimplemented
from servable.platforms.graph_ops import (
    EFFECTS,
    ORDINARY,
    effects_of,
    operations_of,
)
from servable.platforms.saved_model_files import Completeness, judge_directory
from servable.policies import Platforms, aspired_version_policy, version_policy
from servable.sources.cache import ModelCache, default_cache_directory
from servable.sources.registry import SourceOptions, new_source, source_plugin
from servable.sources.store_source import StoreSource, what_failed
from servable.sources.urls import redacted, scheme_of
from servable.sources.versions import (
    FileSystemStoragePathSourceConfig,
    ServableToMonitor,
    versions_among,
)

_WRONG: Final = 1
_BAD_DIRECTORY: Final = 2
_LABELS_NEED: Final = (
    "A server that starts with these labels, or gets them together with their models, "
    "needs --allow_version_labels_for_unavailable_models."
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What would be served of one model, and what is wrong with it."""

    model: ModelConfig
    versions: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()


@click.command()
@click.argument("path", type=click.Path(), metavar="CONFIG")
@click.option(
    "--ops",
    is_flag=True,
    help="CONFIG is the directory of a model: list what its operations can do to the "
    "machine.",
)
@click.option(
    "--allow",
    default="",
    metavar="EFFECT,…",
    help=f"With --ops: what they may do, of {', '.join(EFFECTS)}.",
)
def check(path: str, *, ops: bool, allow: str) -> None:
    """
    Say what the model config file CONFIG would serve, or what is wrong with it.

    Nothing is loaded: the file, its paths and labels are checked, and whether each
    SavedModel has all of its files.  The exit status is 1 if anything is wrong.

    With --ops it is the directory of a SavedModel, or the base path of some, of which
    the newest is looked at.  The exit status is 1 if an operation can do more than
    compute, and more than is allowed, and 2 if there is no SavedModel.
    """
    if ops:
        _check_operations(Path(path), frozenset(filter(None, allow.split(","))))
        return
    try:
        models = model_server_config.read(os.path.abspath(path), Platforms())  # noqa: PTH100
    except ServingError as error:
        click.echo(error.status_text, err=True)
        sys.exit(_WRONG)
    findings = [find(model) for model in models.models]
    _show(models, findings)
    if any(model.version_labels for model in models.models):
        click.echo(_LABELS_NEED)
    if any(finding.problems for finding in findings):
        sys.exit(_WRONG)


def _check_operations(path: Path, allowed: frozenset[str]) -> None:
    if unknown := sorted(allowed - EFFECTS.keys()):
        raise click.BadParameter(f"there is no {unknown[0]}", param_hint="--allow")
    try:
        directory, _, _ = find_version(path)
        counts = operations_of(str(directory))
    except (ServingError, OSError) as error:
        click.echo(getattr(error, "message", error), err=True)
        sys.exit(_BAD_DIRECTORY)
    found = {
        (effect, op): count
        for op, count in sorted(counts.items())
        for effect in effects_of(op)
    }
    click.echo(f"{sum(counts.values())} operations of {len(counts)} kinds")
    if not found:
        click.echo("They compute, and do nothing else.")
        return
    print_table(
        ("", "operation", "can", "what it does"),
        (
            (str(count), op, effect, EFFECTS[effect])
            for (effect, op), count in sorted(found.items())
        ),
    )
    if {effect for effect, _ in found} - allowed - ORDINARY:
        sys.exit(_WRONG)


def find(model: ModelConfig) -> Finding:
    """Look at the files of *model*."""
    is_local = scheme_of(model.base_path) == "file"
    try:
        listing = versions_among(
            os.listdir(model.base_path)  # noqa: PTH208 - a path is text here
            if is_local
            else children_elsewhere(model)
        )
    except OSError as error:
        return Finding(model, problems=(_problem_of_place(model, error),))
    except ServingError as error:
        return Finding(model, problems=(error.message,))
    try:
        chosen = tuple(version_policy(model).choose(listing.versions))
    except ServingError as error:
        return Finding(model, problems=(error.message,))
    problems = [
        f"{listing.versions[version]}: {verdict.reason}"
        for version in chosen
        # What is elsewhere would have to be fetched; of others each platform knows.
        if is_local
        and model.platform == TENSORFLOW
        and (
            verdict := judge_directory(
                os.path.join(model.base_path, listing.versions[version])  # noqa: PTH118
            )
        ).completeness
        is not Completeness.COMPLETE
    ]
    if not chosen:
        problems.append(
            "none of the requested versions is there"
            if listing.versions
            else "no directory with a number for a name"
        )
    if model.options and model.options.aspired_version_policy:
        try:
            aspired_version_policy(model.options.aspired_version_policy)
        except ServingError as error:
            problems.append(error.message)
    if isinstance(model.version_policy, Specific):
        problems += [
            f"version {version} is not there"
            for version in model.version_policy.versions
            if version not in listing.versions
        ]
    problems += [
        f'label "{label}" is on version {version}, which is not served'
        for label, version in model.version_labels.items()
        if version not in chosen
    ]
    return Finding(model, tuple(sorted(chosen)), tuple(problems))


def children_elsewhere(model: ModelConfig) -> list[str]:
    """
    Return the names below a base path that is no directory here.

    Raises:
        OSError: It is not there, or cannot be reached.
        ServingError: There is no Source for it that can be asked, or it fails.
    """
    options = SourceOptions(-1, ModelCache(default_cache_directory()))
    source = new_source(source_plugin(scheme_of(model.base_path)), options)
    servable = ServableToMonitor(model.name, model.base_path)
    source.check(FileSystemStoragePathSourceConfig((servable,)))
    if not isinstance(source, StoreSource):
        raise Unimplemented("only a server can look there")
    try:
        return list(source.store(servable).children())
    except (OSError, ServingError):
        raise
    except Exception as error:
        raise what_failed(error) from error


def _problem_of_place(model: ModelConfig, error: OSError) -> str:
    shown = redacted(model.base_path)
    if isinstance(error, FileNotFoundError):
        return f"{shown}: {os.strerror(errno.ENOENT)}"
    return f"{shown}: {error.strerror or error}"


def _show(models: ModelServerConfig, findings: list[Finding]) -> None:
    if not models.models:
        click.echo("No models.")
        return
    print_table(
        ("model", "platform", "policy", "versions", "labels", "base path"),
        map(_row, findings),
    )
    for finding in findings:
        for problem in finding.problems:
            click.secho(printable(f"{finding.model.name}: {problem}"), fg="red")


def _row(finding: Finding) -> tuple[str, ...]:
    model = finding.model
    return (
        model.name,
        model.platform,
        _policy_text(model),
        ", ".join(map(str, finding.versions)) or "none",
        ", ".join(f"{label}={v}" for label, v in model.version_labels.items()),
        redacted(model.base_path),
    )


def _policy_text(model: ModelConfig) -> str:
    match model.options.served_versions if model.options else None:
        case Pinned(version):
            return f"pinned {version}"
        case Canary(percent):
            return f"canary {percent:g} %"
        case Shadow(percent):
            return f"shadow {percent:g} %"
        case None:
            pass
    match model.version_policy:
        case All():
            return "all"
        case Latest(num_versions):
            return "latest" if num_versions == 1 else f"latest {num_versions}"
        case Specific(versions):
            return f"specific {', '.join(map(str, versions))}"
