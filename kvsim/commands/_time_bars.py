"""Where the time went, as bars."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from kvsim.commands._format import duration, percent

BAR_WIDTH = 40

_PARTS = (
    ("tool pauses", "pause_s", "bright_black"),
    ("queue", "queue_s", "yellow"),
    ("fresh prefill", "fresh_prefill_s", "cyan"),
    ("recompute", "recompute_s", "red"),
    ("decode", "decode_s", "blue"),
)


def time_bars(sums: Mapping[str, float]) -> Table:
    """Pauses, queue where there is one, prefill, recompute and decode as shares of their sum."""
    parts = [(label, sums[name], colour) for label, name, colour in _PARTS if name in sums]
    whole = sum(seconds for _, seconds, _ in parts)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column()
    grid.add_column(justify="right")
    grid.add_column(justify="right")
    grid.add_column()
    for label, seconds, colour in parts:
        share = seconds / whole if whole else 0.0
        bar = "█" * round(share * BAR_WIDTH) or ("▏" if seconds else "")
        grid.add_row(label, duration(seconds), percent(share), Text(bar, style=colour))
    return grid
