"""The CSV of a sweep: a row a point, written as soon as it is known, so that a rerun goes on where another ended."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvsim.commands.sweep._points import AXES, Point
from kvsim.commands.sweep._rows import COLUMNS
from kvsim.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvsim.commands.sweep._rows import Row

MARK = "sweep"
"""The column in front: what all rows of a file rest on, as a fingerprint."""

HEADER = [MARK, *COLUMNS]


class Journal:
    """Rows by point. With a path they are also in that file, those that were there already included.

    Raises InputError for a file that is no table of a sweep, or of one over other logs, options or versions.
    """

    def __init__(self, path: str | None, fingerprint: str) -> None:
        self._path = path
        self._fingerprint = fingerprint
        self._rows: dict[Point, Row] = {}
        if path is not None:
            self._open(Path(path))
        self.resumed = len(self._rows)
        """How many rows the file had."""

    def known(self, point: Point, serve: Callable[[Point], Row]) -> Row:
        """The point's row as it stands here, else as it is served."""
        row = self._rows.get(point)
        return serve(point) if row is None else row

    def row(self, point: Point, serve: Callable[[Point], Row]) -> Row:
        """The point's row, served and written down if it is not there yet."""
        if point not in self._rows:
            row = serve(point)
            if self._path is not None:
                self._append(self._path, [self._fingerprint, *(_text(value) for value in row.values())])
            self._rows[point] = row
        return self._rows[point]

    def _open(self, path: Path) -> None:
        if not path.exists():
            self._append(str(path), HEADER)
            return
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read: {error}", file=str(path), remedy="Choose another name") from None
        whole = text[: text.rfind("\n") + 1]
        lines = list(csv.reader(io.StringIO(whole)))
        if not lines or lines[0] != HEADER:
            raise self._foreign(path, "it is no table of a sweep by this version of kvsim")
        for line in lines[1:]:
            if line[0] != self._fingerprint or len(line) != len(HEADER):
                raise self._foreign(path, "it is of a sweep over other logs, options or models")
            row: Row = {name: _value(cell, COLUMNS[name]) for name, cell in zip(COLUMNS, line[1:], strict=True)}
            self._rows[Point(**{axis: row[axis] for axis in AXES})] = row
        if whole != text:  # the end of a row that was cut off while it was written
            with open(path, "r+b") as file:
                file.truncate(len(whole.encode()))

    def _append(self, path: str, cells: Sequence[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        try:
            with open(path, "a", encoding="utf-8", newline="") as file:
                file.write(line.getvalue())
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", file=path, remedy="Check the folder") from None

    def _foreign(self, path: Path, problem: str) -> InputError:
        return InputError(problem, file=str(path), field="csv", remedy="Choose another file, or remove this one")


def _text(value: object) -> str:
    """A cell; floats with all their digits, nothing for what is unknown."""
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _value(cell: str, kind: type) -> Any:
    return None if cell == "" else kind(cell)
