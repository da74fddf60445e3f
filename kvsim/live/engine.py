"""A running engine as measurements see it, however it is reached."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from kvsim.errors import KvsimError


class EngineError(KvsimError):
    """The engine did not do what was asked. ``again``: whether asking again may help."""

    def __init__(self, problem: str, *, again: bool = False) -> None:
        super().__init__(problem)
        self.again = again


class ImpossibleError(EngineError):
    """The engine works, but a measurement asks of it what it does not do."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as its client saw it.

    submitted_s: when it was sent, on this process' clock. token_s: when each token came, in seconds from then; tokens
    that came together share a time. cached_tokens and output: None where the engine does not tell.
    """

    submitted_s: float
    token_s: tuple[float, ...]
    prompt_tokens: int
    cached_tokens: int | None
    output: tuple[int, ...] | None

    @property
    def ttft_s(self) -> float:
        """Until the first token."""
        return self.token_s[0]

    @property
    def e2e_s(self) -> float:
        """Until the last token."""
        return self.token_s[-1]


class Counters(NamedTuple):
    """What an engine counts, since its start but for the first two. On the engine's own clock: ``prefill_s``, the
    summed times from a request's first step to its first token, and ``decode_s``, from there to its last; ``prefills``
    and ``decodes`` are how many requests these are of."""

    running: int
    waiting: int
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    preemptions: int
    prefill_s: float
    prefills: int
    decode_s: float
    decodes: int


@dataclass(frozen=True, slots=True)
class Identity:
    """What must stay the same for measurements to belong together.

    name: the model as requests name it. root: what it was loaded from. engine: arguments that are known, by vLLM's
    names (:class:`kvsim.EngineConfig`'s).
    """

    name: str
    root: str
    version: str
    engine: Mapping[str, Any] = field(default_factory=dict)

    def difference(self, other: Identity) -> str:
        """What ``other`` has otherwise, in words; empty if nothing."""
        for what in ("name", "root", "version"):
            before, now = getattr(self, what), getattr(other, what)
            if before != now:
                label = {"name": "model", "root": "model", "version": "version"}[what]
                return f"{label} {now!r} instead of {before!r}"
        for key in sorted(self.engine.keys() | other.engine.keys()):
            before, now = self.engine.get(key), other.engine.get(key)
            if before != now:
                return f"{key} {now!r} instead of {before!r}"
        return ""


class Look(NamedTuple):
    """An engine at one moment. ``counters`` is None where the engine does not count; ``started`` tells one start of
    the engine from another, None where unknown."""

    identity: Identity
    counters: Counters | None
    started: float | None


class LiveEngine(Protocol):
    """What measurements need of an engine. All methods raise :class:`EngineError`."""

    client: str
    """How it is reached: "http" or "in-process"."""

    async def look(self) -> Look:
        """Who it is and what it has counted."""

    async def complete(
        self, prompt: Sequence[int], output_tokens: int, *, ids: bool = False, first: asyncio.Event | None = None
    ) -> Answer:
        """Generate exactly so many tokens after a prompt of token ids. ``ids``: tell which; ``first`` is set when the
        first comes."""

    async def reset_prefix_cache(self) -> bool:
        """Empty the prefix cache; False where that is not allowed."""
