"""The packed batch: one row a turn, a DAG of turns over a prefix tree.

A *turn* is one LLM request. Its prompt extends the context (prompt + output) of its ``parent``, of which the first
``kept_tokens`` are still the same; it is released when ``after`` (by default the parent) and every row in
``waits_for`` have finished and ``pause_ns`` has passed. Linear runs, shared system prompts, forked rollouts, search
trees, context compaction and sub-agents are all this one structure.

Everything is checked once, here at the door, so that the kernels need no checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from kvsim.errors import InputError

if TYPE_CHECKING:
    import os

    from kvsim.logs.report import ReadReport

Ints = npt.NDArray[np.int64]

#: What a stretch of new prompt tokens is made of (``segments``).
SEGMENT_KINDS = ("system", "tools", "user", "tool", "own")

#: No turn has more tokens than this: 2^30, a thousand times the longest context served today.
MAX_TOKENS = 1 << 30
#: No single pause or arrival exceeds this: 10^17 ns, about three years.
MAX_NS = 10**17
#: The sum of all pauses plus the last arrival stays below this, so that no timestamp overflows 64 bits.
MAX_TOTAL_NS = 1 << 61

_MISSING = -1
_OPTIONAL = ("cached_tokens", "ttft_ns", "e2e_ns")


@dataclass(frozen=True)
class Ragged:
    """Lists of rows of varying length, packed: row ``i`` owns ``values[offsets[i]:offsets[i + 1]]``."""

    offsets: Ints
    values: Ints

    @classmethod
    def pack(cls, lists: Sequence[Iterable[int]]) -> Ragged:
        rows = [list(values) for values in lists]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        return cls(offsets, np.array([value for row in rows for value in row], np.int64))

    def __getitem__(self, row: int) -> list[int]:
        return [int(value) for value in self.values[self.offsets[row] : self.offsets[row + 1]]]

    @property
    def owners(self) -> Ints:
        """The row that owns each value, shape (len(values),)."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


