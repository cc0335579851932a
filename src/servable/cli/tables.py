"""
Tables as aligned text.

What stands where is decided here, and nothing else: cells are text already, and lines
are as long as they have to be.  What a peer or a file named cannot steer a terminal:
characters that do not print are shown by their escapes.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Final

import click

_BETWEEN: Final = "   "


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: bool = False,
) -> None:
    """Print a table to stdout, the headings in bold where that is a terminal."""
    first, *rest = table_lines(headings, rows, numbers=numbers)
    click.secho(first, bold=True)
    for line in rest:
        click.echo(line)


def table_lines(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: bool = False,
) -> Iterator[str]:
    """
    Yield the lines of a table: the headings, a rule, and the rows.

    A row has as many cells as there are headings, and a cell may have several lines.
    Columns are aligned on the left, or on the right if they are *numbers*.
    """
    table = [[_lines(cell) for cell in row] for row in (headings, *rows)]
    widths = [
        max(_width(line) for cell in column for line in cell)
        for column in zip(*table, strict=True)
    ]
    for number, row in enumerate(table):
        for texts in zip_longest(*row, fillvalue=""):
            cells = (
                _padded(text, width, numbers=numbers)
                for text, width in zip(texts, widths, strict=True)
            )
            yield f" {_BETWEEN.join(cells)}".rstrip()
        if number == 0:
            yield "─" * (sum(widths) + len(_BETWEEN) * (len(widths) - 1) + 2)


def printable(text: str) -> str:
    """Return one line of text, with escapes for what does not print."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def _lines(cell: str) -> list[str]:
    return [printable(line) for line in cell.split("\n")]


def _width(text: str) -> int:
    """Return how many columns of a terminal *text* takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def _padded(text: str, width: int, *, numbers: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if numbers else text + space
