"""Where text for people goes: results to stdout, all else to stderr."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

LABEL_WIDTH = 10


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


def print_facts(console: Console, rows: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Print labelled lines: each label once, its lines beside it, wrapped to the console."""
    margin = " " * LABEL_WIDTH
    for label, lines in rows:
        wrapped = [part for line in lines for part in _wrap(line, console.width - LABEL_WIDTH)]
        for number, part in enumerate(wrapped):
            lead = Text(label.ljust(LABEL_WIDTH), style="bold") if number == 0 else Text(margin)
            console.print(lead + Text(part), soft_wrap=True)


def _wrap(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, max(width, 30), break_on_hyphens=False)


def table(*, gap: int = 2) -> Table:
    """An empty table in the one style of all commands, ``gap`` spaces between columns."""
    return Table(
        box=box.SIMPLE_HEAD,
        padding=(0, gap - 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )


def indented(inner: Table) -> Padding:
    """The table, moved in by two columns."""
    return Padding(inner, (0, 0, 0, 2))
