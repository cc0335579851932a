"""`servable plugins`: what is installed beside this package, and whether it works."""

import sys

import click

from servable import plugins as registry
from servable.cli.tables import print_table
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
    rows: list[tuple[str, ...]] = []
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
        rows.append(row)
    print_table(("group", "name", "package", "imports", "object"), rows)
    for problem in problems:
        click.secho(problem, fg="red")
    if problems:
        sys.exit(_BROKEN)
