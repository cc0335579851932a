"""How tables are laid out."""

import pytest

from servable.cli.tables import printable, table_lines


@pytest.mark.parametrize(
    ("headings", "rows", "expected"),
    [
        pytest.param(
            ("name", "n"),
            [("a", "1"), ("bcdefg", "100")],
            [
                " name     n",
                "──────────────",
                " a        1",
                " bcdefg   100",
            ],
            id="columns are as wide as their longest cell",
        ),
        pytest.param(
            ("", "no"),
            [],
            ["    no", "───────"],
            id="a table may be empty",
        ),
        pytest.param(
            ("row", "matrix", "x"),
            [("0", "[[1 2]\n [3 4]]", "y")],
            [
                " row   matrix    x",
                "───────────────────",
                " 0     [[1 2]    y",
                "        [3 4]]",
            ],
            id="a cell may have several lines",
        ),
        pytest.param(
            ("日本", "n"),
            [("abc", "1"), ("e\u0301", "2")],
            [
                " 日本   n",
                "──────────",
                " abc    1",
                " e\u0301      2",
            ],
            id="wide characters take two columns and combining ones none",
        ),
        pytest.param(
            ("name", "n"),
            [("\x1b[2J", "1")],
            [
                " name      n",
                "─────────────",
                " \\x1b[2J   1",
            ],
            id="escape sequences do not reach the terminal",
        ),
    ],
)
def test_a_table_is(
    headings: tuple[str, ...], rows: list[tuple[str, ...]], expected: list[str]
) -> None:
    assert list(table_lines(headings, rows)) == expected


def test_numbers_stand_on_the_right() -> None:
    lines = list(table_lines(("load", "n"), [("8/s", "100")], numbers=True))

    assert lines == [" load     n", "────────────", "  8/s   100"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("ä 日本 [bold]", "ä 日本 [bold]", id="what prints stays"),
        pytest.param("a\r\nb\u202e", r"a\r\nb\u202e", id="what does not is escaped"),
    ],
)
def test_one_line_is_printable(text: str, expected: str) -> None:
    assert printable(text) == expected