@dataclass(frozen=True)
class Segments:
    """What the new part of each prompt is made of.

    ``offsets`` (rows + 1,) as in :class:`Ragged`; ``kind`` indexes :data:`SEGMENT_KINDS`; ``tool`` indexes
    ``Batch.tool_names`` (-1: none); ``tokens`` counts. A row's segments may leave a rest unexplained.
    """

    offsets: Ints
    kind: Ints
    tool: Ints
    tokens: Ints

    @property
    def owners(self) -> Ints:
        """The row that owns each segment."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


Origin = Callable[[int], tuple[str | None, int | None]]
"""From a row to the file and line it came from."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Turns in packed columns (int64, one row a turn), checked.

    Build one with :func:`kvsim.read`, :meth:`from_columns` or :class:`Builder`; the constructor itself trusts its
    input. ``len(batch)`` is the number of trajectories, ``batch.turns`` the number of rows.
    """

    parent: Ints
    kept_tokens: Ints
    prompt_tokens: Ints
    output_tokens: Ints
    pause_ns: Ints
    arrival_ns: Ints
    trajectory: Ints
    after: Ints
    """The row whose finish starts this turn's pause; -1: the turn comes at ``arrival_ns``. Is ``parent`` by default."""
    waits_for: Ragged | None = None
    prefix: Ints | None = None
    """Id of the shared prefix a root starts with, -1 none; indexes ``prefix_names``."""
    tool: Ints | None = None
    """The tool that the pause before this turn waited for (the longest of parallel ones), -1 none."""
    priority: Ints | None = None
    segments: Segments | None = None
    cached_tokens: Ints | None = None
    """Logged: prompt tokens served from cache, -1 unknown."""
    ttft_ns: Ints | None = None
    """Logged time to first token, -1 unknown."""
    e2e_ns: Ints | None = None
    """Logged time of the whole request, -1 unknown."""
    estimated_tokens: Ints | None = None
    """How many of the row's new and output tokens were estimated from text rather than logged."""
    ids: Sequence[str] = ()
    tool_names: Sequence[str] = ()
    prefix_names: Sequence[str] = ()
    order: Ints | None = None
    """Rows in an order that puts every row after what it depends on; None where they already stand so."""
    report: ReadReport | None = field(default=None, repr=False)

    @classmethod
    def from_columns(
        cls,
        *,
        parent: npt.ArrayLike,
        kept_tokens: npt.ArrayLike,
        prompt_tokens: npt.ArrayLike,
        output_tokens: npt.ArrayLike,
        pause_ns: npt.ArrayLike,
        arrival_ns: npt.ArrayLike,
        trajectory: npt.ArrayLike,
        after: npt.ArrayLike | None = None,
        waits_for: Sequence[Iterable[int]] | Ragged | None = None,
        prefix: npt.ArrayLike | None = None,
        tool: npt.ArrayLike | None = None,
        priority: npt.ArrayLike | None = None,
        segments: Segments | Sequence[Sequence[tuple[str, int, int]]] | None = None,
        cached_tokens: npt.ArrayLike | None = None,
        ttft_ns: npt.ArrayLike | None = None,
        e2e_ns: npt.ArrayLike | None = None,
        estimated_tokens: npt.ArrayLike | None = None,
        ids: Sequence[str] | None = None,
        tool_names: Sequence[str] | None = None,
        prefix_names: Sequence[str] | None = None,
    ) -> Batch:
        """A batch from arrays of one length, rows in any order.

        ``parent``, ``after`` and ``waits_for`` are row numbers; trajectories are numbered 0, 1, 2, ... without gaps.
        ``segments`` is a list per row of (kind, tool id, tokens). int64 arrays are not copied: do not change them
        afterwards. Raises :class:`InputError` naming the row, the field and the remedy.
        """
        given = {
            "parent": parent,
            "kept_tokens": kept_tokens,
            "prompt_tokens": prompt_tokens,
            "output_tokens": output_tokens,
            "pause_ns": pause_ns,
            "arrival_ns": arrival_ns,
            "trajectory": trajectory,
            "after": after,
            "prefix": prefix,
            "tool": tool,
            "priority": priority,
            "cached_tokens": cached_tokens,
            "ttft_ns": ttft_ns,
            "e2e_ns": e2e_ns,
            "estimated_tokens": estimated_tokens,
        }
        columns = {name: _column(name, values) for name, values in given.items() if values is not None}
        rows = len(columns["parent"])
        for name, column in columns.items():
            if len(column) != rows:
                raise InputError(
                    f"has {len(column)} rows where 'parent' has {rows}",
                    field=name,
                    remedy="Give every column one value a turn",
                )
        columns.setdefault("after", columns["parent"])
        if waits_for is not None and not isinstance(waits_for, Ragged):
            waits_for = Ragged.pack(waits_for)
        if segments is not None and not isinstance(segments, Segments):
            segments = _pack_segments(segments)
        for name, ragged in (("waits_for", waits_for), ("segments", segments)):
            if ragged is not None and len(ragged.offsets) != rows + 1:
                raise InputError(
                    f"has {len(ragged.offsets) - 1} rows where 'parent' has {rows}",
                    field=name,
                    remedy="Give every turn one list, empty where it has none",
                )
        count = int(columns["trajectory"].max()) + 1 if rows else 0
        batch = cls(
            **columns,
            waits_for=waits_for if waits_for is not None and len(waits_for.values) else None,
            segments=segments,
            ids=ids if ids is not None else _Numbered(count),
            tool_names=tool_names if tool_names is not None else _names(columns.get("tool"), segments),
            prefix_names=prefix_names if prefix_names is not None else _names(columns.get("prefix"), None),
        )
        return _checked(batch, lambda row: (None, None))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def turns(self) -> int:
        """How many turns (rows) the batch holds."""
        return len(self.parent)

    @property
    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns that are present, by name; ``waits_for`` and ``segments`` as their packed parts."""
        names = (
            "parent after kept_tokens prompt_tokens output_tokens pause_ns arrival_ns trajectory "
            "prefix tool priority cached_tokens ttft_ns e2e_ns estimated_tokens"
        ).split()
        columns = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.waits_for is not None:
            columns |= {"waits_for_offsets": self.waits_for.offsets, "waits_for_rows": self.waits_for.values}
        if self.segments is not None:
            parts = ("offsets", "kind", "tool", "tokens")
            columns |= {f"segments_{part}": getattr(self.segments, part) for part in parts}
        return columns

    @cached_property
    def shared_tokens(self) -> Ints | None:
        """Tokens a root shares with an earlier root (in row order) of the same named prefix, 0 elsewhere."""
        if self.prefix is None:
            return None
        shared = np.zeros(self.turns, np.int64)
        longest: dict[int, int] = {}
        for row in np.flatnonzero(self.prefix >= 0):
            name, kept = int(self.prefix[row]), int(self.kept_tokens[row])
            shared[row] = min(kept, longest.get(name, 0))
            longest[name] = max(kept, longest.get(name, 0))
        return shared

    @property
    def estimated_share(self) -> float:
        """The share of new and output tokens that were estimated from text, 0 to 1."""
        if self.estimated_tokens is None or not self.turns:
            return 0.0
        total = int((self.prompt_tokens - self.kept_tokens).sum() + self.output_tokens.sum())
        return float(self.estimated_tokens.sum()) / max(total, 1)

    def select(self, trajectories: npt.ArrayLike) -> Batch:
        """The batch of these trajectories only, renumbered in the order of their numbers.

        Raises :class:`InputError` where a chosen turn depends on one that is left out.
        """
        keep = np.zeros(len(self), bool)
        keep[np.asarray(trajectories, np.int64)] = True
        rows = np.flatnonzero(keep[self.trajectory])
        new_row = np.full(self.turns + 1, -2, np.int64)
        new_row[rows] = np.arange(len(rows))
        new_row[-1] = -1

        def moved(name: str, references: Ints, owners: Ints) -> Ints:
            result = new_row[references]
            if (lost := np.flatnonzero(result == -2)).size:
                owner = int(self.trajectory[owners[lost[0]]])
                raise InputError(
                    f"trajectory {self.ids[owner]!r} depends on one that is left out",
                    field=name,
                    remedy="Select it too",
                )
            return result

        parent = moved("parent", self.parent[rows], rows)
        after = parent if self.after is self.parent else moved("after", self.after[rows], rows)
        waits = None
        if self.waits_for is not None:
            kept = np.isin(self.waits_for.owners, rows)
            counts = np.diff(self.waits_for.offsets)[rows]
            offsets = np.concatenate([[0], np.cumsum(counts)])
            waits = Ragged(
                offsets, moved("waits_for", self.waits_for.values[kept], self.waits_for.owners[kept])
            )
        segments = None
        if self.segments is not None:
            kept = np.isin(self.segments.owners, rows)
            counts = np.diff(self.segments.offsets)[rows]
            segments = Segments(
                np.concatenate([[0], np.cumsum(counts)]),
                self.segments.kind[kept],
                self.segments.tool[kept],
                self.segments.tokens[kept],
            )
        plain = ("prefix", "tool", "priority", "cached_tokens", "ttft_ns", "e2e_ns", "estimated_tokens")
        columns = {name: getattr(self, name)[rows] for name in plain if getattr(self, name) is not None}
        batch = Batch(
            parent=parent,
            after=after,
            kept_tokens=self.kept_tokens[rows],
            prompt_tokens=self.prompt_tokens[rows],
            output_tokens=self.output_tokens[rows],
            pause_ns=self.pause_ns[rows],
            arrival_ns=self.arrival_ns[rows],
            trajectory=np.cumsum(keep)[self.trajectory[rows]] - 1,
            waits_for=waits,
            segments=segments,
            ids=[name for name, kept in zip(self.ids, keep, strict=True) if kept],
            tool_names=self.tool_names,
            prefix_names=self.prefix_names,
            report=self.report,
            **columns,
        )
        return _checked(batch, lambda row: (None, None))

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write the batch as neutral JSON lines in canonical form, one trajectory a line."""
        from kvsim.logs.neutral import write

        write(self, path)


