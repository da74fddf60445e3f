"""Reading logs of every known format into a batch: :func:`read`.

What a program holds in its hands rather than in files goes through :func:`from_messages` (chat messages) and
:func:`from_token_masks` (rollouts). A new format is one file with a ``FORMAT``, and its name in
:mod:`kvsim.logs.registry`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from kvsim.errors import InputError, UnknownNameError
from kvsim.logs.masks import from_token_masks
from kvsim.logs.messages import from_messages
from kvsim.logs.reading import Reader, Reading
from kvsim.logs.registry import FORMATS, choose
from kvsim.logs.said import Exchange
from kvsim.logs.source import Paths, Progress, Source, find
from kvsim.tokens import token_counter
from kvsim.trajectory import Batch

__all__ = ["FORMATS", "from_messages", "from_token_masks", "read", "read_with_text"]


def read(
    paths: Paths,
    format: str = "auto",
    *,
    lenient: bool = False,
    tokenizer: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Batch:
    """Read log files into one batch; ``batch.report`` says what was seen, skipped, flagged and estimated.

    ``paths``: files, globs and directories (searched recursively), plain or gzipped. ``format``: a name of
    :data:`FORMATS`, or "auto" to recognise each file by its content. A broken record raises :class:`InputError`
    naming file, line and field; with ``lenient`` it is left out and counted in ``report.dropped``. ``tokenizer``
    counts text that has no logged counts (see :func:`kvsim.tokens.token_counter`). ``progress(done, total)`` is called
    with bytes of the files as stored. Files are streamed: memory grows with turns, not with text.
    """
    return _read(paths, format, lenient, tokenizer, progress, keep_text=False).build()


def read_with_text(
    paths: Paths,
    format: str = "auto",
    *,
    lenient: bool = False,
    tokenizer: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> tuple[Batch, Mapping[int, Exchange]]:
    """The same with what was said in each turn, by row, as far as the format carries text; memory grows with it."""
    reading = _read(paths, format, lenient, tokenizer, progress, keep_text=True)
    return reading.build(), reading.builder.said


def _read(
    paths: Paths,
    format: str,
    lenient: bool,
    tokenizer: str | os.PathLike[str] | None,
    progress: Progress | None,
    *,
    keep_text: bool,
) -> Reading:
    if format != "auto" and format not in FORMATS:
        raise UnknownNameError("log format", format, ["auto", *FORMATS])
    files = find(paths)
    reading = Reading(lenient=lenient, count=token_counter(tokenizer), keep_text=keep_text)
    meter = _Meter(progress, files)
    readers: dict[str, Reader] = {}
    for path in files:
        reading.report.files += 1
        with reading.attempt():
            source = Source(path, meter.advance)
            if not source.head.strip():
                raise InputError("the file is empty", file=path, remedy="Leave it out, or read leniently")
            chosen = choose(format, source)
            reading.report.formats[chosen.name] += 1
            if chosen.name not in readers:
                readers[chosen.name] = chosen.reader(reading)
            readers[chosen.name].read(source)
    for reader in readers.values():
        reader.finish()
    meter.finish()
    return reading


class _Meter:
    """Adds up the bytes taken from all files for the caller's progress display."""

    def __init__(self, progress: Progress | None, files: list[str]) -> None:
        self._progress = progress
        self._total = sum(os.path.getsize(path) for path in files) if progress else 0
        self._done = 0

    def advance(self, taken: int) -> None:
        if self._progress and taken:
            self._done = min(self._done + taken, self._total)
            self._progress(self._done, self._total)

    def finish(self) -> None:
        if self._progress:
            self._progress(self._total, self._total)
