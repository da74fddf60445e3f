"""``attribute``: the time of every turn, trajectory and run by what it went on, adding up to the nanosecond."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvsim.estimation import Estimate
from kvsim.insight.contents import KINDS, TOOL, Contents, contents_of
from kvsim.insight.context import Read, read_of
from kvsim.insight.evictions import evictions_of
from kvsim.insight.fresh import SOURCES, Fresh, fresh_of
from kvsim.insight.parts import PARTS, Parts, parts_of
from kvsim.result import Array, Table

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.simulated import Simulation

__all__ = ["KINDS", "PARTS", "SOURCES", "Attribution", "Sources", "attribute"]


class Sources(NamedTuple):
    """Where nanoseconds come from, by columns."""

    fresh_ns: Table
    """Columns :data:`kvsim.insight.fresh.SOURCES`; they add up to ``fresh_ns``."""
    decode_context_ns: Table
    """Columns :data:`kvsim.insight.contents.KINDS`: by what is read; they add up to ``decode_context_ns``."""


def attribute(result: Estimate | Simulation) -> Attribution:
    """Takes the times of an estimate or a simulation apart; see :class:`Attribution` and docs/attribution.md."""
    return Attribution(result)


class Attribution:
    """What the time of a result went on.

    Nanoseconds are whole and add up exactly: the columns :data:`PARTS` to the time of a turn, turns to trajectories,
    trajectories to the run. Trajectories with a turn that was not priced or served are left out of all sums
    (``counted`` says which were not, ``left_out`` how many).
    """

    def __init__(self, result: Estimate | Simulation) -> None:
        self.result = result
        self.batch = result.batch

    @cached_property
    def parts(self) -> Parts:
        """The columns of turns as they were worked out."""
        return parts_of(self.result)

    @cached_property
    def counted(self) -> npt.NDArray[np.bool_]:
        """Whether all turns of the trajectory were priced or served, shape (trajectories,)."""
        counted = np.ones(len(self.batch), bool)
        counted[self.batch.trajectory[~self.parts.ok]] = False
        return counted

    @property
    def left_out(self) -> int:
        """How many trajectories are left out of sums."""
        return int(np.count_nonzero(~self.counted))

    @cached_property
    def turns(self) -> Table:
        """One value a turn, rows as in the batch; 0 where it was not priced or served. Columns:

        ``queue_ns``, ``fresh_ns``, ``recompute_ns``, ``decode_base_ns`` (what decoding takes however long the context),
        ``decode_context_ns`` (for reading the context), ``decode_beside_ns`` (simulated: because others were in the
        steps, and preemption), which add up to the turn's time from release to last token; ``tool_ns`` (the pause
        before it); ``idle_kv_byte_s`` (its reusable context in the cache through the pause, bytes of all ranks x
        seconds).
        """
        parts, batch = self.parts, self.batch
        tool_ns = np.where(parts.ok & batch.waits, batch.pause_ns, 0)
        idle_kv_byte_s = parts.idle_block_ns * self._bytes_per_block / 1e9
        named = {name: getattr(parts, name) for name in PARTS} | {"tool_ns": tool_ns, "idle_kv_byte_s": idle_kv_byte_s}
        return table(batch.turns, named)

    @cached_property
    def trajectories(self) -> Table:
        """The columns of :attr:`turns` summed, one value a trajectory; 0 where it is left out."""
        return self._summed(self.batch.trajectory, len(self.batch))

    @cached_property
    def run(self) -> Table:
        """The columns of :attr:`turns` summed over all trajectories that are counted: one value each."""
        return self._summed(np.zeros(self.batch.turns, np.int64), 1)

    @cached_property
    def sources(self) -> Sources:
        """One value a turn, of whatever trajectory."""
        return Sources(
            fresh_ns=table(self.batch.turns, dict(zip(SOURCES, self._fresh.by_source.T, strict=True))),
            decode_context_ns=table(self.batch.turns, dict(zip(KINDS, self._read.by_kind.T, strict=True))),
        )

    @cached_property
    def trajectory_sources(self) -> Sources:
        """The same summed, one value a trajectory; 0 where it is left out."""
        return self._summed_sources(self.batch.trajectory, len(self.batch))

    @cached_property
    def run_sources(self) -> Sources:
        """The same summed over all trajectories that are counted."""
        return self._summed_sources(np.zeros(self.batch.turns, np.int64), 1)

    @cached_property
    def tool_calls(self) -> Table:
        """One value a tool call, or as many calls in parallel as one turn answers. Columns:

        ``row`` (the turn that the response went to), ``trajectory``, ``tool`` (index into ``batch.tool_names``, -1
        unnamed), ``response_tokens``, ``tool_ns`` and ``idle_kv_byte_s`` of the pause, and what is blamed on it:
        ``fresh_ns`` of the response, ``recompute_ns`` lost in the pause, ``decode_context_ns`` that the response's
        tokens cause in this and all later turns.

        A call is a turn with a segment of kind tool, with a named tool, or, where its prompt is not described at all,
        with a pause after another turn. Turns of trajectories that are left out pay nothing.
        """
        batch, turns, rows = self.batch, self.turns, self._calls
        tool = np.full(batch.turns, -1, np.int64) if batch.tool is None else batch.tool
        counted = self._counted_turns

        def of_responses(column: Ints) -> Ints:
            return by_group(self._contents.row, column, self._responses, batch.turns)[rows]

        return table(
            len(rows),
            {
                "row": rows,
                "trajectory": batch.trajectory[rows],
                "tool": tool[rows],
                "response_tokens": of_responses(self._contents.tokens),
                "tool_ns": np.where(counted, turns.tool_ns, 0)[rows],
                "idle_kv_byte_s": np.where(counted, turns.idle_kv_byte_s, 0.0)[rows],
                "fresh_ns": of_responses(self._fresh.by_piece * counted[self._contents.row]),
                "recompute_ns": (self._lost_in_pause_ns * counted)[rows],
                "decode_context_ns": of_responses(self._read.by_piece),
            },
        )

    @property
    def tool_names(self) -> list[str]:
        """The names of :attr:`tools`, the last one empty for calls and responses without a name."""
        return [*self.batch.tool_names, ""]

    @cached_property
    def tools(self) -> Table:
        """One value a tool name (:attr:`tool_names`). Columns:

        ``calls`` and the sums of :attr:`tool_calls`, where parallel calls have their own responses; pauses are the
        longest tool's.
        """
        calls, contents, count = self.tool_calls, self._contents, len(self.tool_names)
        waited_for = np.where(calls.tool >= 0, calls.tool, count - 1)
        responses = self._responses
        tool = np.where(contents.tool >= 0, contents.tool, count - 1)
        every = np.ones(len(waited_for), bool)
        fresh_ns = self._fresh.by_piece * self._counted_turns[contents.row]
        return table(
            count,
            {
                "calls": np.bincount(waited_for, minlength=count),
                "response_tokens": by_group(tool, contents.tokens, responses, count),
                "tool_ns": by_group(waited_for, calls.tool_ns, every, count),
                "idle_kv_byte_s": by_group(waited_for, calls.idle_kv_byte_s, every, count),
                "fresh_ns": by_group(tool, fresh_ns, responses, count),
                "recompute_ns": by_group(waited_for, calls.recompute_ns, every, count),
                "decode_context_ns": by_group(tool, self._read.by_piece, responses, count),
            },
        )

    @cached_property
    def evictions(self) -> Table:
        """Why tokens were computed again: one row for each turn that did, and each row that evicted them. Columns:

        ``row`` (the turn that computes again), ``by`` (the row whose blocks took their place, -1: nobody's, see
        docs/attribution.md), ``lost_in`` (text: ``pause`` between the parent's finish and the turn's release,
        ``queue`` while the turn waited, ``earlier`` before the parent's finish, ``absent``: never in that replica's
        cache, or not since), ``blocks``, ``last_ns`` (when the last of them went, -1 unknown), ``recompute_ns`` (shares
        of the turn's ``recompute_ns`` by blocks, which add up to it).

        Of an estimate, and of a simulation without ``evictions=True``, it says ``pause`` and -1.
        """
        return evictions_of(self.result, self.parts.recompute_ns)

    def to_dict(self) -> dict[str, Any]:
        """All sums but those of turns as plain values, for JSON: integers, and floats for bytes x seconds."""

        def row(made: Table, at: int) -> dict[str, Any]:
            return {name: column[at].item() for name, column in made.items()}

        def sourced(sources: Sources, at: int) -> dict[str, Any]:
            return {name: row(made, at) for name, made in zip(Sources._fields, sources, strict=True)}

        return {
            "left_out_trajectories": self.left_out,
            "run": row(self.run, 0) | {"by_source": sourced(self.run_sources, 0)},
            "tools": [{"tool": name} | row(self.tools, at) for at, name in enumerate(self.tool_names)],
            "trajectories": [
                {"id": self.batch.ids[at], "counted": bool(self.counted[at])}
                | row(self.trajectories, at)
                | {"by_source": sourced(self.trajectory_sources, at)}
                for at in range(len(self.batch))
            ],
        }

    @cached_property
    def _contents(self) -> Contents:
        return contents_of(self.batch)

    @cached_property
    def _fresh(self) -> Fresh:
        return fresh_of(self.result, self.parts, self._contents)

    @cached_property
    def _read(self) -> Read:
        return read_of(self.result, self.parts, self._contents, self._counted_turns)

    @cached_property
    def _responses(self) -> npt.NDArray[np.bool_]:
        responses: npt.NDArray[np.bool_] = self._contents.kind == TOOL
        return responses

    @cached_property
    def _calls(self) -> Ints:
        """The rows of tool calls."""
        batch = self.batch
        calls = np.zeros(batch.turns, bool)
        calls[self._contents.row[self._responses]] = True
        described = np.zeros(batch.turns, bool)
        if batch.segments is not None:
            described = np.diff(batch.segments.offsets) > 0
        calls |= batch.waits & ~described & (batch.parent >= 0) & (batch.pause_ns > 0)
        if batch.tool is not None:
            calls |= batch.waits & (batch.tool >= 0)
        return np.flatnonzero(calls)

    @cached_property
    def _lost_in_pause_ns(self) -> Ints:
        """Of every turn's recompute what was evicted in the pause before it."""
        lost = self.evictions
        return by_group(lost.row, lost.recompute_ns, lost.lost_in == "pause", self.batch.turns)

    def _summed_sources(self, groups: Ints, count: int) -> Sources:
        rows = self._counted_turns
        return Sources(*(table(count, sums(source, groups, count, rows)) for source in self.sources))

    @cached_property
    def _counted_turns(self) -> npt.NDArray[np.bool_]:
        return self.counted[self.batch.trajectory]

    @property
    def _bytes_per_block(self) -> int:
        pricing = self.result.pricing
        return pricing.kv_bytes_per_block if isinstance(self.result, Estimate) else pricing.pool_block_bytes

    def _summed(self, groups: Ints, count: int) -> Table:
        return table(count, sums(self.turns, groups, count, self._counted_turns))


def table(rows: int, columns: Mapping[str, Array]) -> Table:
    """A table of columns that are there already."""
    return Table(rows, {name: partial(columns.__getitem__, name) for name in columns})


def sums(columns: Mapping[str, Array], groups: Ints, count: int, rows: npt.NDArray[np.bool_]) -> dict[str, Array]:
    """The columns' sums by group, shape (count,), over the rows that are marked."""
    return {name: by_group(groups, column, rows, count) for name, column in columns.items()}


def by_group(groups: Ints, column: Array, rows: npt.NDArray[np.bool_], count: int) -> Array:
    """A column's sums by group, shape (count,), over the rows that are marked."""
    total = np.zeros(count, column.dtype)
    np.add.at(total, groups[rows], column[rows])
    return total