class Builder:
    """Collects turns one by one, as readers find them, into columns of machine integers.

    Open a trajectory with :meth:`trajectory`, add its turns with :meth:`turn`, end with :meth:`build`.
    Values are checked as they come, so that an error names the file and line at hand.
    """

    def __init__(self) -> None:
        from array import array

        names = (
            "parent after kept_tokens prompt_tokens output_tokens pause_ns arrival_ns trajectory prefix tool "
            "priority cached_tokens ttft_ns e2e_ns estimated_tokens"
        )
        self._columns = {name: array("q") for name in names.split()}
        self._waits: dict[int, list[int]] = {}
        self._segments: dict[int, list[tuple[int, int, int]]] = {}
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
    ) -> int:
        """Add a turn to the open trajectory (or the one numbered ``trajectory``) and return its row.

        ``parent``, ``after`` and ``waits_for`` are rows as returned here; forward references are checked in
        :meth:`build`. ``after`` None means the parent.
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
                    remedy=_REMEDIES[name],
                )
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
            (SEGMENT_KINDS.index(kind), self._number(self._tools, of), tokens)
            for kind, of, tokens in segments
        ]:
            self._segments[row] = packed
        return row

    def set(self, row: int, **values: int) -> None:
        """Change integer columns of a row already added (a reference that was only resolvable later)."""
        for name, value in values.items():
            self._columns[name][row] = value

    def get(self, row: int, name: str) -> int:
        """The value of a row's column."""
        return self._columns[name][row]

    def mark(self) -> tuple[int, int]:
        """A point to which :meth:`roll_back` can return."""
        return self.rows, len(self._ids)

    def roll_back(self, mark: tuple[int, int]) -> None:
        """Forget every trajectory and turn added since ``mark`` was taken."""
        rows, trajectories = mark
        for column in self._columns.values():
            del column[rows:]
        for lists in (self._waits, self._segments):
            for row in [row for row in lists if row >= rows]:
                del lists[row]  # type: ignore[attr-defined]
        del self._ids[trajectories:], self._origins[trajectories:]

    def build(self, *, report: ReadReport | None = None) -> Batch:
        """The batch; raises :class:`InputError` naming file and line where turns do not fit together."""
        columns = {name: np.frombuffer(column, np.int64) for name, column in self._columns.items() if column}
        if not columns:
            columns = {name: np.zeros(0, np.int64) for name in self._columns}
        rows = self.rows
        if np.array_equal(columns["after"], columns["parent"]):
            columns["after"] = columns["parent"]
        unset = {"prefix": -1, "tool": -1, "priority": 0, "estimated_tokens": 0} | dict.fromkeys(
            _OPTIONAL, -1
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
        return _checked(batch, lambda row: self._origins[columns["trajectory"][row]])

    @staticmethod
    def _number(table: dict[str, int], name: str | None) -> int:
        return -1 if name is None else table.setdefault(name, len(table))


_REMEDIES = {
    "parent": "Give the row number of another turn, or -1 for none",
    "after": "Give the row number of another turn, or -1 where the turn comes at its own arrival time",
    "waits_for": "Give row numbers of other turns",
    "prompt_tokens": "A request has at least one prompt token; check the log's usage counts",
    "output_tokens": "Counts are not negative; check the log's usage counts",
    "kept_tokens": "At most the prompt, and at most the parent's prompt + output, can be kept",
    "pause_ns": "Times are nanoseconds from 0 to 10^17; check units and clock",
    "arrival_ns": "Times are nanoseconds from 0 to 10^17, counted from the first arrival; check units and clock",
    "trajectory": "Number trajectories 0, 1, 2, ...: numpy.unique(ids, return_inverse=True)[1] does that",
    "prefix": "A named prefix belongs to a root (parent -1); use -1 elsewhere",
    "tool": "Give an index into the tool names, or -1 for none",
    "priority": "Priorities are 32-bit integers",
    "cached_tokens": "At most the prompt can be cached; use -1 where it was not logged",
    "ttft_ns": "Times are not negative; use -1 where it was not logged",
    "e2e_ns": "Times are not negative; use -1 where it was not logged",
    "estimated_tokens": "At most the new and output tokens can be estimated",
    "segments": "Give kinds " + ", ".join(SEGMENT_KINDS) + " whose tokens sum to at most prompt - kept",
}


class _Numbered(Sequence[str]):
    """The names "0", "1", ... without storing them."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        numbers = range(self._count)[index]
        return str(numbers) if isinstance(numbers, int) else [str(number) for number in numbers]


def _names(column: Ints | None, segments: Segments | None) -> list[str]:
    """Numbers as names, for ids that came without a name table."""
    highest = max(
        (
            int(values.max())
            for values in (column, segments.tool if segments is not None else None)
            if values is not None and len(values)
        ),
        default=-1,
    )
    return [str(number) for number in range(highest + 1)]


def _column(name: str, values: npt.ArrayLike) -> Ints:
    """One column as contiguous int64, refusing what would be silently changed on the way."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise InputError(f"has {array.ndim} dimensions", field=name, remedy="Give a one-dimensional array")
    if array.dtype == np.int64:
        return np.ascontiguousarray(array)
    if not len(array):
        return np.zeros(0, np.int64)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array))[0])
            raise InputError(
                f"row {row} is {array[row]}",
                field=name,
                remedy="Give finite whole numbers (" + _REMEDIES[name] + ")",
            )
        if (array != np.floor(array)).any() or np.abs(array).max() >= 2.0**62:
            row = int(np.flatnonzero((array != np.floor(array)) | (np.abs(array) >= 2.0**62))[0])
            raise InputError(
                f"row {row} is {array[row]}, not a whole number of 63 bits",
                field=name,
                remedy=_REMEDIES[name],
            )
        return array.astype(np.int64)
    if array.dtype.kind == "u" and array.max() >= 2**63:
        raise InputError("holds a value of 2^63 or more", field=name, remedy=_REMEDIES[name])
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    raise InputError(f"has dtype {array.dtype}", field=name, remedy="Give an array of integers")


