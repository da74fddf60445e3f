"""How far a long job has come, on stderr: a bar where someone is watching, now and then a line where nobody is."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from kvsim.commands._console import asides

if TYPE_CHECKING:
    import rich.progress

_LINE_EVERY_S = 10.0


class Progress:
    """Counts what is done of ``what``; ``total`` is None where it is not known beforehand."""

    def __init__(self, stack: ExitStack, what: str, total: int | None) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._said_s = time.monotonic()
        self._bar = self._start(stack) if sys.stderr.isatty() else None

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        if self._bar is not None:
            self._bar.advance(self._task)
        elif time.monotonic() - self._said_s >= _LINE_EVERY_S:
            self._said_s = time.monotonic()
            of = "" if self._total is None else f" of {self._total}"
            asides().print(f"{self._done}{of} {self._what}", soft_wrap=True)

    def _start(self, stack: ExitStack) -> rich.progress.Progress:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn(self._what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        bar = stack.enter_context(Bar(*columns, console=asides(), transient=True))
        self._task = bar.add_task(self._what, total=self._total)
        return bar
