"""Fresh prefill by what the prefilled tokens are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from kvsim.backends.rates import rates
from kvsim.estimation import Estimate
from kvsim.insight.apportion import apportion
from kvsim.insight.contents import KINDS, OWN, Contents
from kvsim.load import Load

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.insight.parts import Parts
    from kvsim.simulated import Simulation

__all__ = ["KEPT", "SOURCES", "Fresh", "fresh_of"]

SOURCES = (*KINDS, "kept", "beside")
"""Where fresh prefill comes from: the kinds of tokens that the turn brings (own: with what its parent had just
generated and no cache could have had yet); kept: other tokens of the parent's context that no cache could have had;
beside: simulated, what the prefill took longer because others were in its steps."""

Floats = npt.NDArray[np.float64]

KEPT, BESIDE = SOURCES.index("kept"), SOURCES.index("beside")


class Fresh(NamedTuple):
    """Nanoseconds of fresh prefill, each by the turn that pays."""

    by_source: Ints
    """Shape (rows, SOURCES); a row's sum is the turn's."""
    by_piece: Ints
    """Shape (pieces,): what the piece's own turn paid for it."""


def fresh_of(result: Estimate | Simulation, parts: Parts, contents: Contents) -> Fresh:
    """Each turn's fresh prefill by token, each token at its own price: linear layers alike, attention by its place."""
    batch, turns = result.batch, result.batch.turns
    prompt, begin = batch.prompt_tokens, parts.fresh_from
    # Items in the order of rows: kept tokens, of these own output, then the pieces up to the prompt's end.
    rows = np.arange(turns)
    generated = np.where(batch.parent >= 0, prompt[batch.parent], 0)
    turn = np.clip(generated, begin, np.maximum(contents.start, begin))
    piece = np.flatnonzero((contents.lo < prompt[contents.row]) & (contents.hi > begin[contents.row]))
    owner = contents.row[piece]
    row = np.concatenate((rows, rows, owner))
    lo = np.concatenate((begin, turn, np.maximum(contents.lo[piece], begin[owner])))
    hi = np.concatenate((turn, np.maximum(contents.start, turn), contents.hi[piece]))
    source = np.concatenate((np.full(turns, KEPT), np.full(turns, OWN), contents.kind[piece]))
    order = np.lexsort((np.repeat(np.arange(3), (turns, turns, len(piece))), row))
    shares = np.empty(len(order), np.int64)
    weights = _weights(result, parts, row, lo, hi)
    shares[order] = apportion(parts.fresh_alone_ns, weights[order], row[order])
    by_source = np.zeros((turns, len(SOURCES)), np.int64)
    np.add.at(by_source, (row, source), shares)
    by_source[:, BESIDE] = parts.fresh_ns - parts.fresh_alone_ns
    by_piece = np.zeros(len(contents.row), np.int64)
    by_piece[piece] = shares[2 * turns :]
    return Fresh(by_source, by_piece)


def _weights(result: Estimate | Simulation, parts: Parts, row: Ints, lo: Ints, hi: Ints) -> Floats:
    """What prefilling the tokens from ``lo`` to ``hi`` takes, in nanoseconds."""
    load = result.pricing.load if isinstance(result, Estimate) else Load()
    made, _ = rates(result.pricing.law, result.pricing.engine, load)
    tokens = (hi - lo).astype(float)
    middle = lo + (tokens + 1) / 2
    seen = made.full.pair * middle
    if made.window:
        seen += made.windowed.pair * np.minimum(middle, made.window)
    attention_ns = tokens * seen / (1 << made.fraction_bits)
    turns = len(parts.fresh_ns)
    all_tokens = np.bincount(row, tokens, turns)
    rest_ns = np.maximum(parts.fresh_alone_ns - np.bincount(row, attention_ns, turns), 0)
    weights: Floats = attention_ns + tokens * (rest_ns / np.maximum(all_tokens, 1))[row]
    return weights
