"""Rollouts as lists of chat messages, with known token counts or with a tokenizer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from kvsim._door import SEGMENT_KINDS
from kvsim.errors import InputError
from kvsim.logs.chat import Message
from kvsim.logs.messages import TEMPLATE_TOKENS, Facts
from kvsim.reward.assembly import NO_OUTPUT, Turns
from kvsim.tokens import token_counter
from kvsim.trajectory import Segments

Messages = Sequence[Mapping[str, Any]]

_TOOL = SEGMENT_KINDS.index("tool")


def turns_of_messages(
    conversations: Sequence[Messages],
    token_counts: Sequence[Sequence[int]] | None = None,
    prompt_tokens: npt.ArrayLike | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> Turns:
    """The turns of conversations: every assistant message is one, whose prompt is all that precedes it.

    ``token_counts``: for each conversation, how many tokens each message takes in the context. Without, the
    ``tokenizer`` counts the words and a chat template's tokens are added as in :func:`kvsim.logs.from_messages`;
    what is no well-formed message is counted by its text all the same. ``prompt_tokens``: tokens before the first
    message. A conversation without an assistant message is one turn that writes nothing.
    """
    from kvsim import _ingest

    before = np.zeros(len(conversations), np.int64)
    if prompt_tokens is not None:
        before += np.asarray(prompt_tokens, np.int64)
    assumptions: dict[str, int] = {}
    head = 0
    if token_counts is None:
        counter = token_counter(tokenizer)
        facts = Facts(counter)
        token_counts = [[_tokens(facts, message) for message in messages] for messages in conversations]
        head = TEMPLATE_TOKENS
        if words := sum(map(len, token_counts)):
            assumptions[f"messages without token counts: counted by {counter.name}"] = words
    elif len(token_counts) != len(conversations):
        problem = f"has {len(token_counts)} lists for {len(conversations)} conversations"
        raise InputError(problem, field="token_counts", remedy="Give one list a conversation")
    try:
        counts, prompt, output, offsets, tool, tokens, names = _ingest.message_turns(
            list(conversations), list(token_counts), before, head
        )
    except ValueError as error:
        if len(error.args) != 2:
            raise
        raise InputError(
            f"conversation {error.args[0]}: {error.args[1]}",
            field="rollouts",
            remedy="Give OpenAI-style messages, and one token count a message",
        ) from None
    if silent := int(np.count_nonzero(output == 0)):
        assumptions[NO_OUTPUT] = silent
    segments = Segments(offsets, np.full(len(tool), _TOOL, np.int64), tool, tokens)
    return Turns(counts, prompt, output, segments, names, assumptions)


def _tokens(facts: Facts, message: Mapping[str, Any]) -> int:
    """The tokens that a message takes in the context; the head of an answer is no part of it."""
    role = message.get("role")
    try:
        words = facts.one(msgspec.convert(message, Message)).tokens
    except msgspec.ValidationError:
        words = facts.raw(str({name: value for name, value in message.items() if name != "role"}).encode())[0]
    return words if role == "assistant" else words + TEMPLATE_TOKENS