def _pack_segments(lists: Sequence[Sequence[tuple[str, int, int]]]) -> Segments:
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(row) for row in lists], out=offsets[1:])
    flat = [part for row in lists for part in row]
    for kind, _, _ in flat:
        if kind not in SEGMENT_KINDS:
            raise InputError(f"unknown kind {kind!r}", field="segments", remedy=_REMEDIES["segments"])
    return Segments(
        offsets,
        np.array([SEGMENT_KINDS.index(kind) for kind, _, _ in flat], np.int64),
        np.array([tool for _, tool, _ in flat], np.int64),
        np.array([tokens for _, _, tokens in flat], np.int64),
    )


def _checked(batch: Batch, origin: Origin) -> Batch:
    """The batch with its order, after every check; columns are made read-only."""
    _check_values(batch, origin)
    object.__setattr__(batch, "order", _order(batch, origin))
    for column in batch.columns.values():
        column.flags.writeable = False
    return batch


def _refuse(batch: Batch, origin: Origin, row: int, name: str, problem: str) -> NoReturn:
    file, line = origin(row)
    trajectory = int(batch.trajectory[row])
    who = f"row {row}"
    if 0 <= trajectory < len(batch.ids) and not isinstance(batch.ids, _Numbered):
        turn = int(np.count_nonzero(batch.trajectory[:row] == trajectory))
        who = f"turn {turn} of trajectory {batch.ids[trajectory]!r}"
    raise InputError(f"{who}: {problem}", file=file, line=line, field=name, remedy=_REMEDIES[name])


