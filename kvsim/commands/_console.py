"""Where text for people goes: results to stdout, all else to stderr."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from kvsim.commands._format import printable

LABEL_WIDTH = 10

_UNBOUND = 10_000


class WholeLines(Console):
    """A console that leaves lines whole which are longer than it is wide: a number without its end is another one."""

    def print(self, *objects: Any, crop: bool = False, **options: Any) -> None:
        super().print(*objects, crop=crop, **options)


class WholeCells(Table):
    """A table whose ``no_wrap`` columns are as wide as what is in them, however narrow the console is."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self._widen(console, options)
        yield from super().__rich_console__(console, options)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        self._widen(console, options)
        return super().__rich_measure__(console, options.update(max_width=_UNBOUND))

    def _widen(self, console: Console, options: ConsoleOptions) -> None:
        unbound = options.update(max_width=_UNBOUND)
        for column in self.columns:
            if column.no_wrap:
                cells = (column.header, *column.cells)
                column.min_width = max(Measurement.get(console, unbound, cell).maximum for cell in cells)


@dataclass(frozen=True)
class Indented:
    """A table moved in by two columns."""

    inner: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        least = Measurement.get(console, options.update(max_width=_UNBOUND), self.inner).minimum
        width = max(options.max_width - 2, least)
        for line in console.render_lines(self.inner, options.update(width=width), pad=False):
            yield Segment("  ")
            yield from line
            yield Segment.line()


def results() -> Console:
    """The console of stdout: 80 columns and without colours where it is not a terminal."""
    return WholeLines(highlight=False, emoji=False, markup=False)


def asides() -> Console:
    """The console of stderr."""
    return WholeLines(stderr=True, highlight=False, emoji=False, markup=False)


def warn(warnings: Iterable[str]) -> None:
    """Say warnings on stderr, one a line."""
    console = asides()
    for warning in warnings:
        console.print(Text.assemble(("warning: ", "yellow"), printable(warning)), soft_wrap=True)


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
    return WholeCells(
        box=box.SIMPLE_HEAD,
        padding=(0, gap - 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )
