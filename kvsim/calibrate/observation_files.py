"""Files of observations: read whole, written whole, or appended to while an engine is measured."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TextIO

from ..errors import InputError
from .observations import ALWAYS, KINDS, Header, Observation, Observations, unpack_chunks, unpack_decodes

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

MAGIC = "# kvsim observations 1"

COLUMNS = tuple(part.name for part in fields(Observation) if part.name != "line")

_TEXTS = ("kind", "chunks", "decodes", "trajectory", "probe", "flag")

_TIMES = ("seconds", "ttft_s", "tpot_s", "e2e_s", "engine_s")

_REAL = (*_TIMES, "context_tokens", "pause_s", "arrival_s", "request_rate", "at_s", "cpu_wait_s")

_AT_LEAST_ONE = ("new_tokens", "prompt_tokens", "output_tokens", "batch", "steps", "concurrency", "requests")


def is_observations(text: str) -> bool:
    """Whether a file's beginning is that of an observations file."""
    return text.startswith(MAGIC)


def read_observations(path: str | Path, *, lenient: bool = False) -> Observations:
    """Read a file of observations.

    Raises :class:`~kvsim.errors.InputError` naming file, line, field and remedy for what cannot be used; with
    ``lenient`` broken rows are left out and counted, and only a header that cannot be used is an error.
    """
    file = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot be read: {reason}", remedy="Check the path.", file=file) from error
    if not is_observations(text):
        raise InputError("is no file of observations", remedy=f"Its first line must be {MAGIC!r}.", file=file, line=1)
    lines = text.splitlines()
    cut_off = not text.endswith("\n")
    if cut_off:
        lines.pop()
    comments = sum(1 for _ in _leading_comments(lines))
    header = _header(lines[1:comments], file)
    if comments >= len(lines):
        return Observations(file, header, (), cut_off=cut_off)
    names = next(csv.reader([lines[comments]]))
    _check_names(names, file, comments + 1)
    rows: list[Observation] = []
    left_out: Counter[str] = Counter()
    for number, line in enumerate(lines[comments + 1 :], comments + 2):
        if not line.strip():
            continue
        try:
            rows.append(_row(names, next(csv.reader([line])), file, number))
        except InputError as error:
            if not lenient:
                raise
            left_out[f"field '{error.field}': {error.problem}" if error.field else error.problem] += 1
    return Observations(file, header, tuple(rows), dict(left_out), cut_off)


class Writer:
    """Appends rows to a file of observations, each on the disk before :meth:`write` returns.

    No other writer may have the file open meanwhile (InputError). Opens a file that is there, cuts off a last line that
    was not finished, and goes on behind it; then ``header`` must be that of the file
    (:class:`~kvsim.errors.InputError` naming the field otherwise).
    """

    def __init__(self, path: str | Path, header: Header) -> None:
        self._path = Path(path)
        self._lock = _locked(self._path)
        try:
            self._file = self._opened(header, str(path))
        except BaseException:
            self._lock.close()
            raise

    def _opened(self, header: Header, name: str) -> TextIO:
        if self._path.stat().st_size:
            _mend(self._path)
            _check_same(read_observations(self._path, lenient=True).header, header, name)
            return self._path.open("a", encoding="utf-8", newline="")
        file = self._path.open("w", encoding="utf-8", newline="")
        file.write(header_text(header))
        _sync(file)
        return file

    def write(self, row: Observation) -> None:
        """Append one observation. Raises InputError for one that could not be read back."""
        cells = [_cell(getattr(row, name)) for name in COLUMNS]
        _row(COLUMNS, cells, str(self._path), None)
        self._file.write(_line(cells))
        _sync(self._file)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._lock.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _sync(file: TextIO) -> None:
    """Put what was written on the disk."""
    file.flush()
    os.fsync(file.fileno())


def _locked(path: Path) -> TextIO:
    """The file, opened so that no other process (nor writer of this one) can do the same until it is closed."""
    file = path.open("a", encoding="utf-8")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            remedy = "Wait for it to end, or choose another file"
            raise InputError("another process writes to it", file=str(path), remedy=remedy) from None
    return file


