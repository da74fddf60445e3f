"""Turns of rollouts to a cost term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvsim.logs.turns import Turn

if TYPE_CHECKING:
    from kvsim.reward import Costs, CostTerm

#: The name of a tool that nobody named, so that the term's duration for any tool (``"*"``) holds for it.
UNNAMED = "unnamed tool"


def price(term: CostTerm, rollouts: Sequence[Sequence[Turn]], **facts: Any) -> Costs:
    """The costs of rollouts given as turns; ``facts`` are the other arguments of :meth:`kvsim.CostTerm.price`.

    A pause that nobody measured lasts what the term declares for its tools.
    """
    return term.price(
        [[(turn.prompt_tokens, turn.output_tokens) for turn in turns] for turns in rollouts],
        tool_s=[[turn.pause_s for turn in turns[1:]] for turns in rollouts],
        tools=[[turn.tools or UNNAMED for turn in turns[1:]] for turns in rollouts],
        **facts,
    )


def measured_share(rollouts: Sequence[Sequence[Turn]]) -> npt.NDArray[np.float64]:
    """The share of each rollout's pauses that somebody measured, 1 where it has none, shape (rollouts,)."""
    known = [[turn.pause_s is not None for turn in turns[1:]] for turns in rollouts]
    return np.array([sum(pauses) / len(pauses) if pauses else 1.0 for pauses in known])
