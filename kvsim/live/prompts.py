"""Prompts of random token ids: fresh ones that no cache knows, and documents that grow from the same beginning."""

from __future__ import annotations

import os

import numpy as np

LOWEST_ID = 256
"""Below are single bytes and special tokens; above three quarters of a vocabulary, special tokens again."""


class Prompts:
    """Prompts for one measuring process: another process draws others, so that what an earlier one left in the
    prefix cache is never hit."""

    def __init__(self, vocabulary: int) -> None:
        self._low = min(LOWEST_ID, vocabulary // 4)
        self._high = max(3 * vocabulary // 4, self._low + 2)
        self._random = np.random.default_rng(int.from_bytes(os.urandom(8), "little"))
        self._documents: dict[str, list[int]] = {}

    def fresh(self, tokens: int) -> list[int]:
        """So many token ids, others at every call."""
        drawn: list[int] = self._random.integers(self._low, self._high, tokens).tolist()
        return drawn

    def document(self, name: str, tokens: int) -> list[int]:
        """The first ``tokens`` token ids of a document, the same at every call."""
        document = self._documents.setdefault(name, [])
        document += self.fresh(max(0, tokens - len(document)))
        return document[:tokens]

    def held(self, name: str) -> int:
        """How much of a document was drawn, and so sent, so far."""
        return len(self._documents.get(name, ()))

    def forget(self) -> None:
        """Draw all documents anew, since the cache lost them."""
        self._documents.clear()
