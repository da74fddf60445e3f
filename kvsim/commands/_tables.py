"""Tables as Markdown, printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from kvsim._markdown import markdown_table


def print_table(rows: Sequence[Sequence[str]], out: TextIO) -> None:
    """As Markdown, in columns; the first row is the head."""
    out.write(markdown_table(rows, padded=True))