def header_text(header: Header) -> str:
    """The lines before the first row."""
    lines = [MAGIC]
    for part in fields(Header):
        value = getattr(header, part.name)
        if value:
            lines.append(f"# {part.name} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n" + _line(COLUMNS)


def to_text(header: Header, rows: Iterable[Observation]) -> str:
    """A whole file; columns that no row uses are left out."""
    kept = list(rows)
    names = [name for name in COLUMNS if any(getattr(row, name) not in (None, "") for row in kept)]
    head = header_text(header).splitlines(keepends=True)[:-1]
    body = [_line(_cell(getattr(row, name)) for name in names) for row in kept]
    return "".join([*head, _line(names), *body])


def _leading_comments(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("#"):
            return
        yield line


def _header(lines: Sequence[str], file: str) -> Header:
    known = {part.name for part in fields(Header)}
    found: dict[str, Any] = {}
    for number, line in enumerate(lines, 2):
        name, equals, value = line.removeprefix("#").partition("=")
        name = name.strip()
        if not equals:
            continue  # a plain comment
        if name not in known:
            raise InputError(
                "unknown fact", remedy=f"Known: {', '.join(sorted(known))}.", file=file, line=number, field=name
            )
        try:
            found[name] = json.loads(value)
        except ValueError:
            raise InputError(
                f"{value.strip()} is no JSON",
                remedy='Write text in quotes: "h100-sxm".',
                file=file,
                line=number,
                field=name,
            ) from None
        if isinstance(found[name], dict) != (name == "engine") or not isinstance(found[name], (str, dict)):
            wanted = 'an object, {"block_size": 16}' if name == "engine" else "a text in quotes"
            raise InputError(f"{value.strip()} is none", remedy=f"Write {wanted}.", file=file, line=number, field=name)
    return Header(**found)


def _check_names(names: Sequence[str], file: str, line: int) -> None:
    for name in names:
        if name not in COLUMNS:
            raise InputError("unknown column", remedy=f"Known: {', '.join(COLUMNS)}.", file=file, line=line, field=name)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or "kind" not in names:
        raise InputError(
            "stands twice" if twice else "missing",
            remedy="Every column stands once, and kind among them.",
            file=file,
            line=line,
            field=twice[0] if twice else "kind",
        )


def _row(names: Sequence[str], cells: Sequence[str], file: str, line: int | None) -> Observation:
    """One row from its cells, checked."""
    if len(cells) != len(names):
        raise InputError(
            f"{len(cells)} cells under {len(names)} columns", remedy="Correct the row.", file=file, line=line
        )
    values = {name: _value(name, cell.strip(), file, line) for name, cell in zip(names, cells, strict=True) if cell}
    row = Observation(**{"kind": "", **values}, line=line)

    def wrong(problem: str, remedy: str, name: str) -> InputError:
        return InputError(problem, remedy=remedy, file=file, line=line, field=name)

    if row.kind not in KINDS:
        raise wrong(f"{row.kind!r} is no kind of observation", f"Known: {', '.join(KINDS)}.", "kind")
    columns = KINDS[row.kind]
    for name in columns.needed:
        if getattr(row, name) in (None, ""):
            raise wrong(f"empty, needed for kind {row.kind!r}", "Fill it in.", name)
    if all(getattr(row, name) is None for name in columns.times):
        raise wrong(f"no time, needed for kind {row.kind!r}", "Fill it in.", " or ".join(columns.times))
    fitting = {"kind", *columns.needed, *columns.times, *columns.optional, *ALWAYS}
    for name in values:
        if name not in fitting:
            raise wrong(f"does not bear on kind {row.kind!r}", "Leave the cell empty.", name)
    if row.kind == "step" and not (row.chunks or row.decodes):
        raise wrong("a step without work", "Fill in chunks or decodes.", "chunks")
    if row.kind == "point" and (row.concurrency is None) == (row.request_rate is None):
        raise wrong("a point has either a concurrency or a request_rate", "Give one of them.", "concurrency")
    if row.kind == "turn" and row.pause_s is None and row.arrival_s is None:
        raise wrong("neither pause_s nor arrival_s", "Give the pause before the turn, or when it was sent.", "pause_s")
    return row


def _value(name: str, cell: str, file: str, line: int | None) -> Any:
    def wrong(wanted: str) -> InputError:
        return InputError(f"{cell!r} is no {wanted}", remedy="Correct the cell.", file=file, line=line, field=name)

    if name in _TEXTS:
        try:
            {"chunks": unpack_chunks, "decodes": unpack_decodes}.get(name, str)(cell)
        except ValueError:
            example = '"512@0 128@1024"' if name == "chunks" else '"812 1024x3"'
            raise wrong(f"list such as {example}") from None
        return cell
    try:
        number: float = float(cell) if name in _REAL else int(cell)
    except ValueError:
        raise wrong("number" if name in _REAL else "whole number") from None
    if not math.isfinite(number) or number < 0:
        raise wrong("number of at least 0")
    if (name in _TIMES and number == 0) or (name in _AT_LEAST_ONE and number < 1):
        raise wrong("number above 0")
    return number


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.12g}" if isinstance(value, float) else str(value)


def _line(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _mend(path: Path) -> None:
    """Cut off a last line that has no end."""
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)


def _check_same(old: Header, new: Header, file: str) -> None:
    for part in fields(Header):
        before, now = getattr(old, part.name), getattr(new, part.name)
        if part.name not in ("date", "note") and before != now:
            raise InputError(
                f"the file is of {before!r}, not of {now!r}",
                remedy="Give another file to write to.",
                file=file,
                field=part.name,
            )
