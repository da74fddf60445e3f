"""Where a place in a context is found after cuts of the contexts that it goes through."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvsim.trajectory import Ints

Mask = npt.NDArray[np.bool_]

_NOWHERE = np.int64(1 << 62)


class Positions:
    """Contexts of rows before and after cuts; settle rows after their parents.

    A settled row reads the first ``held`` tokens of its old kept ones from its parent still. What it reads itself moves
    by ``shift`` before its cut, by ``after_cut`` behind it. Rows that nothing touches move by 0.
    """

    def __init__(self, parent: Ints, owner: Ints, kept: Ints, prompt: Ints) -> None:
        """``owner``: of each row the one in whose own part its kept tokens end, -1 for roots."""
        rows = len(parent)
        self._parent, self._kept_of, self._kept, self._prompt = parent, owner, kept, prompt
        self.is_cut: Mask = np.zeros(rows, bool)
        self.touched: Mask = np.zeros(rows, bool)
        self._begin, self._end, self._inserted = (np.zeros(rows, np.int64) for _ in range(3))
        self._owner = np.full(rows, -1, np.int64)
        self._held = kept.copy()
        self._first_cut = np.full(rows, _NOWHERE)
        self._shift, self._after_cut = np.zeros(rows, np.int64), np.zeros(rows, np.int64)

    def cut(self, rows: Ints, begin: Ints, end: Ints, inserted: Ints, owner: Ints) -> None:
        """Say what is cut, before any row is settled; ``owner`` as in :class:`~kvsim.insight.what_if.edits.Cuts`."""
        self.is_cut[rows] = True
        self._owner[rows] = owner
        self._begin[rows], self._end[rows], self._inserted[rows] = begin, end, inserted

    def settle(self, rows: Ints) -> tuple[Ints, Ints]:
        """The kept and prompt tokens of rows whose parents are settled."""
        self.touched[rows] = True
        cut, begin, end, inserted = self.is_cut[rows], self._begin[rows], self._end[rows], self._inserted[rows]
        prompt, parent = self._prompt[rows], self._parent[rows]
        early = cut & (begin < self._kept[rows])
        first_cut = np.where(parent < 0, _NOWHERE, self._first_cut[parent])
        # No need to climb where nothing between was cut before the place.
        start = np.where(self._kept[rows] <= first_cut, self._kept_of[rows], parent)
        start = np.where(early, np.where(self._owner[rows] >= 0, self._owner[rows], parent), start)
        kept, held = self.found(start, np.where(early, begin, self._kept[rows]))
        self._first_cut[rows] = np.where(held < self._kept[rows], np.minimum(first_cut, held), first_cut)
        root = (parent < 0) & early  # a named prefix: all that begin with it are cut alike
        of_prefix = self._kept[rows] - (end - begin) + inserted
        kept = np.where(root, np.where(end <= self._kept[rows], of_prefix, begin), kept)
        held = np.where(root, 0, held)
        shift = np.where(root, 0, kept - held)
        after_cut = shift + np.where(cut, inserted - (end - begin), 0)
        self._held[rows], self._shift[rows], self._after_cut[rows] = held, shift, after_cut
        return kept, prompt + after_cut

    def found(self, parent: Ints, position: Ints) -> tuple[Ints, Ints]:
        """Where the first ``position`` tokens of the parents' contexts end now, and how many of them are still there.

        The second is less than ``position`` where only a part of a cut stretch was kept.
        """
        row, position = parent.copy(), position.copy()
        moved = np.zeros(len(row), np.int64)
        pending = np.flatnonzero(row >= 0)
        while pending.size:
            pending = pending[self.touched[row[pending]]]
            at, place = row[pending], position[pending]
            behind = self.is_cut[at] & (place >= self._end[at])
            inside = self.is_cut[at] & (place > self._begin[at]) & ~behind
            place = np.where(inside, self._begin[at], place)
            position[pending] = place
            own = place >= self._held[at]
            settled = behind | own
            moved[pending[settled]] = np.where(behind, self._after_cut[at], self._shift[at])[settled]
            pending, at = pending[~settled], at[~settled]
            row[pending] = self._parent[at]
            pending = pending[row[pending] >= 0]
        return position + moved, position
