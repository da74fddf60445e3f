"""``attribute``: the time of every turn, trajectory and run by what it went on, adding up to the nanosecond."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvsim.estimation import Estimate
from kvsim.insight.parts import PARTS, Parts, parts_of
from kvsim.result import Array, Table

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.simulated import Simulation

__all__ = ["PARTS", "Attribution", "attribute"]


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
    totals: dict[str, Array] = {}
    for name, column in columns.items():
        totals[name] = np.zeros(count, column.dtype)
        np.add.at(totals[name], groups[rows], column[rows])
    return totals
