"""Turns collected one by one into a batch, as readers find them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvsim._door import MAX_NS, MAX_TOKENS, REMEDIES, checked
from kvsim.errors import InputError
from kvsim.trajectory import COLUMNS, SEGMENT_KINDS, Batch, Ragged, Segments

if TYPE_CHECKING:
    from kvsim.logs.report import ReadReport
    from kvsim.logs.said import Exchange


#: Said, after its name, of a figure that is not needed and out of range (lenient reading).
UNUSABLE = "out of range: taken as not logged"


class Builder:
    """Collects turns one by one, as readers find them, into columns of machine integers.

    Open a trajectory with :meth:`trajectory`, add its turns with :meth:`turn`, end with :meth:`build`.
    Values are checked as they come, so that an error names the file and line at hand.
    """

    def __init__(self, *, remark: Callable[[str], None] | None = None) -> None:
        """``remark``: if given, figures that are not needed and out of range are left out, and this is told so."""
        self._remark = remark
        self._remedies: dict[str, Mapping[str, str]] = {}
        self._columns = {name: array("q") for name in COLUMNS}
        self._waits: dict[int, list[int]] = {}
        self._segments: dict[int, list[tuple[int, int, int]]] = {}
        self.said: dict[int, Exchange] = {}
        """What was said in turns, by row, where readers were asked to keep it."""
        self._ids: list[str] = []
        self._origins: list[tuple[str | None, int | None]] = []
        self._tools: dict[str, int] = {}
        self._prefixes: dict[str, int] = {}

    @property
    def rows(self) -> int:
        """How many turns there are so far."""
        return len(self._columns["parent"])

    @property
    def trajectories(self) -> int:
        """How many trajectories there are so far."""
        return len(self._ids)

    def trajectory(self, id: str, *, file: str | None = None, line: int | None = None) -> int:
        """Start a trajectory; the turns that follow belong to it. Returns its number."""
        self._ids.append(id)
        self._origins.append((file, line))
        return len(self._ids) - 1

    def remedies(self, file: str, remedies: Mapping[str, str]) -> None:
        """Say in errors about a file what to do in its own terms, by column."""
        self._remedies[file] = remedies

    def turn(
        self,
        *,
        prompt_tokens: int,
        output_tokens: int,
        parent: int = -1,
        after: int | None = None,
        kept_tokens: int = 0,
        pause_ns: int = 0,
        arrival_ns: int = 0,
        waits_for: Iterable[int] = (),
        prefix: str | None = None,
        tool: str | None = None,
        priority: int = 0,
        segments: Iterable[tuple[str, str | None, int]] = (),
        cached_tokens: int = -1,
        ttft_ns: int = -1,
        e2e_ns: int = -1,
        estimated_tokens: int = 0,
        trajectory: int = -1,
        said: Exchange | None = None,
    ) -> int:
        """Add a turn to the open trajectory (or the one numbered ``trajectory``) and return its row.

        ``parent``, ``after`` and ``waits_for`` are rows as returned here; forward references are checked in
        :meth:`build`. ``after`` None means the parent. ``said`` is kept beside the batch (:attr:`said`).
        """
        owner = trajectory if trajectory >= 0 else len(self._ids) - 1
        checks = (
            ("prompt_tokens", prompt_tokens, 1, MAX_TOKENS),
            ("output_tokens", output_tokens, 0, MAX_TOKENS),
            ("kept_tokens", kept_tokens, 0, prompt_tokens),
            ("pause_ns", pause_ns, 0, MAX_NS),
            ("arrival_ns", arrival_ns, 0, MAX_NS),
        )
        for name, value, low, high in checks:
            if not low <= value <= high:
                file, line = self._origins[owner]
                raise InputError(
                    f"{name} is {value}, outside {low} to {high}",
                    file=file,
                    line=line,
                    field=name,
                    remedy=self._remedies.get(file or "", REMEDIES).get(name, REMEDIES[name]),
                )
        segments = list(segments)
        if self._remark is not None:
            new = prompt_tokens - kept_tokens
            if not -1 <= cached_tokens <= prompt_tokens:
                cached_tokens = self._left_out("cached_tokens", -1)
            if not -1 <= ttft_ns <= MAX_NS:
                ttft_ns = self._left_out("ttft", -1)
            if not -1 <= e2e_ns <= MAX_NS:
                e2e_ns = self._left_out("e2e", -1)
            if not 0 <= estimated_tokens <= new + output_tokens:
                estimated_tokens = self._left_out("estimated_tokens", 0)
            if sum(tokens for _, _, tokens in segments) > new:
                self._left_out("segments", 0)
                segments = []
        columns, row = self._columns, self.rows
        columns["parent"].append(parent)
        columns["after"].append(parent if after is None else after)
        columns["kept_tokens"].append(kept_tokens)
        columns["prompt_tokens"].append(prompt_tokens)
        columns["output_tokens"].append(output_tokens)
        columns["pause_ns"].append(pause_ns)
        columns["arrival_ns"].append(arrival_ns)
        columns["trajectory"].append(owner)
        columns["prefix"].append(self._number(self._prefixes, prefix))
        columns["tool"].append(self._number(self._tools, tool))
        columns["priority"].append(priority)
        columns["cached_tokens"].append(cached_tokens)
        columns["ttft_ns"].append(ttft_ns)
        columns["e2e_ns"].append(e2e_ns)
        columns["estimated_tokens"].append(estimated_tokens)
        if waits := list(waits_for):
            self._waits[row] = waits
        if packed := [
            (SEGMENT_KINDS.index(kind), self._number(self._tools, of), tokens) for kind, of, tokens in segments
        ]:
            self._segments[row] = packed
        if said is not None:
            self.said[row] = said
        return row

    def _left_out(self, name: str, unknown: int) -> int:
        if self._remark is not None:
            self._remark(f"{name} {UNUSABLE}")
        return unknown

    def set(self, row: int, **values: int) -> None:
        """Change integer columns of a row already added (a reference that was only resolvable later)."""
        for name, value in values.items():
            self._columns[name][row] = value

    def refer(self, row: int, name: str, place: int, target: int) -> None:
        """Point ``parent``, ``after`` or the ``place``-th of ``waits_for`` of a row already added to a row."""
        if name == "waits_for":
            self._waits[row][place] = target
        else:
            self._columns[name][row] = target

    def get(self, row: int, name: str) -> int:
        """The value of a row's column."""
        return self._columns[name][row]

    def mark(self) -> tuple[int, int]:
        """A point to which :meth:`roll_back` can return."""
        return self.rows, len(self._ids)

    def ids_since(self, mark: tuple[int, int]) -> list[str]:
        """The ids of the trajectories opened since ``mark`` was taken."""
        return self._ids[mark[1] :]

    def roll_back(self, mark: tuple[int, int]) -> None:
        """Forget every trajectory and turn added since ``mark`` was taken."""
        rows, trajectories = mark
        for column in self._columns.values():
            del column[rows:]
        for lists in (self._waits, self._segments, self.said):
            while lists and next(reversed(lists)) >= rows:
                lists.popitem()
        del self._ids[trajectories:], self._origins[trajectories:]

    def misfits(self) -> dict[int, str]:
        """The trajectories whose turns do not fit those they refer to, and the first column at fault of each.

        Those that wait for a cycle of turns are among them.
        """
        columns = {name: np.array(column, np.int64) for name, column in self._columns.items()}
        rows, owner, parent = self.rows, columns["trajectory"], columns["parent"]
        found: dict[int, str] = {}

        def note(name: str, bad: npt.NDArray[np.bool_]) -> None:
            for number in np.unique(owner[bad]).tolist():
                found.setdefault(number, name)

        for name in ("parent", "after"):
            note(name, (columns[name] < -1) | (columns[name] >= rows))
        prompt, output, kept = (columns[f"{name}_tokens"] for name in ("prompt", "output", "kept"))
        has_parent = (parent >= 0) & (parent < rows)
        safe = np.where(has_parent, parent, 0)
        keepable = np.where(has_parent, (prompt + output)[safe], np.where(columns["prefix"] >= 0, prompt, 0))
        note("prefix", has_parent & (columns["prefix"] >= 0))
        note("kept_tokens", (kept < 0) | (kept > np.minimum(keepable, prompt)))
        new = prompt - kept
        for name, low, high in (
            ("cached_tokens", -1, prompt),
            ("ttft_ns", -1, MAX_NS),
            ("e2e_ns", -1, MAX_NS),
            ("pause_ns", 0, MAX_NS),
            ("arrival_ns", 0, MAX_NS),
            ("estimated_tokens", 0, new + output),
        ):
            note(name, (columns[name] < low) | (columns[name] > high))
        for row, parts in self._segments.items():
            if sum(tokens for _, _, tokens in parts) > new[row]:
                found.setdefault(int(owner[row]), "segments")
        for row, waits in self._waits.items():
            if not all(0 <= other < rows for other in waits):
                found.setdefault(int(owner[row]), "waits_for")
        for row in self._never(columns["parent"].tolist(), columns["after"].tolist()):
            found.setdefault(int(owner[row]), "parent")
        return found

    def _never(self, parent: list[int], after: list[int]) -> list[int]:
        """The rows that wait for themselves, or for such as do."""
        rows = self.rows
        followers: dict[int, list[int]] = {}
        missing = [0] * rows
        for row in range(rows):
            for other in {parent[row], after[row], *self._waits.get(row, ())}:
                if 0 <= other < rows:
                    followers.setdefault(other, []).append(row)
                    missing[row] += 1
        ready = [row for row in range(rows) if not missing[row]]
        for row in ready:  # grows as it goes
            for follower in followers.get(row, ()):
                missing[follower] -= 1
                if not missing[follower]:
                    ready.append(follower)
        return [row for row in range(rows) if missing[row]]

    def origin(self, trajectory: int) -> tuple[str | None, int | None]:
        """The file and line that a trajectory came from."""
        return self._origins[trajectory]

    def discard(self, trajectories: Iterable[int]) -> dict[int, int]:
        """Forget these trajectories and all that depend on them.

        Returns the numbers of all forgotten, each with the one of those given that it depends on (or is). What stays is
        renumbered; rows and marks handed out before lose their meaning.
        """
        columns = {name: np.array(column, np.int64) for name, column in self._columns.items()}
        owner = columns["trajectory"]
        dependents = self._dependents(owner.tolist(), columns["parent"], columns["after"])
        causes = {number: number for number in trajectories}
        queue = list(causes)
        for number in queue:  # grows as it goes
            for dependent in dependents.get(number, ()):
                if dependent not in causes:
                    causes[dependent] = causes[number]
                    queue.append(dependent)
        gone = np.zeros(len(self._ids), bool)
        gone[queue] = True
        lost = gone[owner]
        new_row = np.where(lost, -1, np.cumsum(~lost) - 1)
        new_owner = np.cumsum(~gone) - 1
        for name in ("parent", "after"):
            refers = (columns[name] >= 0) & (columns[name] < self.rows)
            columns[name][refers] = new_row[columns[name][refers]]
        columns["trajectory"] = new_owner[owner]
        self._waits = {
            int(new_row[row]): [int(new_row[other]) for other in waits]
            for row, waits in self._waits.items()
            if not lost[row]
        }
        self._segments = {int(new_row[row]): parts for row, parts in self._segments.items() if not lost[row]}
        self.said = {int(new_row[row]): said for row, said in self.said.items() if not lost[row]}
        self._columns = {name: array("q", column[~lost].tobytes()) for name, column in columns.items()}
        self._ids = [id for id, dropped in zip(self._ids, gone, strict=True) if not dropped]
        self._origins = [origin for origin, dropped in zip(self._origins, gone, strict=True) if not dropped]
        return dict(sorted(causes.items()))

    def _dependents(self, owner: list[int], *references: npt.NDArray[np.int64]) -> dict[int, list[int]]:
        """Of each trajectory the others that refer to it."""
        pairs: list[tuple[int, int]] = []
        for column in references:
            rows = np.flatnonzero((column >= 0) & (column < self.rows))
            pairs += zip(column[rows].tolist(), rows.tolist(), strict=True)
        pairs += [(other, row) for row, waits in self._waits.items() for other in waits if 0 <= other < self.rows]
        found: dict[int, list[int]] = {}
        for target, row in pairs:
            if owner[target] != owner[row]:
                found.setdefault(owner[target], []).append(owner[row])
        return found

    def build(self, *, report: ReadReport | None = None) -> Batch:
        """The batch; raises :class:`InputError` naming file and line where turns do not fit together."""
        columns: dict[str, Any] = {
            name: np.frombuffer(column, np.int64) for name, column in self._columns.items() if column
        }
        if not columns:
            columns = {name: np.zeros(0, np.int64) for name in self._columns}
        rows = self.rows
        if np.array_equal(columns["after"], columns["parent"]):
            columns["after"] = columns["parent"]
        unset = {"prefix": -1, "tool": -1, "priority": 0, "estimated_tokens": 0} | dict.fromkeys(
            ("cached_tokens", "ttft_ns", "e2e_ns"), -1
        )
        for name, default in unset.items():
            if not (columns[name] != default).any():
                del columns[name]
        waits = Ragged.pack([self._waits.get(row, ()) for row in range(rows)]) if self._waits else None
        segments = None
        if self._segments:
            flat = [part for row in range(rows) for part in self._segments.get(row, ())]
            counts = [len(self._segments.get(row, ())) for row in range(rows)]
            kind, tool, tokens = (np.array(values, np.int64) for values in zip(*flat, strict=True))
            segments = Segments(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), kind, tool, tokens)
        batch = Batch(
            **columns,
            waits_for=waits,
            segments=segments,
            ids=self._ids,
            tool_names=list(self._tools),
            prefix_names=list(self._prefixes),
            report=report,
        )
        try:
            return checked(batch, lambda row: self._origins[columns["trajectory"][row]])
        except InputError as error:
            remedy = self._remedies.get(error.file or "", {}).get(error.field or "")
            if remedy is None:
                raise
            told = InputError(error.problem, file=error.file, line=error.line, field=error.field, remedy=remedy)
            told.trajectory = error.trajectory
            raise told from None

    @staticmethod
    def _number(table: dict[str, int], name: str | None) -> int:
        return -1 if name is None else table.setdefault(name, len(table))
