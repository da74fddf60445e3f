"""One run over log files: what every reader shares, and what a reader is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from kvsim.builder import Builder
from kvsim.errors import InputError
from kvsim.logs.report import ReadReport
from kvsim.logs.source import Source, Text
from kvsim.tokens import TokenCounter
from kvsim.trajectory import Batch

T = TypeVar("T")

REMEDY = "Correct the record, or read leniently to leave it out and have it counted"


@dataclass
class Attempt:
    """A stretch of work that is undone if it fails; ``records`` is how many records are lost then."""

    records: int = 1


class Reading:
    """The batch under construction, its report, and how strictly to read."""

    def __init__(self, *, lenient: bool, count: TokenCounter, keep_text: bool = False) -> None:
        self.builder = Builder(remark=(lambda remark: self.report.flag(remark)) if lenient else None)
        self.report = ReadReport(counted_with=count.name)
        self.lenient = lenient
        self.count = count
        self.keep_text = keep_text
        """Whether readers say with each turn what was said in it."""
        self._records: list[int] = []  # of each trajectory
        self._ids: set[str] = set()

    def texts(self, source: Source) -> Iterator[Text]:
        """The records of a file; blank lines are counted as skipped, a file that breaks off ends here if lenient."""
        texts = source.texts()
        blank_allowed = source.layout == "lines"
        while True:
            try:
                text = next(texts, None)
            except InputError as error:
                if not self.lenient:
                    raise
                self.report.drop(error)
                return
            if text is None:
                return
            if blank_allowed and not text.data.strip():
                self.report.skip("blank line")
                continue
            yield text

    @contextmanager
    def attempt(self, records: int = 1) -> Iterator[Attempt]:
        """Undo what is done inside if it fails and reading is lenient, and count the records as dropped."""
        attempt = Attempt(records)
        if not self.lenient:
            yield attempt
            return
        rows, counts, dropped = self.builder.mark(), self.report.checkpoint(), self.report.dropped.total()
        try:
            yield attempt
        except InputError as error:
            for id in self.builder.ids_since(rows):
                self._ids.discard(id)
            self.builder.roll_back(rows)
            del self._records[self.builder.trajectories :]
            self.report.restore(counts)
            self.report.records += self.report.dropped.total() - dropped
            self.report.drop(error, attempt.records)

    def trajectory(self, id: str, source: Source | None, line: int | None, records: int) -> int:
        """Open a trajectory made of this many records, which count as used; its id gets "#2", ... where it is taken."""
        unique, number = id, 1
        while unique in self._ids:
            number += 1
            unique = f"{id}#{number}"
        self._ids.add(unique)
        self._records.append(records)
        self.report.use(records)
        return self.builder.trajectory(unique, file=source.name if source else None, line=line)

    def grow(self, trajectory: int) -> None:
        """Count one more record as used in a trajectory already opened."""
        self._records[trajectory] += 1
        self.report.use()

    def drop_trajectories(self, errors: dict[int, InputError]) -> None:
        """Leave out trajectories (by number) found wrong only after they were read, and those that depend on them."""
        gone = self.builder.discard(errors)
        for lost, cause in gone.items():
            self.report.drop_used(errors[cause], self._records[lost])
        self._records = [records for number, records in enumerate(self._records) if number not in gone]

    def build(self) -> Batch:
        """The batch; in lenient reading without the trajectories whose turns do not fit together."""
        while True:
            try:
                return self.builder.build(report=self.report)
            except InputError as error:
                if not self.lenient or error.trajectory is None:
                    raise
                errors = {error.trajectory: error}
                for number, field in self.builder.misfits().items():
                    file, line = self.builder.origin(number)
                    problem = "does not fit the turns it refers to"
                    errors.setdefault(number, InputError(problem, file=file, line=line, field=field, remedy=REMEDY))
                self.drop_trajectories(errors)


class Reader(Protocol):
    """Reads files of one format into a :class:`Reading`."""

    def read(self, source: Source) -> None:
        """Read one file."""

    def finish(self) -> None:
        """Add what could only be known after all files."""


@dataclass(frozen=True)
class Format:
    """A log format: how it is called, recognised and read."""

    name: str
    looks_for: str
    """What it is recognised by, for the error that lists what was looked for."""
    matches: Callable[[frozenset[str]], bool]
    """Whether a file with these key paths (see :mod:`kvsim.logs.shape`) is of this format."""
    reader: Callable[[Reading], Reader]


def decode(decoder: msgspec.json.Decoder[T], text: Text, source: Source) -> T:
    """The record in a text, typed; failures say file, line and field."""
    try:
        return decoder.decode(text.data)
    except msgspec.ValidationError as error:
        problem, field = _explained(str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem, field = f"not valid JSON: {error}", None
    raise InputError(problem, file=source.name, line=text.line, field=field, remedy=REMEDY)


def _explained(message: str) -> tuple[str, str | None]:
    """msgspec's message as a problem and the path of the field."""
    problem, _, path = message.partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    for lead in ("Object missing required field `", "Object contains unknown field `"):
        if problem.startswith(lead):
            name = problem[len(lead) :].rstrip("`")
            field = f"{field}.{name}" if field else name
            problem = "is missing" if "missing" in lead else "is not a field of this format"
    return problem[:1].lower() + problem[1:], field or None
