"""Tables of a sweep: a CSV file that grows by a line a point, or a folder of Parquet files, one a point.

Both say what all their rows rest on, as a fingerprint, and refuse rows that rest on anything else.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kvsim.commands.sweep._points import AXES, Point
from kvsim.commands.sweep._rows import COLUMNS
from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.commands.sweep._journal import Table
    from kvsim.commands.sweep._rows import Row

MARK = "sweep"
"""The column in front: the fingerprint."""

HEADER = [MARK, *COLUMNS]
SCHEMA = "kvsim.points/1"


def table_of(file: str | None, folder: str | None, fingerprint: str) -> Table | None:
    """The table asked for, if any. Raises InputError for one that is none of this sweep's."""
    if file is not None and folder is not None:
        raise InputError("--csv and --parquet are two tables", remedy="Choose one")
    if file is not None:
        return CsvTable(Path(file), fingerprint)
    return ParquetTable(folder, fingerprint) if folder is not None else None


class CsvTable:
    """Rows in a file."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path = path
        self._fingerprint = fingerprint

    def rows(self) -> Mapping[Point, Row]:
        """Those of whole lines; the end of a line that was cut off while it was written is cut off too."""
        path, found = self._path, dict[Point, "Row"]()
        if not path.exists():
            self._write(HEADER)
            return found
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read: {error}", file=str(path), remedy="Choose another name") from None
        whole = text[: text.rfind("\n") + 1]
        lines = list(csv.reader(io.StringIO(whole)))
        if not lines or lines[0] != HEADER:
            raise self._foreign("it is no table of a sweep by this version of kvsim")
        for line in lines[1:]:
            if line[0] != self._fingerprint or len(line) != len(HEADER):
                raise self._foreign("it is of a sweep over other logs, options or models")
            row: Row = {name: _value(cell, COLUMNS[name]) for name, cell in zip(COLUMNS, line[1:], strict=True)}
            found[Point(**{axis: row[axis] for axis in AXES})] = row
        if whole != text:
            with open(path, "r+b") as file:
                file.truncate(len(whole.encode()))
        return found

    def append(self, point: Point, row: Row) -> None:
        """Add a line."""
        self._write([self._fingerprint, *(_text(value) for value in row.values())])

    def close(self, points: list[Point]) -> None:
        """Nothing is left to do."""

    def _write(self, cells: Sequence[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        try:
            with open(self._path, "a", encoding="utf-8", newline="") as file:
                file.write(line.getvalue())
        except OSError as error:
            raise InputError(
                f"cannot be written: {error.strerror}", file=str(self._path), remedy="Check the folder"
            ) from None

    def _foreign(self, problem: str) -> InputError:
        return InputError(problem, file=str(self._path), field="csv", remedy="Choose another file, or remove this one")


class ParquetTable:
    """Rows in a folder's ``points/``, and ``manifest.json`` when all are there."""

    def __init__(self, folder: str, fingerprint: str) -> None:
        from kvsim.scale.parts import pyarrow

        pyarrow()
        self._folder = Path(folder)
        self._fingerprint = fingerprint

    def rows(self) -> Mapping[Point, Row]:
        """Those of whole files, from their footers."""
        from kvsim.scale.parts import footer

        try:
            (self._folder / "points").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(f"cannot be made: {error.strerror}") from None
        found = {}
        for path in sorted((self._folder / "points").glob("[!.]*.parquet")):
            said = footer(path)
            if said is None:
                continue  # cut off by whatever ended the machine: written anew
            if said.get(MARK) != self._fingerprint:
                raise self._unusable("it is of a sweep over other logs, options or models")
            found[Point(**{axis: said["row"][axis] for axis in AXES})] = said["row"]
        return found

    def append(self, point: Point, row: Row) -> None:
        """Write the point's file."""
        from kvsim.scale.parts import write_part

        said = {MARK: self._fingerprint, "row": row}
        kinds = {MARK: str, **COLUMNS}
        values = {MARK: [self._fingerprint], **{name: [value] for name, value in row.items()}}
        write_part(self._folder / "points" / f"{_name(point)}.parquet", values, kinds, said)

    def close(self, points: list[Point]) -> None:
        """Write the manifest: all points, in their order, and where they are."""
        from kvsim.scale.parts import write_json

        told = [{"file": f"points/{_name(point)}.parquet", **asdict(point)} for point in points]
        manifest = {"schema": SCHEMA, MARK: self._fingerprint, "points": told}
        write_json(self._folder / "manifest.json", manifest)

    def _unusable(self, problem: str) -> InputError:
        remedy = "Choose another folder, or remove this one"
        return InputError(problem, file=str(self._folder), field="parquet", remedy=remedy)


def _name(point: Point) -> str:
    return hashlib.sha256(msgspec.json.encode(asdict(point))).hexdigest()[:16]


def _text(value: object) -> str:
    """A cell; floats with all their digits, nothing for what is unknown."""
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _value(cell: str, kind: type) -> Any:
    return None if cell == "" else kind(cell)
