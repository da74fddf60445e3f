"""Files in which every record is read by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import msgspec

from kvsim.logs.reading import Reading, decode
from kvsim.logs.source import Source

R = TypeVar("R")

Add = Callable[[Reading, R, Source, int], None]
"""Adds what a record of a type says, found in a file at a line (or element)."""


class _RecordReader(Generic[R]):
    def __init__(self, kind: type[R], add: Add[R], reading: Reading) -> None:
        self._reading = reading
        self._decoder = msgspec.json.Decoder(kind)
        self._add = add

    def read(self, source: Source) -> None:
        for text in self._reading.texts(source):
            with self._reading.attempt():
                self._add(self._reading, decode(self._decoder, text, source), source, text.line)

    def finish(self) -> None:
        pass


def reader_of(kind: type[R], add: Add[R]) -> Callable[[Reading], _RecordReader[R]]:
    """A reader that adds each record, typed, on its own; a broken one is left out alone where reading is lenient."""
    return partial(_RecordReader, kind, add)
