"""Where the model wrote and where it read, in the token ids of a response: by the marks of its chat template.

A response begins with what the model wrote, up to an end-of-turn token, or, where its turn was cut, up to what opens a
tool response. What follows was read, up to and including the template's generation prompt
(``<|im_start|>assistant\\n``), after which the model wrote again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kvsim.errors import InputError

_ASK = [{"role": "user", "content": "a"}]


def _said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _called(text: str) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": text}}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


@dataclass(frozen=True)
class TurnMarks:
    """The token ids that begin and end a model's turn.

    ``begin``: the generation prompt. ``end``: the tokens that end a turn; they are written by the model.
    ``opens``: what every tool response opens with; empty where that is not known.
    """

    begin: tuple[int, ...]
    end: frozenset[int]
    opens: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: Any, **chat_template_kwargs: Any) -> TurnMarks:
        """The marks of a Hugging Face tokenizer with a chat template; the arguments are those of its rendering."""

        def ids(messages: list[dict[str, Any]], generation_prompt: bool = False) -> list[int]:
            how = {"tokenize": True, "return_dict": False, "add_generation_prompt": generation_prompt}
            return list(tokenizer.apply_chat_template(messages, **how, **chat_template_kwargs))

        begin = tuple(ids(_ASK, True)[len(ids(_ASK)) :])
        if not begin:
            raise InputError(
                "the chat template adds nothing where the model begins to write",
                field="tokenizer",
                remedy="Record the turns themselves: masks of what the model wrote, or kvsim_turns",
            )
        end = {tokenizer.eos_token_id}
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        for turn in (_said, _called):  # some templates end turns with another token, or calls with one of their own
            try:
                alike = _common_end(ids([*_ASK, turn("b")]), ids([*_ASK, turn("b b")]))
            except Exception as error:  # a template may refuse tool calls in any way it likes
                if turn is _said:
                    raise InputError(str(error), field="tokenizer", remedy="Give one with a chat template") from None
                continue
            end.update([token for token in alike if token in special][:1])
        end.discard(None)
        return cls(begin, frozenset(end), _opening(ids, end, special, tokenizer.unk_token_id))

    def stretches(self, ids: Sequence[int] | npt.NDArray[Any]) -> list[tuple[int, int]]:
        """What the model wrote of a response, as half-open ranges; the last is empty where it wrote no more."""
        tokens = np.asarray(ids, np.int64)
        ends = np.sort([place + 1 for token in self.end for place in np.flatnonzero(tokens == token)])
        begins = _places(tokens, self.begin) + len(self.begin)
        opens = _places(tokens, self.opens)
        found, at = [], 0
        while True:
            place = np.searchsorted(ends, at, side="right")  # an end at or before ``at`` was not written here
            stop = int(ends[place]) if place < len(ends) else len(tokens)
            place = np.searchsorted(opens, at)
            stop = min(stop, int(opens[place])) if place < len(opens) else stop
            found.append((at, stop))
            place = np.searchsorted(begins, stop + len(self.begin))
            if place == len(begins):
                return found
            at = int(begins[place])


def _places(tokens: npt.NDArray[np.int64], wanted: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Where a run of tokens begins."""
    places = np.flatnonzero(tokens == wanted[0]) if wanted else np.zeros(0, np.intp)
    places = places[places <= len(tokens) - len(wanted)]
    for offset, token in enumerate(wanted[1:], start=1):
        places = places[tokens[places + offset] == token]
    return places


def _opening(ids: Callable[..., list[int]], end: set[int], special: set[int], unknown: int | None) -> tuple[int, ...]:
    """What all tool responses open with, from its first special token on."""
    asked = [*_ASK, _called("b")]
    try:
        first, second = (ids([*asked, {"role": "tool", "name": "f", "content": text}]) for text in ("b", "7 b"))
    except Exception:  # a template may refuse tools in any way it likes
        return ()
    alike = list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
    said = max((at for at, (token, _) in enumerate(alike) if token in end), default=len(alike))
    known = itertools.takewhile(lambda token: token != unknown, (token for token, _ in alike[said + 1 :]))
    return tuple(itertools.dropwhile(lambda token: token not in special, known))


def _common_end(first: list[int], second: list[int]) -> list[int]:
    """What two lists end with alike."""
    size = 0
    while size < min(len(first), len(second)) and first[-1 - size] == second[-1 - size]:
        size += 1
    return first[len(first) - size :]