def _check_values(batch: Batch, origin: Origin) -> None:
    rows = batch.turns

    def within(name: str, values: Ints, low: Any, high: Any, owners: Ints | None = None) -> None:
        bad = (values < low) | (values > high)
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            row = at if owners is None else int(owners[at])
            bounds = [int(np.broadcast_to(bound, values.shape)[at]) for bound in (low, high)]
            problem = f"{name} is {int(values[at])}, outside {bounds[0]} to {bounds[1]}"
            _refuse(batch, origin, row, name, problem)

    within("trajectory", batch.trajectory, 0, max(rows - 1, 0))
    if rows and len(np.unique(batch.trajectory)) != len(batch.ids):
        missing = np.setdiff1d(np.arange(len(batch.ids)), batch.trajectory)
        what = f"trajectory {missing[0]} has no turn" if missing.size else "more trajectories than ids"
        raise InputError(what, field="trajectory", remedy=_REMEDIES["trajectory"])
    within("parent", batch.parent, -1, rows - 1)
    within("prompt_tokens", batch.prompt_tokens, 1, MAX_TOKENS)
    within("output_tokens", batch.output_tokens, 0, MAX_TOKENS)
    has_parent = batch.parent >= 0
    length = batch.prompt_tokens + batch.output_tokens
    keepable = np.where(has_parent, length[batch.parent] if rows else length, MAX_TOKENS)
    if batch.prefix is None:
        keepable[~has_parent] = 0
    else:
        within("prefix", batch.prefix, -1, np.where(has_parent, -1, len(batch.prefix_names) - 1))
        keepable[~has_parent & (batch.prefix < 0)] = 0
    within("kept_tokens", batch.kept_tokens, 0, np.minimum(keepable, batch.prompt_tokens))
    within("pause_ns", batch.pause_ns, 0, MAX_NS)
    within("arrival_ns", batch.arrival_ns, 0, MAX_NS)
    if rows and float(batch.pause_ns.sum(dtype=float)) + float(batch.arrival_ns.max()) > MAX_TOTAL_NS:
        raise InputError(
            "all pauses together exceed 2^61 ns, so that timestamps would overflow",
            field="pause_ns",
            remedy="Split the batch, or check the units",
        )
    if batch.after is not batch.parent:
        within("after", batch.after, -1, rows - 1)
    if batch.waits_for is not None:
        within("waits_for", batch.waits_for.values, 0, rows - 1, batch.waits_for.owners)
    if batch.tool is not None:
        within("tool", batch.tool, -1, len(batch.tool_names) - 1)
    if batch.priority is not None:
        within("priority", batch.priority, -(1 << 31), (1 << 31) - 1)
    if batch.cached_tokens is not None:
        within("cached_tokens", batch.cached_tokens, -1, batch.prompt_tokens)
    for name in ("ttft_ns", "e2e_ns"):
        if (values := getattr(batch, name)) is not None:
            within(name, values, -1, MAX_NS)
    new = batch.prompt_tokens - batch.kept_tokens
    if batch.estimated_tokens is not None:
        within("estimated_tokens", batch.estimated_tokens, 0, new + batch.output_tokens)
    if batch.segments is not None:
        owners = batch.segments.owners
        within("segments", batch.segments.tokens, 0, MAX_TOKENS, owners)
        within("segments", batch.segments.tool, -1, len(batch.tool_names) - 1, owners)
        sums = np.bincount(owners, weights=batch.segments.tokens, minlength=rows).astype(np.int64)
        within("segments", sums, 0, new)


