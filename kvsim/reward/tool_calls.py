"""Tool calls of rollouts, and what each is answerable for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvsim._door import SEGMENT_KINDS

if TYPE_CHECKING:
    from kvsim.reward.per_turn import PerTurn
    from kvsim.reward.rollouts import Rollouts
    from kvsim.trajectory import Ints

_TOOL = SEGMENT_KINDS.index("tool")


@dataclass(frozen=True)
class Calls:
    """Tool calls whose response a later turn read, one row a call, rollout by rollout.

    ``rollout`` and ``turn`` (calls,) say which turn of which rollout made the call; ``tool`` indexes ``names``, -1
    where it is unknown; ``tokens`` are those of the response, 0 where unknown. Where nothing is known of what a turn
    read, it is taken to have read one response.
    """

    rollout: Ints
    turn: Ints
    tool: Ints
    tokens: Ints
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.rollout)

    def counts(self, rollouts: int) -> Ints:
        """How many calls each rollout made, shape (rollouts,)."""
        return np.bincount(self.rollout, minlength=rollouts)


@dataclass(frozen=True)
class CallCosts(Calls):
    """Tool calls with ``cost`` (calls,): what the rollout would have saved without the call.

    That is the marginal cost of the turn that made it, divided among its calls by the tokens of their responses
    (equally where no response has any).
    """

    cost: npt.NDArray[np.float64]


def calls_of(rollouts: Rollouts) -> Calls:
    """The tool calls of rollouts."""
    batch, paths = rollouts.batch, rollouts.entries
    counts = np.diff(paths.offsets)
    owner = np.repeat(np.arange(len(counts)), counts)
    caller = _places_of_parents(rollouts, owner)
    read = np.flatnonzero(caller >= 0)
    rows = paths.values[read]
    if batch.segments is not None:
        parts = np.flatnonzero(batch.segments.kind == _TOOL)
        answers = np.bincount(batch.segments.owners[parts], minlength=batch.turns)
        first = np.cumsum(answers) - answers
        times = answers[rows]
        within = np.arange(int(times.sum())) - np.repeat(np.cumsum(times) - times, times)
        part = parts[np.repeat(first[rows], times) + within]
        tool, tokens = batch.segments.tool[part], batch.segments.tokens[part]
    else:
        times = np.ones(len(rows), np.int64)
        tool = np.full(len(rows), -1) if batch.tool is None else batch.tool[rows]
        tokens = np.zeros(len(rows), np.int64)
    entry = np.repeat(read, times)
    return Calls(owner[entry], caller[entry], tool, tokens, batch.tool_names)


def _places_of_parents(rollouts: Rollouts, owner: Ints) -> Ints:
    """Where in its rollout the parent of each entry stands, -1 for none, shape (entries,)."""
    paths = rollouts.entries
    rows = rollouts.batch.turns
    parent = rollouts.batch.parent[paths.values]
    key = owner * rows + paths.values
    by_key = np.argsort(key, kind="stable")
    wanted = owner * rows + parent
    at = by_key[np.minimum(np.searchsorted(key, wanted, sorter=by_key), max(len(key) - 1, 0))]
    found = (parent >= 0) & (key[at] == wanted)
    return np.where(found, at - paths.offsets[owner], -1)


def costed(calls: Calls, marginal: PerTurn) -> CallCosts:
    """The calls with their parts of the marginal costs of the turns that made them."""
    entry = marginal.offsets[calls.rollout] + calls.turn
    tokens = np.bincount(entry, weights=calls.tokens, minlength=len(marginal.values))
    number = np.bincount(entry, minlength=len(marginal.values))
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(tokens[entry] > 0, calls.tokens / tokens[entry], 1 / number[entry])
    cost = marginal.values[entry] * part
    return CallCosts(calls.rollout, calls.turn, calls.tool, calls.tokens, calls.names, cost)
