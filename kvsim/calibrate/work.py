"""What engine steps do, as the law's terms count it, and how long it takes at trial rates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..costs import GROUPS, Costs

Array = npt.NDArray[np.float64]


class Content(NamedTuple):
    """One step, or ``times`` like it: chunks of prompts as (new, cached) tokens, and the contexts of the sequences
    that decode (the token fed in included)."""

    chunks: Sequence[tuple[int, int]] = ()
    decodes: Sequence[float] = ()
    times: float = 1.0


@dataclass(frozen=True, slots=True)
class Work:
    """Steps as columns, each belonging to one of ``owners`` rows; a row's time is the sum of its steps'.

    ``pairs``, ``chunk_context`` and ``decode_context`` have one column for each of :data:`kvsim.costs.GROUPS`.
    """

    owners: int
    owner: npt.NDArray[np.intp]
    count: Array
    tokens: Array
    sequences: Array
    decoding: Array
    pairs: Array
    chunk_context: Array
    decode_context: Array

    @classmethod
    def of(cls, rows: Sequence[Iterable[Content]], window: int) -> Work:
        """From each row's steps; ``window`` is that of the architecture's windowed layers, 0 without any."""
        owner: list[int] = []
        plain: list[tuple[float, ...]] = []
        grouped: list[list[list[float]]] = []
        for number, steps in enumerate(rows):
            for step in steps:
                owner.append(number)
                tokens = sum(new for new, _ in step.chunks) + len(step.decodes)
                plain.append((step.times, tokens, len(step.chunks) + len(step.decodes), len(step.decodes)))
                grouped.append([_attention(step, 0), _attention(step, window) if window else [0.0, 0.0, 0.0]])
        columns = np.array(plain, np.float64).reshape(-1, 4).T
        attention = np.array(grouped, np.float64).reshape(-1, len(GROUPS), 3)
        return cls(len(rows), np.array(owner, np.intp), *columns, *(attention[:, :, part] for part in range(3)))

    def seconds(self, costs: Costs) -> Array:
        """Seconds of each row, shape (owners,)."""
        total = _by_count(costs.step_s, self.tokens) + _by_count(costs.sequences_s, self.sequences)
        for number, group in enumerate(GROUPS):
            total = total + costs.pair_s(group) * self.pairs[:, number]
            total = total + costs.context_s(group) * self.chunk_context[:, number]
            total = total + self._reading_s(costs, number, group)
        return np.bincount(self.owner, weights=total * self.count, minlength=self.owners).astype(np.float64)

    def _reading_s(self, costs: Costs, number: int, group: str) -> Array:
        """Context read by the sequences that decode: alone, or beside a chunk."""
        mixed = (self.sequences > self.decoding) & (self.decoding > 0)
        counts = np.maximum(self.decoding, 1)
        alone = _by_count(partial(costs.decode_s, group), counts) * self.decode_context[:, number]
        if not mixed.any():
            return alone
        tiles = self.decode_context[:, number] + costs.tile_keys() * self.decoding
        return np.where(mixed, _by_count(partial(costs.mixed_s, group), counts) * tiles, alone)


def prefill(new: int, cached: int, most_tokens: int) -> list[Content]:
    """The steps of one prompt alone, in chunks of at most ``most_tokens``."""
    return [Content([(min(most_tokens, new - done), cached + done)]) for done in range(0, new, most_tokens)]


def decode(batch: int, context: float, times: float = 1.0) -> Content:
    """``times`` steps of ``batch`` sequences over ``context`` tokens each."""
    return Content((), [context] * batch, times)


def _attention(step: Content, window: int) -> list[float]:
    """Pairs and context of the chunks, context of the decodes; ``window`` 0 is full attention."""
    pairs = context = 0.0
    for new, cached in step.chunks:
        if window:
            free = max(0, min(new, window - cached))  # queries that see everything before them
            pairs += free * cached + free * (free + 1) / 2 + (new - free) * window
            context += min(cached + new, window + new)
        else:
            pairs += new * cached + new * (new + 1) / 2
            context += cached + new
    decodes = sum(min(seen, window) if window else seen for seen in step.decodes)
    return [pairs, context, decodes]


def _by_count(cost: Callable[[Array], Array], counts: Array) -> Array:
    """A cost of counts, evaluated once for each that occurs."""
    distinct, place = np.unique(counts, return_inverse=True)
    return np.asarray(cost(distinct)[place])