def _order(batch: Batch, origin: Origin) -> Ints | None:
    """Rows in dependency order, or None where they already stand in one. Raises on a cycle."""
    number = np.arange(batch.turns)
    in_order = bool((batch.parent < number).all())
    if in_order and batch.after is not batch.parent:
        in_order = bool((batch.after < number).all())
    if in_order and batch.waits_for is not None:
        in_order = bool((batch.waits_for.values < batch.waits_for.owners).all())
    if in_order:
        return None
    from kvsim.backends import auto

    order: Ints = auto().topological_order(batch)
    if len(order) < batch.turns:
        left = np.setdiff1d(number, order)
        row = _on_cycle(batch, set(left.tolist()))
        name = "parent" if batch.parent[row] in left else "after" if batch.after[row] in left else "waits_for"
        _refuse(batch, origin, row, name, "waits for itself through a cycle of turns")
    return order


def _on_cycle(batch: Batch, left: set[int]) -> int:
    """A row that truly lies on a cycle, walking from any of the rows that could not be ordered."""
    row = min(left)
    seen: set[int] = set()
    while row not in seen:
        seen.add(row)
        needed = [int(batch.parent[row]), int(batch.after[row])]
        if batch.waits_for is not None:
            needed += batch.waits_for[row]
        row = next(other for other in needed if other in left)
    return row
