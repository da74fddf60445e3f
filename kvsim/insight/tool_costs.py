"""What tool responses cost over the rest of the run: the run priced again as if they had been empty."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kvsim.estimation import Estimate
from kvsim.insight.what_if.edits import Edits
from kvsim.insight.what_if.expected import Expected, Floats
from kvsim.insight.what_if.responses import Responses
from kvsim.insight.what_if.savings import Ends, Priced, savings
from kvsim.insight.what_if.truncate import Truncate
from kvsim.trajectory import Ints

MOST = 12
"""So many tools or calls are priced, those that should cost most."""


class ResponseCost(NamedTuple):
    """Responses of a tool (``row`` None), or those that one turn read, and what they cost in it and all turns behind.

    ``tool``: None where the log does not name it. ``pause_s``: the pauses before the turns that read them, summed.
    """

    tool: str | None
    row: int | None
    responses: int
    tokens: int
    pause_s: float
    model_s: Ends
    usd: Ends


def by_tool(base: Priced, most: int = MOST) -> list[ResponseCost]:
    """The tools whose responses cost most, by falling cost; those of unnamed tools together."""
    responses, batch = Responses.of(base.batch), base.batch
    tools = np.unique(responses.tool)
    chosen = [responses.tool == tool for tool in tools.tolist()]
    rows = [np.unique(responses.row[mask]) for mask in chosen]
    names = [str(batch.tool_names[tool]) if tool >= 0 else None for tool in tools.tolist()]
    found = _dearest(
        base,
        lambda expected: np.array([expected.response(batch, *responses.beyond(0, mask)).sum() for mask in chosen]),
        lambda at: Truncate("", tokens=0, of=int(tools[at])),
        most,
    )
    costs = [
        ResponseCost(
            names[at],
            None,
            int(chosen[at].sum()),
            int(responses.tokens[chosen[at]].sum()),
            _pauses_s(base, rows[at]),
            *ends,
        )
        for at, ends in found
    ]
    return sorted(costs, key=lambda cost: -cost.model_s.value)


def by_call(base: Priced, most: int = MOST) -> list[ResponseCost]:
    """The turns whose responses cost most, by falling cost."""
    responses, batch = Responses.of(base.batch), base.batch
    rows, tokens = responses.beyond(0)
    found = _dearest(
        base,
        lambda expected: expected.response(batch, rows, tokens),
        lambda at: Truncate("", tokens=0, rows=(int(rows[at]),)),
        most,
    )
    first = dict(zip(responses.row[::-1].tolist(), responses.tool[::-1].tolist(), strict=True))
    counts = np.bincount(responses.row, minlength=batch.turns)
    costs = [
        ResponseCost(
            str(batch.tool_names[first[row]]) if first[row] >= 0 else None,
            row,
            int(counts[row]),
            int(tokens[at]),
            _pauses_s(base, rows[at : at + 1]),
            *ends,
        )
        for at, ends in found
        for row in [int(rows[at])]
    ]
    return sorted(costs, key=lambda cost: -cost.model_s.value)


def _dearest(
    base: Priced, expected: Callable[[Expected], Floats], make: Callable[[int], Truncate], most: int
) -> list[tuple[int, tuple[Ends, Ends]]]:
    """Of those changes that should save most the numbers, and what they save; only they are made."""
    if not isinstance(base.result, Estimate) or not base.batch.turns:
        return []
    worth = expected(Expected.of(base.result, base.families))
    best = [int(at) for at in np.argsort(-worth, kind="stable")[:most] if worth[at] > 0]
    if not best:
        return []
    saved = savings(base, Edits.together([make(at).edits(base.batch) for at in best]))
    return [(at, (saved.ends("model_s", number), saved.ends("usd", number))) for number, at in enumerate(best)]


def _pauses_s(base: Priced, rows: Ints) -> float:
    assert isinstance(base.result, Estimate)
    return float(base.result.pauses_ns[rows].sum()) / 1e9
