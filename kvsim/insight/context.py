"""Decoding slowed by context, by the tokens that are read.

A decode step reads every token of the context, in layers with sliding windows those in the window, so that what a
turn's steps take beyond their base is shared by its tokens as often as they are read: tokens of the prompt in every
step, those the turn generates in all steps after their own. A window's reads of the prompt are spread evenly over
the prompt's last tokens that fill a window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from kvsim.insight.apportion import apportion
from kvsim.insight.contents import KINDS, OWN, Contents, summed_above
from kvsim.insight.parts import decode_steps, decoding_of

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.estimation import Estimate
    from kvsim.insight.parts import Parts
    from kvsim.simulated import Simulation

__all__ = ["Read", "read_of"]

Floats = npt.NDArray[np.float64]


class Read(NamedTuple):
    """Nanoseconds of decoding for reading context."""

    by_kind: Ints
    """Shape (rows, KINDS), by the turn that decodes; a row's sum is the turn's."""
    by_piece: Ints
    """Shape (pieces,), by what is read: by the turn that brought it and all later ones that are counted."""


def read_of(result: Estimate | Simulation, parts: Parts, contents: Contents, counted: npt.NDArray[np.bool_]) -> Read:
    """Shares of every turn's time for reading context; ``counted`` (rows,) marks the turns that pieces pay for."""
    batch, decoding = result.batch, decoding_of(result)
    rows, prompt, steps = np.arange(batch.turns), batch.prompt_tokens, decode_steps(batch)
    unit = 1.0 / (1 << decoding.fraction_bits)
    each = decoding.token * unit * steps  # for a token of the prompt
    growth = decoding.token * unit * (steps * (steps + 1) / 2)  # for all that the turn generates
    in_window = np.zeros(batch.turns)
    beyond = np.zeros(batch.turns, np.int64)  # tokens of the prompt before the window
    if decoding.window:
        own = _capped(0, steps, decoding.window)
        read = _capped(prompt, steps, decoding.window) - own
        beyond = np.maximum(prompt - decoding.window, 0)
        in_window = decoding.windowed_token * unit * read / (prompt - beyond)
        growth = growth + decoding.windowed_token * unit * own
    at_prompt = contents.before(rows, prompt)
    weights = at_prompt * each[:, None]
    passed = np.flatnonzero((beyond > 0) & (in_window > 0))
    bringer = contents.bringer(passed, beyond[passed])
    if decoding.window:
        seen = at_prompt.copy()
        seen[passed] -= contents.before(bringer, beyond[passed])
        weights = weights + seen * in_window[:, None]
    weights[:, OWN] += growth
    kinds = len(KINDS)
    flat = apportion(parts.decode_context_ns, weights.ravel(), np.repeat(rows, kinds))
    by_kind = flat.reshape(-1, kinds)

    # What a turn really pays for a token, which ends in whole nanoseconds, and in a simulation is never below 0.
    all_weights = weights.sum(axis=1)
    paid = np.where(counted & (all_weights > 0), parts.decode_context_ns / np.maximum(all_weights, 1e-300), 0.0)
    reads = _Reads(
        of_prompt=paid * (each + in_window),
        of_output=paid * growth,
        cut_off=paid[passed] * in_window[passed],
        cut_row=bringer,
        cut_at=beyond[passed],
    )
    piece_weights = _by_piece(contents, prompt, reads)
    group = contents.component[contents.row] * kinds + contents.kind
    totals = np.zeros(batch.turns * kinds, np.int64)
    payers = contents.component[rows][:, None] * kinds + np.arange(kinds)
    np.add.at(totals, payers[counted], by_kind[counted])
    order = np.argsort(group, kind="stable")
    by_piece = np.empty(len(order), np.int64)
    by_piece[order] = apportion(totals, piece_weights[order], group[order])
    return Read(by_kind, by_piece)


class _Reads(NamedTuple):
    """What tokens are read for, in nanoseconds a token."""

    of_prompt: Floats  # by row: each token of its prompt
    of_output: Floats  # by row: all tokens that it generates, together
    cut_off: Floats  # what tokens before a window do not pay of this
    cut_row: Ints  # who brought the last of them
    cut_at: Ints  # where they end


def _by_piece(contents: Contents, prompt: Ints, reads: _Reads) -> Floats:
    """What each piece is read for: by its turn, and by those that hang below, as far as they keep it."""
    direct = reads.of_prompt.copy()
    np.subtract.at(direct, reads.cut_row, reads.cut_off)
    hanging = summed_above(direct, contents)
    # A reader reads what a row brought up to a place: itself to its prompt's end, another to where it is cut off.
    below = np.flatnonzero(contents.base >= 0)
    row = np.concatenate((np.arange(len(prompt)), contents.base[below], reads.cut_row))
    upto = np.concatenate((prompt, contents.start[below], reads.cut_at))
    a_token = np.concatenate((reads.of_prompt, hanging[below], -reads.cut_off))
    count = np.diff(contents.first)[row]
    reader = np.repeat(np.arange(len(row)), count)
    piece = contents.first[row][reader] + np.arange(len(reader)) - (np.cumsum(count) - count)[reader]
    tokens = np.clip(upto[reader] - contents.lo[piece], 0, contents.tokens[piece])
    weights = np.zeros(len(contents.row))
    np.add.at(weights, piece, tokens * a_token[reader])
    weights[contents.first[1:] - 1] += reads.of_output  # a row's last piece is its output
    return np.maximum(weights, 0.0)


def _capped(start: Ints | int, steps: Ints, cap: int) -> Ints:
    """Sum over k = 1..steps of min(start + k, cap)."""
    below = np.clip(cap - start, 0, steps)
    total: Ints = below * start + below * (below + 1) // 2 + (steps - below) * cap
    return total
