"""What contexts are made of: stretches of tokens of one kind, by the turn that brought them.

A turn *brings* the new part of its prompt and its output; everything before is a prefix of what others brought. Its
*base* is the turn that brought the last token of that prefix, so that bases form a tree in which each turn is cut off
its base inside what that one brought: everything before belongs to the base's bases, whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvsim.trajectory import SEGMENT_KINDS

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.trajectory import Batch

__all__ = ["KINDS", "OTHER", "OWN", "TOOL", "Contents", "contents_of"]

KINDS = (*SEGMENT_KINDS, "other")
"""What tokens are: what a segment says, own output, or other: what no segment explains."""

TOOL, OWN, OTHER = KINDS.index("tool"), KINDS.index("own"), KINDS.index("other")
_PLACES = 32  # bits for a place in a context


@dataclass(frozen=True)
class Contents:
    """Stretches ("pieces") in the order of rows, then of places; and how rows hang together."""

    row: Ints
    lo: Ints
    hi: Ints
    """Places in the context, from 0."""
    kind: Ints
    tool: Ints
    """Whose response it is, -1 unknown or none."""
    first: Ints
    """By row: its first piece; one more for the end."""
    start: Ints
    """By row: where what it brings begins."""
    base: Ints
    """By row, -1 where it brings all of its context."""
    order: list[int]
    """Rows so that each stands behind its base."""
    inherited: Ints = field(init=False)
    """By row and kind: the tokens of its context that others brought."""
    component: Ints = field(init=False)
    """By row: the row at the root of its tree of bases."""
    _running: Ints = field(init=False, repr=False)
    _keys: Ints = field(init=False, repr=False)

    @property
    def tokens(self) -> Ints:
        """Of each piece."""
        return self.hi - self.lo

    def brought_before(self, rows: Ints, places: Ints) -> Ints:
        """Of the tokens that rows brought those before places in their contexts, by kind; shape (rows, KINDS)."""
        known = (rows >= 0) & (places > 0)
        safe = np.where(known, rows, 0)
        at = np.searchsorted(self._keys, (safe << _PLACES) | np.where(known, places, 1), "left") - 1
        at = np.maximum(at, self.first[safe])
        counts = self._running[at] - self._running[self.first[safe]]
        within = np.clip(places - self.lo[at], 0, self.tokens[at])
        counts[np.arange(len(rows)), self.kind[at]] += within
        counts[~known] = 0
        return counts

    def before(self, rows: Ints, places: Ints) -> Ints:
        """Of the tokens of rows' contexts those before places that the rows themselves brought, and all above these."""
        return self.inherited[np.maximum(rows, 0)] * (rows >= 0)[:, None] + self.brought_before(rows, places)

    def bringer(self, rows: Ints, places: Ints) -> Ints:
        """Who brought the token before each place, for places above 0."""
        found = rows.copy()
        while True:
            above = np.flatnonzero((found >= 0) & (self.start[found] >= places))
            if not len(above):
                return found
            found[above] = self.base[found[above]]

    def __post_init__(self) -> None:
        by_kind = np.zeros((len(self.row) + 1, len(KINDS)), np.int64)
        by_kind[np.arange(1, len(self.row) + 1), self.kind] = self.tokens
        object.__setattr__(self, "_running", np.cumsum(by_kind, axis=0))
        object.__setattr__(self, "_keys", (self.row << _PLACES) | self.lo)
        inherited = self.brought_before(self.base, self.start)
        above = self.base.copy()
        component = np.where(above >= 0, above, np.arange(len(above)))
        while (above >= 0).any():  # each pass doubles how far up has been summed
            has = above >= 0
            inherited[has] += inherited[above[has]]
            component = component[component]
            above[has] = above[above[has]]
        object.__setattr__(self, "inherited", inherited)
        object.__setattr__(self, "component", component)


def contents_of(batch: Batch) -> Contents:
    """The contents of a batch's contexts."""
    rows = np.arange(batch.turns)
    start = np.where(batch.parent >= 0, batch.kept_tokens, 0)
    end = batch.prompt_tokens + np.maximum(batch.output_tokens, 1)
    # In a row: the shared prefix that it names, its segments, what they leave unexplained, its output.
    named = np.where(batch.parent < 0, batch.kept_tokens, 0)
    said = batch.segments
    empty = np.zeros(0, np.int64)
    owner, kind, tool, tokens = (empty,) * 4 if said is None else (said.owners, said.kind, said.tool, said.tokens)
    explained = np.bincount(owner, tokens, batch.turns).astype(np.int64)
    rest = batch.prompt_tokens - start - named - explained
    none = np.full(batch.turns, -1, np.int64)
    row = np.concatenate((rows, owner, rows, rows))
    kinds = np.concatenate((none * 0 + OTHER, kind, none * 0 + OTHER, none * 0 + OWN))
    tools = np.concatenate((none, tool, none, none))
    tokens = np.concatenate((named, tokens, rest, end - batch.prompt_tokens))
    place = np.repeat(np.arange(4), (batch.turns, len(owner), batch.turns, batch.turns))
    kept = np.flatnonzero(tokens > 0)
    kept = kept[np.lexsort((place[kept], row[kept]))]
    row, kinds, tools, tokens = row[kept], kinds[kept], tools[kept], tokens[kept]
    first = np.searchsorted(row, np.arange(batch.turns + 1))
    running = np.cumsum(tokens)
    hi = running - (running - tokens)[first[row]] + start[row]
    order = rows.tolist() if batch.order is None else batch.order.tolist()
    base = _bases(batch.parent, start, order)
    return Contents(row, hi - tokens, hi, kinds, tools, first, start, base, order)


def _bases(parent: Ints, start: Ints, order: list[int]) -> Ints:
    """By row: the turn that brought the last token of what the row keeps."""
    base = np.where(start > 0, parent, -1)
    deeper = np.zeros(len(parent), bool)  # those who keep less than their parent did
    has = base >= 0
    deeper[has] = start[base[has]] >= start[has]
    for row in [row for row in order if deeper[row]]:
        above = base[row]
        while above >= 0 and start[above] >= start[row]:
            above = base[above]
        base[row] = above
    return base


def summed_above(values: npt.NDArray[np.float64], contents: Contents) -> npt.NDArray[np.float64]:
    """Of each row's value and those of all rows above which it stands: what hangs on it, itself included."""
    totals = values.tolist()
    base = contents.base.tolist()
    for row in reversed(contents.order):
        if base[row] >= 0:
            totals[base[row]] += totals[row]
    return np.array(totals, np.float64)
