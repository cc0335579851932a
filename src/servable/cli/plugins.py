"""`servable plugins`: what is installed beside this package, and whether it works."""

import sys

import click
from rich.console import Console
from rich.table import Table

from servable import plugins as registry
from servable.errors import ServingError

_BROKEN = 1


@click.command()
@click.argument("group", required=False)
def plugins(group: str | None) -> None:
    """
    List the plug-ins of all groups, or of GROUP.

    Each is imported.  The exit status is 1 if one of them cannot be; the others, and
    the models that do without it, work all the same.
    """
    groups = [g for g in registry.GROUPS if group in (None, g, g.partition(".")[2])]
    if not groups:
        raise click.BadParameter(f"There is none but {', '.join(registry.GROUPS)}.")
    table = Table()
    for column in ("group", "name", "package", "imports"):
        table.add_column(column, no_wrap=True)
    table.add_column("object", overflow="fold")
    problems: list[str] = []
    for plugin in (p for g in groups for p in registry.installed(g)):
        try:
            plugin.load()
        except ServingError as error:
            problems.append(error.message)
            answer = "no"
        else:
            answer = "yes"
        kind = plugin.group.partition(".")[2]
        row = (kind, plugin.name, plugin.distribution, answer, plugin.target)
        table.add_row(*row)
    console = Console()
    console.print(table)
    for problem in problems:
        console.print(
            problem, style="red", markup=False, highlight=False, soft_wrap=True
        )
    if problems:
        sys.exit(_BROKEN)
