"""
`servable` and its commands.

A command is a row of COMMANDS: what `servable --help` says of it, and where it is.
Its module is imported when the command is run.
"""

import importlib
import os
from dataclasses import dataclass
from typing import Final

import click


@dataclass(frozen=True, slots=True)
class Command:
    """Where a command is, as "module:object", and what it does in one line."""

    target: str
    help: str


COMMANDS: Final[dict[str, Command]] = {
    "serve": Command("servable.cli.serve:serve", "Serve models over gRPC and REST."),
    "check": Command(
        "servable.cli.check:check", "Say what a model config file would serve."
    ),
    "show": Command("servable.cli.show:show", "Show what is in a SavedModel."),
    "diff": Command("servable.cli.diff:diff", "Compare two SavedModels."),
    "export": Command(
        "servable.cli.export:export", "Export a model, try it, and publish it."
    ),
    "convert": Command(
        "servable.cli.convert:convert", "Make a SavedModel of an older format."
    ),
    "optimize": Command(
        "servable.cli.optimize:optimize", "Make a faster SavedModel of another."
    ),
    "publish": Command(
        "servable.cli.publish:publish", "Make a SavedModel the next version of a model."
    ),
    "status": Command(
        "servable.cli.status:status", "Show which versions of a model are served."
    ),
    "models": Command(
        "servable.cli.models:models", "List and change what a running server serves."
    ),
    "metadata": Command(
        "servable.cli.metadata:metadata", "Show what a served model can be asked."
    ),
    "predict": Command("servable.cli.predict:predict", "Ask a served model."),
    "bench": Command("servable.cli.bench:bench", "Measure how fast a server answers."),
    "plugins": Command(
        "servable.cli.plugins:plugins", "List what is installed to extend the server."
    ),
    "log": Command("servable.cli.log:log", "Read logged requests."),
    "warmup": Command("servable.cli.warmup:warmup", "Make the warm-up of a model."),
    "batching": Command(
        "servable.cli.batching:batching", "See how a server puts requests into batches."
    ),
    "tune": Command(
        "servable.cli.tune:tune", "Find batching parameters for a latency target."
    ),
    "include": Command(
        "servable.cli.include:include", "Print where the C and C++ headers are."
    ),
    "version": Command(
        "servable.cli.version:version", "Print the versions of servable and TensorFlow."
    ),
    "completion": Command(
        "servable.cli.completion:completion", "Print the completion script of a shell."
    ),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].target.partition(":")
        command = getattr(importlib.import_module(module), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{name} is no command")
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.help) for name, row in COMMANDS.items()])


# https://no-color.org; None is click's own rule: styles on terminals only.
_COLOR: Final = False if os.environ.get("NO_COLOR") else None


@click.group(cls=LazyGroup, context_settings={"color": _COLOR})
@click.version_option(package_name="servable", message="%(prog)s %(version)s")
def servable() -> None:
    """Serve TensorFlow models with the API of TensorFlow Serving."""
