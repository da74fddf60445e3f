"""Single measurements of an engine that serves nobody else: prefills, decodes, and steps that mix both."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from kvsim.calibrate.observations import Observation
from kvsim.live.engine import Answer, Counters, ImpossibleError, LiveEngine
from kvsim.live.prompts import Prompts
from kvsim.live.watch import LATE

FloatArray = npt.NDArray[np.float64]

TRIMMED = 0.1
"""Share of the shortest and of the longest gaps between tokens that a mean leaves out."""

FEWEST_STEPS = 4
"""Steps that a probe of decoding must see with all of its sequences in them."""

MIXERS = 3
"""Prompts that come to the decoding sequences of one mixed probe, one after the other."""

MOST_LATE = 1.15
"""So far may the client's time for a whole answer be from the engine's."""

STEPS_OF_MIXER = 6
"""Decoding steps for each of them: the one it waits for, its own, and some between."""

BETWEEN_MIXERS_S = 0.005

MOST_STEPS_OF_MIXER = 3
"""Steps of decoding sequences that may begin and end while a prompt that fits into one waits for its token."""


class Probe(Protocol):
    """Something to measure. ``name`` is the same for repeats of it; so is what it observes."""

    @property
    def name(self) -> str: ...

    async def run(self, bench: Bench) -> Observation:
        """Measure once. Raises :class:`~kvsim.live.engine.EngineError`."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What probes measure with. ``step_tokens``: the engine's max_num_batched_tokens."""

    engine: LiveEngine
    prompts: Prompts
    step_tokens: int
    block_size: int


@dataclass(frozen=True, slots=True)
class Prefill:
    """The first token of a lone prompt: ``new`` tokens after ``cached`` ones that are in the prefix cache."""

    new: int
    cached: int = 0
    label: str = ""

    DOCUMENT: ClassVar[str] = "warm"
    """What is cached is the beginning of it."""

    @property
    def name(self) -> str:
        return self.label or f"prefill/{self.new}+{self.cached}"

    async def run(self, bench: Bench) -> Observation:
        """The prefix is sent before, where there is one."""
        engine, beginning = bench.engine, bench.prompts.document(self.DOCUMENT, self.cached)
        if beginning:
            await engine.complete([*beginning, *bench.prompts.fresh(1)], 1)
        before = (await engine.look()).counters
        answer = await engine.complete([*beginning, *bench.prompts.fresh(self.new)], 1)
        after = (await engine.look()).counters
        cached = answer.cached_tokens
        if cached is None and before is not None and after is not None:
            cached = after.cached_tokens - before.cached_tokens
        if cached is None:
            cached = self.cached
        return Observation(
            "ttft",
            seconds=answer.ttft_s,
            engine_s=_prefill_s(before, after, 1),
            new_tokens=len(beginning) + self.new - cached,
            cached_tokens=cached,
            probe=self.name,
        )


@dataclass(frozen=True, slots=True)
class Decode:
    """``batch`` sequences that decode together after ``context`` tokens each, for ``steps`` steps."""

    batch: int
    context: int
    steps: int

    @property
    def name(self) -> str:
        return f"decode/{self.batch}x{self.context}"

    def documents(self) -> list[str]:
        """The prompts' names."""
        return _documents(self.batch)

    async def run(self, bench: Bench) -> Observation:
        """All are sent at once and generate long enough for ``steps`` steps after the last one's prefill."""
        before = (await bench.engine.look()).counters
        answers: list[Answer] = await together(*_decoders(bench, self.batch, self.context, self.steps))
        after = (await bench.engine.look()).counters
        start = max(answer.submitted_s + answer.ttft_s for answer in answers)
        end = min(answer.submitted_s + answer.e2e_s for answer in answers)
        gaps, contexts = [], []
        for answer in answers:
            times = answer.submitted_s + np.array(answer.token_s)
            within = np.flatnonzero((times >= start) & (times <= end))
            gaps.append(np.diff(times[within]))
            contexts.append(self.context + within[1:])
        steps, ratio = min(map(len, gaps)), _lateness(before, after, answers)
        if steps < FEWEST_STEPS and _late(ratio):
            raise ImpossibleError(
                "tokens are held up on their way from the engine: the client or the server is too busy"
            )
        if steps < FEWEST_STEPS:
            raise ImpossibleError(
                f"only {steps} steps with all {self.batch} sequences of {self.context} tokens in them: the engine does "
                "not run so many at once (give its --max-num-seqs), or preempts some",
            )
        alone_s = None
        if self.batch == 1 and ratio is not None:  # then the engine's word says it all
            alone_s = ratio * (answers[0].e2e_s - answers[0].ttft_s) / (len(answers[0].token_s) - 1)
        return Observation(
            "decode",
            seconds=alone_s or float(np.mean([_trimmed_mean(each) for each in gaps])),
            flag="" if alone_s else _late(ratio),
            batch=self.batch,
            context_tokens=round(float(np.mean(np.concatenate(contexts))), 1),
            steps=steps,
            probe=self.name,
        )


