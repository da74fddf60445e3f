"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(rows: Sequence[Sequence[str]], *, padded: bool = False) -> str:
    """The rows as lines, the first as the head; ``padded``: columns as wide as their widest cell, to read as it is."""
    widths = [max(map(len, column)) if padded else 0 for column in zip(*rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines.insert(1, ["-" * max(width, 3) for width in widths])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
