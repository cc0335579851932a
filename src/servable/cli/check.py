"""`servable check`: what a model config file would serve, without serving it."""

import errno
import os
import sys
from dataclasses import dataclass
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from servable.config import model_server_config
from servable.config.model_server_config import (
    All,
    Latest,
    ModelConfig,
    ModelServerConfig,
    Specific,
)
from servable.core.served_versions import Canary, Pinned, Shadow
from servable.errors import ServingError, Unimplemented, from_exception
from servable.platforms.saved_model_files import Completeness, judge_directory
from servable.policies import Platforms, aspired_version_policy, version_policy
from servable.sources.cache import ModelCache, default_cache_directory
from servable.sources.registry import SourceOptions, new_source, source_plugin
from servable.sources.store_source import StoreSource
from servable.sources.urls import redacted, scheme_of
from servable.sources.versions import (
    FileSystemStoragePathSourceConfig,
    ServableToMonitor,
    versions_among,
)

_WRONG: Final = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """What would be served of one model, and what is wrong with it."""

    model: ModelConfig
    versions: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()


@click.command()
@click.argument("config", type=click.Path())
def check(config: str) -> None:
    """
    Say what the model config file CONFIG would serve, or what is wrong with it.

    Nothing is loaded: the file, its paths and labels are checked, and whether each
    version has all of its files.  The exit status is 1 if anything is wrong.
    """
    try:
        models = model_server_config.read(os.path.abspath(config), Platforms())  # noqa: PTH100
    except ServingError as error:
        click.echo(error.status_text, err=True)
        sys.exit(_WRONG)
    findings = [find(model) for model in models.models]
    _show(models, findings)
    if any(finding.problems for finding in findings):
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
        if is_local  # what is elsewhere would have to be fetched
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
        raise from_exception(error) from error


def _problem_of_place(model: ModelConfig, error: OSError) -> str:
    shown = redacted(model.base_path)
    if isinstance(error, FileNotFoundError):
        return f"{shown}: {os.strerror(errno.ENOENT)}"
    return f"{shown}: {error.strerror or error}"


def _show(models: ModelServerConfig, findings: list[Finding]) -> None:
    console = Console()
    if not models.models:
        console.print("No models.")
        return
    table = Table("model", "platform", "policy", "versions", "labels")
    table.add_column("base path", overflow="fold")
    for finding in findings:
        model = finding.model
        table.add_row(
            model.name,
            model.platform,
            _policy_text(model),
            ", ".join(map(str, finding.versions)) or "none",
            ", ".join(f"{label}={v}" for label, v in model.version_labels.items()),
            redacted(model.base_path),
        )
    console.print(table)
    for finding in findings:
        for problem in finding.problems:
            console.print(
                f"{finding.model.name}: {problem}",
                style="red",
                markup=False,
                highlight=False,
                soft_wrap=True,
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
