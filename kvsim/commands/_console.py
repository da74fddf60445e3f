"""Where text for people goes: results to stdout, all else to stderr."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

FACTS_LABEL_WIDTH = 10


def results() -> Console:
    """The console of stdout: 80 columns and without colours where it is not a terminal."""
    return Console(highlight=False, emoji=False, markup=False)


def asides() -> Console:
    """The console of stderr."""
    return Console(stderr=True, highlight=False, emoji=False, markup=False)


def warn(warnings: Iterable[str]) -> None:
    """Say warnings on stderr, one a line."""
    console = asides()
    for warning in warnings:
        console.print(Text.assemble(("warning: ", "yellow"), warning), soft_wrap=True)


def facts(rows: Sequence[tuple[str, Sequence[str]]]) -> Table:
    """Labelled lines: each label once, its lines beside it."""
    grid = Table.grid(padding=(0, 0))
    grid.add_column(width=FACTS_LABEL_WIDTH, no_wrap=True, style="bold")
    grid.add_column()
    for label, lines in rows:
        for number, line in enumerate(lines):
            grid.add_row(label if number == 0 else "", Text(line))
    return grid


def table(*, footer: bool = False) -> Table:
    """An empty table in the one style of all commands."""
    return Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        show_footer=footer,
        header_style="bold",
        footer_style="bold",
    )


def indented(inner: Table) -> Padding:
    """The table, moved in by two columns."""
    return Padding(inner, (0, 0, 0, 2))
