"""Where the model wrote and where it read, in the token ids of a response: by the marks of its chat template.

A response begins with what the model wrote, up to an end-of-turn token. What follows was read, up to and including the
template's generation prompt (``<|im_start|>assistant\\n``), after which the model wrote again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kvsim.errors import InputError

_ASK = [{"role": "user", "content": "a"}]
_SAID = [*_ASK, {"role": "assistant", "content": "b"}]


@dataclass(frozen=True)
class TurnMarks:
    """The token ids that begin and end a model's turn.

    ``begin``: the generation prompt. ``end``: the tokens that end a turn; they are written by the model.
    """

    begin: tuple[int, ...]
    end: frozenset[int]

    @classmethod
    def of(cls, tokenizer: Any, **chat_template_kwargs: Any) -> TurnMarks:
        """The marks of a Hugging Face tokenizer with a chat template; the arguments are those of its rendering."""

        def ids(messages: list[dict[str, str]], generation_prompt: bool) -> list[int]:
            how = {"tokenize": True, "return_dict": False, "add_generation_prompt": generation_prompt}
            return list(tokenizer.apply_chat_template(messages, **how, **chat_template_kwargs))

        asked = ids(_ASK, False)
        begin = tuple(ids(_ASK, True)[len(asked) :])
        if not begin:
            raise InputError(
                "the chat template adds nothing where the model begins to write",
                field="tokenizer",
                remedy="Record the turns themselves: masks of what the model wrote, or kvsim_turns",
            )
        end = {tokenizer.eos_token_id}
        special = set(tokenizer.all_special_ids)
        said = ids(_SAID, False)[len(asked) + len(begin) :]
        end.update([token for token in said if token in special][:1])  # Gemma ends turns with a token that is not EOS
        return cls(begin, frozenset(token for token in end if token is not None))

    def stretches(self, ids: Sequence[int] | npt.NDArray[Any]) -> list[tuple[int, int]]:
        """What the model wrote of a response, as half-open ranges; the last is empty where it wrote no more."""
        tokens = np.asarray(ids, np.int64)
        ends = np.flatnonzero(np.isin(tokens, list(self.end))) + 1
        begins = self._begins(tokens)
        found, at = [], 0
        while True:
            place = np.searchsorted(ends, at, side="right")  # an end at or before ``at`` was not written here
            stop = int(ends[place]) if place < len(ends) else len(tokens)
            found.append((at, stop))
            place = np.searchsorted(begins, stop + len(self.begin))
            if place == len(begins):
                return found
            at = int(begins[place])

    def _begins(self, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The places right after a generation prompt."""
        size = len(self.begin)
        if len(tokens) < size:
            return np.zeros(0, np.int64)
        windows = np.lib.stride_tricks.sliding_window_view(tokens, size)
        return np.flatnonzero((windows == np.array(self.begin)).all(axis=1)) + size
