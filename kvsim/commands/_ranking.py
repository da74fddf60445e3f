"""The rows of columns that stand out, as a table for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.text import Text

from kvsim.columns import Columns
from kvsim.commands._console import table
from kvsim.commands._format import shorten

Column = tuple[str, str, Callable[[float], str]]
"""Heading, name in the columns, and how a value is shown."""


def print_ranking(
    console: Console,
    heading: str,
    label: str,
    names: list[str],
    columns: Columns,
    rows: list[int],
    shown: list[Column],
) -> None:
    cells = [[render(columns[name][row]) for _, name, render in shown] for row in rows]
    widths = [
        max(map(len, [*title.split("\n"), *(line[number] for line in cells)]))
        for number, (title, _, _) in enumerate(shown)
    ]
    room = max(8, console.width - sum(widths) - len(widths))
    ranking = table(gap=1)
    ranking.add_column(label, no_wrap=True)
    for title, _, _ in shown:
        ranking.add_column(title, justify="right", no_wrap=True)
    for row, line in zip(rows, cells, strict=True):
        ranking.add_row(Text(shorten(names[row], room)), *line)
    console.print(heading, style="bold")
    console.print(ranking)


def highest(values: npt.NDArray[Any], top: int) -> list[int]:
    """Rows by falling value, the unknown last."""
    order = np.argsort(-np.nan_to_num(values, nan=-1.0), kind="stable")
    return [int(row) for row in order[:top]]
