"""The packed batch: one row a turn, a DAG of turns over a prefix tree.

A *turn* is one LLM request. Its prompt extends the context (prompt + output) of its ``parent``, of which the first
``kept_tokens`` are still the same; it is released when ``after`` (by default the parent) and every row in
``waits_for`` have finished and ``pause_ns`` has passed. Linear runs, shared system prompts, forked rollouts, search
trees, context compaction and sub-agents are all this one structure.

Everything is checked once, here at the door, so that the kernels need no checks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from kvsim._door import MAX_TOKENS, REMEDIES, checked
from kvsim._door import SEGMENT_KINDS as SEGMENT_KINDS
from kvsim.errors import InputError

if TYPE_CHECKING:
    import os

    from kvsim.backends.interface import AddsUpRuns, Backend
    from kvsim.logs.report import ReadReport

Ints = npt.NDArray[np.int64]
Made = TypeVar("Made")

#: The columns with one integer a row, in canonical order.
COLUMNS = (
    "parent",
    "after",
    "kept_tokens",
    "prompt_tokens",
    "output_tokens",
    "pause_ns",
    "arrival_ns",
    "trajectory",
    "prefix",
    "tool",
    "priority",
    "cached_tokens",
    "ttft_ns",
    "e2e_ns",
    "estimated_tokens",
)


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
        return cls(offsets, _column("waits_for", [value for row in rows for value in row]))

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
    _handles: dict[str, Any] = field(default_factory=dict, repr=False, init=False)

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
        columns: dict[str, Any] = {name: _column(name, values) for name, values in given.items() if values is not None}
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
        if waits_for is not None:
            _check_packing("waits_for", waits_for.offsets, rows, (waits_for.values,))
        if segments is not None:
            parts = (segments.kind, segments.tool, segments.tokens)
            _check_packing("segments", segments.offsets, rows, parts)
        count = int(columns["trajectory"].max()) + 1 if rows else 0
        batch = cls(
            **columns,
            waits_for=waits_for if waits_for is not None and len(waits_for.values) else None,
            segments=segments,
            ids=ids if ids is not None else Numbered(count),
            tool_names=tool_names if tool_names is not None else _names(columns.get("tool"), segments),
            prefix_names=prefix_names if prefix_names is not None else _names(columns.get("prefix"), None),
        )
        return checked(batch, lambda row: (None, None))

    @classmethod
    def from_trajectories(cls, trajectories: Iterable[Mapping[str, Any]]) -> Batch:
        """A batch from Python objects: mappings with the keys of the neutral file, one a trajectory.

            Batch.from_trajectories([{"id": "a", "turns": [
                {"prompt_tokens": 900, "output_tokens": 120},
                {"parent": 0, "kept_tokens": 1020, "prompt_tokens": 1500, "output_tokens": 80, "pause_s": 2.0},
            ]}])

        Raises :class:`InputError` naming the trajectory's place in the list, the field and the remedy.
        """
        from kvsim.logs.neutral import from_objects

        return from_objects(trajectories)

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}  # handles belong to this process

    @property
    def named(self) -> bool:
        """Whether the trajectories have names of their own rather than numbers."""
        return not isinstance(self.ids, Numbered)

    @property
    def turns(self) -> int:
        """How many turns (rows) the batch holds."""
        return len(self.parent)

    @property
    def longest(self) -> tuple[int, int]:
        """The most prompt and the most output tokens that a turn has."""
        return int(self.prompt_tokens.max(initial=0)), int(self.output_tokens.max(initial=0))

    @property
    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns that are present, by name; ``waits_for`` and ``segments`` as their packed parts."""
        columns = {name: getattr(self, name) for name in COLUMNS if getattr(self, name) is not None}
        if self.waits_for is not None:
            columns |= {"waits_for_offsets": self.waits_for.offsets, "waits_for_rows": self.waits_for.values}
        if self.segments is not None:
            parts = ("offsets", "kind", "tool", "tokens")
            columns |= {f"segments_{part}": getattr(self.segments, part) for part in parts}
        return columns

    @cached_property
    def longest_context(self) -> int:
        """The most tokens that a turn's prompt and output come to; no output counts as one token."""
        return int((self.prompt_tokens + np.maximum(self.output_tokens, 1)).max(initial=0))

    @cached_property
    def waits(self) -> npt.NDArray[np.bool_]:
        """Whether the turn waits for others to finish, shape (rows,): only then does its pause count."""
        waits = self.after >= 0
        return waits if self.waits_for is None else waits | (np.diff(self.waits_for.offsets) > 0)

    @cached_property
    def shared_tokens(self) -> Ints | None:
        """Tokens a root shares with an earlier root (in row order) of the same named prefix, 0 elsewhere."""
        if self.prefix is None:
            return None
        roots = np.flatnonzero(self.prefix >= 0)
        roots = roots[np.argsort(self.prefix[roots], kind="stable")]  # one prefix after the other, rows in order
        # Raising each prefix above the one before turns the longest so far within each into one running maximum.
        step = np.int64(MAX_TOKENS + 1)
        place = np.cumsum(np.diff(self.prefix[roots], prepend=self.prefix[roots[:1]]) != 0)
        longest = np.maximum.accumulate(self.kept_tokens[roots] + place * step) - place * step
        before = np.concatenate([[0], longest[:-1]])
        before[np.flatnonzero(np.diff(place, prepend=-1))] = 0  # the first root of a prefix shares with none
        shared = np.zeros(self.turns, np.int64)
        shared[roots] = np.minimum(self.kept_tokens[roots], before)
        return shared

    def packed(self, backend: Backend | AddsUpRuns) -> Any:
        """The backend's handle for these columns, made on first use."""
        return self.once(f"packed {backend.name}", None, lambda: backend.pack(self))

    def once(self, kind: str, given: Hashable, make: Callable[[], Made]) -> Made:
        """What follows from these columns and from ``given``: made on first use, kept until another one is asked for.

        So that calls share it which differ in something else, such as the points of a sweep.
        """
        known = self._handles.get(kind)
        if known is None or known[0] != given:
            known = self._handles[kind] = (given, make())
        made: Made = known[1]
        return made

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
        chosen = np.asarray(trajectories)
        if chosen.dtype == bool and chosen.shape == (len(self),):
            chosen = np.flatnonzero(chosen)
        chosen = _column("trajectory", chosen)
        if ((chosen < 0) | (chosen >= len(self))).any():
            problem = f"there are {len(self)} trajectories, numbered from 0"
            raise InputError(problem, field="trajectory", remedy="Choose numbers of trajectories, or give a mask")
        keep = np.zeros(len(self), bool)
        keep[chosen] = True
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
            waits = Ragged(offsets, moved("waits_for", self.waits_for.values[kept], self.waits_for.owners[kept]))
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
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in plain if getattr(self, name) is not None}
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
        return checked(batch, lambda row: (None, None))

    def scale_pauses(self, factor: float) -> Batch:
        """The same batch with every pause times ``factor``, rounded to nanoseconds; arrivals stay.

        Raises :class:`InputError` for a factor below 0, and for pauses that become too long for the clock.
        """
        if not 0 <= factor < float("inf"):
            raise InputError(f"{factor!r} scales no pause", field="pause_ns", remedy="Give a number of at least 0")
        pause_ns = np.rint(np.minimum(self.pause_ns * float(factor), 2.0**62)).astype(np.int64)
        return checked(replace(self, pause_ns=pause_ns), lambda row: (None, None))

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write the batch as neutral JSON lines in canonical form, one trajectory a line."""
        from kvsim.logs.neutral import write

        write(self, path)


class Numbered(Sequence[str]):
    """The names "0", "1", ... without storing them."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        numbers = range(self._count)[index]
        return str(numbers) if isinstance(numbers, int) else [str(number) for number in numbers]


