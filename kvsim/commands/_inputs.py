"""Reading logs for a command, with a progress bar where someone is watching a long read."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from kvsim.commands._console import asides

if TYPE_CHECKING:
    from kvsim.insight import Transcripts
    from kvsim.trajectory import Batch

_PATIENCE_S = 0.5
"""Reads shorter than this show no bar."""


def read_logs(files: list[str], *, format: str, lenient: bool, tokenizer: str | None) -> Batch:
    """The files' batch; a bar on stderr if that is a terminal and the read takes long."""
    from kvsim.logs import read

    with ExitStack() as stack:
        return read(files, format, lenient=lenient, tokenizer=tokenizer, progress=_progress(stack))


def read_text(files: list[str], *, format: str, lenient: bool, tokenizer: str | None) -> Transcripts:
    """The files' batch with what was said in it, as far as they carry text."""
    from kvsim.insight import Transcripts

    with ExitStack() as stack:
        return Transcripts.read(files, format, lenient=lenient, tokenizer=tokenizer, progress=_progress(stack))


def _progress(stack: ExitStack) -> _Bar | None:
    return _Bar(stack) if sys.stderr.isatty() else None


class _Bar:
    """Called with bytes read and bytes in all; draws nothing at first."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._begun_s = time.monotonic()
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        if not self._shown:
            if time.monotonic() - self._begun_s < _PATIENCE_S:
                return
            self._show(total)
        self._progress.update(self._task, completed=done)

    def _show(self, total: int) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._progress = self._stack.enter_context(Progress(*columns, console=asides(), transient=True))
        self._task = self._progress.add_task("reading", total=total)
        self._shown = True
