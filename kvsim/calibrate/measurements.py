"""The measurements that calibrations are fitted on: tables of columns, read from CSV."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError

Column = npt.NDArray[Any]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "gemm": ("format", "tokens", "n", "k"),
    "experts": ("format", "tokens", "count", "per_token", "hidden", "intermediate", "routing"),
    "prefill_attention": ("cache", "batch", "new", "cached", "heads", "kv_heads", "dim", "window"),
    "decode_attention": ("cache", "sequences", "context", "heads", "kv_heads", "dim", "window"),
    "mixed_attention": ("new", "cached", "sequences", "context", "heads", "kv_heads", "dim", "window"),
    "latent_decode": ("sequences", "context", "heads"),
    "all_reduce": ("ranks", "bytes"),
    "elementwise": ("bytes",),
    "sampler": ("sequences", "vocabulary"),
}
"""What the rows of each kernel table are told apart by, beside ``gpu``, ``source`` and the time ``us``; no table's
columns hold all those of one before it."""

WORDS = ("gpu", "source", "format", "cache", "routing")
"""Columns that hold words."""


@dataclass(frozen=True, slots=True)
class Table:
    """Equally long columns by name: numbers as float64, words as strings."""

    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def where(self, keep: npt.NDArray[np.bool_]) -> Table:
        """The rows where ``keep`` is true."""
        return Table({name: column[keep] for name, column in self.columns.items()})

    def every(self, most: int) -> Table:
        """At most ``most`` rows, evenly spaced."""
        if len(self) <= most:
            return self
        picked = np.zeros(len(self), dtype=bool)
        picked[np.linspace(0, len(self) - 1, most).astype(int)] = True
        return self.where(picked)

    def keys(self, *names: str) -> Column:
        """One word a row that tells the combinations of some columns apart."""
        parts = [self.columns[name].astype(str) for name in names]
        return np.array(["/".join(words) for words in zip(*parts, strict=True)])

    def split(self, name: str) -> Iterator[tuple[str, Table]]:
        """The rows of each value of a column, in the order of the values."""
        column = self.columns[name]
        for value in sorted(set(column.tolist())):
            yield value, self.where(column == value)


class Measurements:
    """The tables of a folder, read when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tables: dict[str, Table] = {}

    def table(self, name: str, gpu: str) -> Table:
        """The rows of a table that were measured on a GPU; may be none."""
        whole = self._read(name)
        return whole.where(whole["gpu"] == gpu)

    def gpus(self) -> list[str]:
        """The GPUs that any table has rows of."""
        names = (path.name.split(".csv")[0] for path in self.folder.glob("*.csv*"))
        return sorted({gpu for name in names for gpu in set(self._read(name)["gpu"].tolist())})

    def _read(self, name: str) -> Table:
        if name not in self._tables:
            packed, plain = self.folder / f"{name}.csv.gz", self.folder / f"{name}.csv"
            if not packed.exists() and not plain.exists():
                raise InputError(
                    f"no measurements {name}.csv or {name}.csv.gz",
                    remedy="Give the repository's profiles/measurements; the installed package has none.",
                    file=str(self.folder),
                )
            data = gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes()
            header, *rows = csv.reader(data.decode().splitlines())
            columns = zip(header, zip(*rows, strict=True), strict=True)
            self._tables[name] = Table({title: _column(values) for title, values in columns})
        return self._tables[name]


def _column(values: tuple[str, ...]) -> Column:
    try:
        return np.array(values, dtype=np.float64)
    except ValueError:
        return np.array(values)


def read_table(path: Path, name: str) -> Table:
    """A user's kernel table, checked: ``gpu``, the columns of :data:`COLUMNS`, ``us``; ``source`` is the file's name
    where there is no such column. Raises InputError naming file, line and field."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    columns: dict[str, list[Any]] = {title: [] for title in ("gpu", "source", *COLUMNS[name], "us")}
    for line, row in enumerate(rows, 2):
        for title, values in columns.items():
            cell = row.get(title) or (path.name if title == "source" else "")
            values.append(cell if title in WORDS else _number(cell, title, path, line))
    return Table({title: np.array(values, str if title in WORDS else np.float64) for title, values in columns.items()})


def _number(cell: str, field: str, path: Path, line: int) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf") or (field == "us" and not value):
        problem = f"{cell!r} is no number {'above' if field == 'us' else 'of at least'} 0"
        raise InputError(problem, file=str(path), line=line, field=field, remedy="Correct the cell.")
    return value