def _names(column: Ints | None, segments: Segments | None) -> Sequence[str]:
    """Numbers as names, for ids that came without a name table."""
    highest = max(
        (
            int(values.max())
            for values in (column, segments.tool if segments is not None else None)
            if values is not None and len(values)
        ),
        default=-1,
    )
    return Numbered(highest + 1)


def _column(name: str, values: npt.ArrayLike) -> Ints:
    """One column as contiguous int64, refusing what would be silently changed on the way."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise InputError(f"has {array.ndim} dimensions", field=name, remedy="Give a one-dimensional array")
    if array.dtype == np.int64:
        return np.ascontiguousarray(array).view()  # a view of our own, which can be made read-only
    if not len(array):
        return np.zeros(0, np.int64)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array))[0])
            raise InputError(
                f"row {row} is {array[row]}",
                field=name,
                remedy="Give finite whole numbers (" + REMEDIES[name] + ")",
            )
        if (array != np.floor(array)).any() or np.abs(array).max() >= 2.0**62:
            row = int(np.flatnonzero((array != np.floor(array)) | (np.abs(array) >= 2.0**62))[0])
            raise InputError(
                f"row {row} is {array[row]}, not a whole number of 63 bits",
                field=name,
                remedy=REMEDIES[name],
            )
        return array.astype(np.int64)
    if array.dtype.kind == "u" and array.max() >= 2**63:
        raise InputError("holds a value of 2^63 or more", field=name, remedy=REMEDIES[name])
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    raise InputError(f"has dtype {array.dtype}", field=name, remedy="Give an array of integers")


def _check_packing(name: str, offsets: Ints, rows: int, parts: Sequence[Ints]) -> None:
    """Refuse lists that are not packed one a row."""
    if len(offsets) != rows + 1:
        problem = f"has {len(offsets) - 1} rows where 'parent' has {rows}"
        raise InputError(problem, field=name, remedy="Give every turn one list, empty where it has none")
    lengths = {len(part) for part in parts}
    if offsets[0] != 0 or (np.diff(offsets) < 0).any() or lengths != {int(offsets[-1])}:
        raise InputError(
            f"offsets from {offsets[0]} to {offsets[-1]} do not pack {sorted(lengths)} values",
            field=name,
            remedy="Offsets start at 0, never fall, and end at the number of values",
        )


def _pack_segments(lists: Sequence[Sequence[tuple[str, int, int]]]) -> Segments:
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(row) for row in lists], out=offsets[1:])
    flat = [part for row in lists for part in row]
    for kind, _, _ in flat:
        if kind not in SEGMENT_KINDS:
            raise InputError(f"unknown kind {kind!r}", field="segments", remedy=REMEDIES["segments"])
    return Segments(
        offsets,
        np.array([SEGMENT_KINDS.index(kind) for kind, _, _ in flat], np.int64),
        _column("segments", [tool for _, tool, _ in flat]),
        _column("segments", [tokens for _, _, tokens in flat]),
    )