@dataclass(frozen=True, slots=True)
class Mixed:
    """A step with a whole prompt of ``new`` tokens after ``cached`` ones, beside ``batch`` decoding sequences."""

    new: int
    cached: int
    batch: int
    context: int

    @property
    def name(self) -> str:
        return f"mixed/{self.new}+{self.cached}/{self.batch}x{self.context}"

    def documents(self) -> list[str]:
        """The names of the decoding sequences' prompts."""
        return _documents(self.batch)

    async def run(self, bench: Bench) -> Observation:
        """While sequences decode, prompts come one after the other; the step that held one is the longest that the
        decoding sequences saw between its submission and its token."""
        beginning = bench.prompts.document(Prefill.DOCUMENT, self.cached)
        if beginning:
            await bench.engine.complete([*beginning, *bench.prompts.fresh(1)], 1)
        decoding = [asyncio.Event() for _ in range(self.batch)]
        requests = _decoders(bench, self.batch, self.context, STEPS_OF_MIXER * MIXERS, decoding)
        before = (await bench.engine.look()).counters
        *answers, mixers = await together(*requests, self._mixers(bench, beginning, decoding))
        after = (await bench.engine.look()).counters
        row = self._observed(answers, mixers, len(beginning))
        return replace(row, flag=_late(_lateness(before, after, answers)))

    async def _mixers(self, bench: Bench, beginning: list[int], decoding: Sequence[asyncio.Event]) -> list[Answer]:
        for event in decoding:
            await event.wait()
        found = []
        for _ in range(MIXERS):
            await asyncio.sleep(BETWEEN_MIXERS_S)
            found.append(await bench.engine.complete([*beginning, *bench.prompts.fresh(self.new)], 1))
        return found

    def _observed(self, answers: Sequence[Answer], mixers: Sequence[Answer], beginning: int) -> Observation:
        seconds, contexts, between = [], [], []
        for mixer in mixers:
            sent, came = mixer.submitted_s, mixer.submitted_s + mixer.ttft_s
            longest, context = [], []
            for answer in answers:
                times = answer.submitted_s + np.array(answer.token_s)
                ends = np.flatnonzero((times[1:] > sent) & (times[:-1] < came)) + 1
                between.append(int(((times > sent) & (times < came)).sum()))
                if len(ends):
                    gaps = times[ends] - times[ends - 1]
                    longest.append(float(gaps.max()))
                    context.append(self.context + int(ends[gaps.argmax()]))
            if len(longest) == self.batch:
                seconds.append(median(longest))
                contexts.append(median(context))
        if median(between) > MOST_STEPS_OF_MIXER:
            raise ImpossibleError(
                f"a prompt of {self.new} tokens takes {median(between):.0f} steps: the engine does fewer in a step "
                "than was assumed; give its --max-num-batched-tokens"
            )
        if not seconds:
            raise ImpossibleError(
                f"no prompt of {self.new} tokens came while {self.batch} sequences decoded: the engine does not run so "
                "many at once (give its --max-num-seqs), or preempts some"
            )
        cached = mixers[0].cached_tokens
        cached = self.cached if cached is None else cached
        return Observation(
            "mixed",
            seconds=median(seconds),
            new_tokens=beginning + self.new - cached,
            cached_tokens=cached,
            batch=self.batch,
            context_tokens=float(median(contexts)),
            steps=len(seconds),
            probe=self.name,
        )


async def together(*coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
    """The results of all; as soon as one fails the others are cancelled, so that none is left on the engine."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _decoders(
    bench: Bench, batch: int, context: int, steps: int, decoding: Sequence[asyncio.Event] | None = None
) -> list[Coroutine[Any, Any, Answer]]:
    """Requests that all decode for at least ``steps`` steps together: the first ones go on until the last one's prompt
    is in. Their prompts are documents, so that repeats and longer contexts find their beginnings cached."""
    admission = batch * context // bench.step_tokens + 3
    return [
        bench.engine.complete(
            bench.prompts.document(name, context), steps + admission, first=decoding[number] if decoding else None
        )
        for number, name in enumerate(_documents(batch))
    ]


def _documents(batch: int) -> list[str]:
    return [f"decode/{number}" for number in range(batch)]


def _prefill_s(before: Counters | None, after: Counters | None, requests: int) -> float | None:
    """The engine's own mean time to a first token of so many requests between two looks; None where unknown."""
    if before is None or after is None or after.prefills - before.prefills != requests:
        return None
    return (after.prefill_s - before.prefill_s) / requests or None


def _lateness(before: Counters | None, after: Counters | None, answers: Sequence[Answer]) -> float | None:
    """The engine's own time from first to last tokens over the client's, between two looks; None where it does not
    tell. Far from 1, tokens were held up on their way, and the gaps between them say nothing about steps."""
    if before is None or after is None:
        return None
    decoding = sum(len(answer.token_s) > 1 for answer in answers)
    single = after.decodes - before.decodes - decoding  # requests of one token count as decodes of no length
    if single < 0 or single > MIXERS:
        return None
    client_s = sum(answer.e2e_s - answer.ttft_s for answer in answers)
    return (after.decode_s - before.decode_s) / client_s or None


def _late(ratio: float | None) -> str:
    return LATE if ratio is not None and not 1 / MOST_LATE < ratio < MOST_LATE else ""


def _trimmed_mean(gaps: FloatArray) -> float:
    cut = int(TRIMMED * len(gaps))
    return float(np.sort(gaps)[cut : len(gaps) - cut].mean())
