"""What is different in a batch, said in a few rows; :mod:`kvsim.insight.what_if.rewriting` makes the rest follow.

An edit belongs to a *variant*, a number from 0: many variants of a batch can be said, made and priced together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from kvsim.trajectory import Ints

NONE = np.zeros(0, np.int64)


class Cuts(NamedTuple):
    """Of the prompt of ``row`` the tokens from ``begin`` to ``end`` become ``inserted`` other ones; one cut a row.

    All contexts that held the whole stretch change alike. ``end`` lies in what the row reads itself (at or behind its
    kept tokens); where ``begin`` lies before that, the row's context parts from its parent's there. The first ``held``
    of the inserted tokens are in the parent's context all the same, behind ``begin``. ``owner`` is the row that read or
    wrote the token before ``begin`` itself, where that is known (-1: it is looked for).
    """

    variant: Ints = NONE
    row: Ints = NONE
    begin: Ints = NONE
    end: Ints = NONE
    inserted: Ints = NONE
    held: Ints = NONE
    owner: Ints = NONE


class Removals(NamedTuple):
    """``row`` is no turn any more: what extends it extends its parent, what comes after it comes when it would have."""

    variant: Ints = NONE
    row: Ints = NONE


class Outputs(NamedTuple):
    """``row`` writes ``tokens`` in place of what it wrote; more come behind."""

    variant: Ints = NONE
    row: Ints = NONE
    tokens: Ints = NONE


class Pauses(NamedTuple):
    """The pause before ``row`` takes ``pause_ns``."""

    variant: Ints = NONE
    row: Ints = NONE
    pause_ns: Ints = NONE


class Summaries(NamedTuple):
    """A turn comes before ``row`` that reads its parent's context and ``asked`` tokens, and writes ``tokens``.

    It comes when ``row`` would have; ``row`` follows it at once.
    """

    variant: Ints = NONE
    row: Ints = NONE
    asked: Ints = NONE
    tokens: Ints = NONE


class Edits(NamedTuple):
    """Edits of so many variants; each table is ordered by variant."""

    variants: int = 1
    cuts: Cuts = Cuts()
    removals: Removals = Removals()
    outputs: Outputs = Outputs()
    pauses: Pauses = Pauses()
    summaries: Summaries = Summaries()

    @property
    def touched(self) -> tuple[Ints, Ints]:
        """The variant and row of every edit."""
        parts = [getattr(self, name) for name in _TABLES]
        return np.concatenate([part.variant for part in parts]), np.concatenate([part.row for part in parts])

    def part(self, begin: int, end: int) -> Edits:
        """The variants from ``begin`` to ``end``, numbered from 0."""
        tables: dict[str, Any] = {}
        for name, kind in _TABLES.items():
            variant, *columns = getattr(self, name)
            low, high = np.searchsorted(variant, [begin, end])
            tables[name] = kind(variant[low:high] - begin, *(column[low:high] for column in columns))
        return Edits(end - begin, **tables)

    @classmethod
    def together(cls, given: Sequence[Edits]) -> Edits:
        """The variants of all, one behind the other."""
        starts = np.cumsum([0, *(edits.variants for edits in given)])
        tables: dict[str, Any] = {}
        for name, kind in _TABLES.items():
            parts = [getattr(edits, name) for edits in given]
            moved = [part._replace(variant=part.variant + start) for part, start in zip(parts, starts, strict=False)]
            tables[name] = kind(*(np.concatenate([NONE, *column]) for column in zip(*moved, strict=True)))
        return cls(int(starts[-1]), **tables)


_TABLES = {"cuts": Cuts, "removals": Removals, "outputs": Outputs, "pauses": Pauses, "summaries": Summaries}


def ints(values: Iterable[int]) -> Ints:
    """Values as a column."""
    return np.array(list(values), np.int64)


def places(column: Ints, wanted: Ints) -> Ints:
    """Where in an ascending column the wanted values stand, these ascending too, each once."""
    begin = np.searchsorted(column, wanted)
    counts = np.searchsorted(column, wanted, "right") - begin
    found: Ints = np.arange(int(counts.sum())) + np.repeat(begin - (np.cumsum(counts) - counts), counts)
    return found
