"""Tool responses cut to their first tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kvsim.insight.what_if.change import AgentChange
from kvsim.insight.what_if.edits import Cuts, Edits
from kvsim.insight.what_if.responses import Responses

if TYPE_CHECKING:
    from kvsim.trajectory import Batch


@dataclass(frozen=True)
class Truncate(AgentChange):
    """Responses of more than ``tokens`` tokens keep their first ``tokens``: all, those of a tool, or those of a turn.

    ``rows``: the turns that read them, None for all turns. ``of``: the tool's number, None for all. Neighbouring
    responses of one tool in one turn count as one: batches do not tell them apart.
    """

    kind: ClassVar[str] = "truncate"

    tokens: int = 0
    rows: tuple[int, ...] | None = None
    of: int | None = None

    def edits(self, batch: Batch) -> Edits:
        responses = Responses.of(batch)
        chosen = np.arange(len(responses.row)) if self.rows is None else responses.read_by(self.rows)
        if self.of is not None:
            chosen = chosen[responses.tool[chosen] == self.of]
        rows, cut = responses.beyond(self.tokens, chosen)
        end = responses.end[rows]
        none = np.zeros(len(rows), np.int64)
        whole = cut >= batch.prompt_tokens[rows]  # a prompt of nothing but this response keeps one token
        return Edits(1, cuts=Cuts(none, rows, end - cut + whole, end, none, none, none - 1))
