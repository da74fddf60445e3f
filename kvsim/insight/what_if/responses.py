"""What tools answered, as far as a batch says it: how many tokens of each turn's prompt, and where they stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvsim._door import SEGMENT_KINDS
from kvsim.insight.what_if.edits import places
from kvsim.trajectory import Batch, Ints

_TOOL = SEGMENT_KINDS.index("tool")

ALL_NEW = "all that a later turn reads anew is taken as a tool's response: the log does not say what it is"
WHOLE_TURN = "all that a turn after a tool reads anew is taken as its response: the log does not say where it ends"


@dataclass(frozen=True, eq=False)
class Responses:
    """Tool responses, one value a response: ``row`` that reads it (ascending), ``tool`` (-1 unknown), ``tokens``.

    ``end`` (rows,) is where in a row's prompt the last of its responses ends. ``assumption`` says what was taken for
    granted, None where the log says it all.
    """

    row: Ints
    tool: Ints
    tokens: Ints
    end: Ints
    assumption: str | None

    @classmethod
    def of(cls, batch: Batch) -> Responses:
        """From segments where the batch has them, else from the tools that its pauses waited for; found once."""
        return batch.once("responses", None, lambda: cls._found(batch))

    @classmethod
    def _found(cls, batch: Batch) -> Responses:
        parts = batch.segments
        if parts is not None and (parts.kind == _TOOL).any():
            at = np.flatnonzero(parts.kind == _TOOL)
            row = parts.owners[at]
            before = np.cumsum(parts.tokens)  # of all rows; those of earlier rows are taken off again
            first = np.concatenate([[0], before])[parts.offsets[:-1]]
            end = np.zeros(batch.turns, np.int64)
            np.maximum.at(end, row, before[at] - first[row])
            return cls(row, parts.tool[at], parts.tokens[at], batch.kept_tokens + end, None)
        new = batch.prompt_tokens - batch.kept_tokens
        if batch.tool is not None:
            row, assumption = np.flatnonzero((batch.tool >= 0) & (new > 0)), WHOLE_TURN
            tool = batch.tool[row]
        else:
            row, assumption = np.flatnonzero((batch.parent >= 0) & (new > 0)), ALL_NEW
            tool = np.full(len(row), -1, np.int64)
        return cls(row, tool, new[row], batch.prompt_tokens, assumption if row.size else None)

    def read_by(self, rows: tuple[int, ...]) -> Ints:
        """The places of the responses that these rows read, in order."""
        return places(self.row, np.unique(np.array(rows, np.int64)))

    def beyond(self, tokens: int, chosen: npt.NDArray[np.bool_] | Ints | None = None) -> tuple[Ints, Ints]:
        """The rows with responses longer than ``tokens``, and by how much altogether; ``chosen``: of these, a mask or
        places in order."""
        row, long = (self.row, self.tokens) if chosen is None else (self.row[chosen], self.tokens[chosen])
        more = np.maximum(long - tokens, 0)
        first = np.flatnonzero(np.diff(row, prepend=-1))
        sums = np.add.reduceat(more, first) if first.size else more
        return row[first][sums > 0], sums[sums > 0]
