"""What usage objects mean: whether input counts include what was cached differs from API to API.

| keys | input count | cached |
|---|---|---|
| ``prompt_tokens``, ``prompt_tokens_details.cached_tokens`` (OpenAI chat, LiteLLM) | all | part of it |
| ``prompt_cache_hit_tokens`` beside ``prompt_tokens`` (DeepSeek) | all | part of it |
| ``input_tokens``, ``input_tokens_details.cached_tokens`` (OpenAI responses) | all | part of it |
| ``input_tokens``, ``cache_{read,creation}_input_tokens`` (Anthropic) | without cached | beside it |

Where an Anthropic-like object also has ``total_tokens``, the sum decides.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=1 << 30)]


class Counts(NamedTuple):
    """One request's tokens: all of the prompt, the output, and the cached part of the prompt; -1 where not logged."""

    prompt: int
    output: int
    cached: int


class _Details(msgspec.Struct):
    cached_tokens: Count | None = None


class Usage(msgspec.Struct):
    """The fields of all usage objects at once; see :meth:`counts`."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    prompt_cache_hit_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None

    def counts(self) -> Counts | None:
        """The request's tokens, None where the prompt was not counted."""
        output = self.completion_tokens if self.completion_tokens is not None else self.output_tokens
        output = -1 if output is None else output
        if self.prompt_tokens is not None:
            return _known(self.prompt_tokens, output, self._cached_part())
        if self.input_tokens is None:
            return None
        if self.input_tokens_details is not None:
            return _known(self.input_tokens, output, self._cached_part())
        read, created = self.cache_read_input_tokens, self.cache_creation_input_tokens or 0
        beside = (read or 0) + created
        if self.total_tokens is not None and beside and self.total_tokens == self.input_tokens + max(output, 0):
            beside = 0
        return _known(self.input_tokens + beside, output, -1 if read is None else read)

    def _cached_part(self) -> int:
        for details in (self.prompt_tokens_details, self.input_tokens_details):
            if details is not None and details.cached_tokens is not None:
                return details.cached_tokens
        for cached in (self.prompt_cache_hit_tokens, self.cache_read_input_tokens):
            if cached is not None:
                return cached
        return -1


def _known(prompt: int, output: int, cached: int) -> Counts | None:
    """The counts; a prompt of 0 tokens is a count that was not taken."""
    return Counts(prompt, output, cached) if prompt else None
