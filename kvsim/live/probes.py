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
from kvsim.live.clock import counted, first_token_s, token_gap_s
from kvsim.live.engine import Answer, ImpossibleError, LiveEngine
from kvsim.live.prompts import Prompts
from kvsim.live.watch import LATE

FloatArray = npt.NDArray[np.float64]

TRIMMED = 0.1
"""Share of the shortest and of the longest gaps between tokens that a mean leaves out."""

FEWEST_STEPS = 4
"""Steps that a probe of decoding must see with all of its sequences in them."""

MIXERS = 3
"""Prompts that come to the decoding sequences of one mixed probe, one after the other."""

MOST_LATE = 1.25
"""So far may the client's time between two tokens be from the engine's."""

STEPS_OF_MIXER = 12
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
    """What probes measure with. ``step_tokens``: the engine's max_num_batched_tokens; ``synchronous``: it is known to
    schedule a step after the one before has ended."""

    engine: LiveEngine
    prompts: Prompts
    step_tokens: int
    block_size: int
    prefix_caching: bool
    synchronous: bool


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
        after = await counted(engine, before, 1)
        cached = answer.cached_tokens
        if cached is None and before is not None and after is not None:
            cached = after.cached_tokens - before.cached_tokens
        if cached is None:
            cached = self.cached
        return Observation(
            "ttft",
            seconds=answer.ttft_s,
            engine_s=first_token_s(before, after, 1),
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
        """All are sent at once and generate long enough for ``steps`` steps after the last one's prefill.

        A step is the gap between tokens as the client saw it while all decode; for a single sequence, and where the
        client's gaps are not the engine's, the engine's own mean over the answers.
        """
        await self._prime(bench)
        before = (await bench.engine.look()).counters
        answers: list[Answer] = await together(*_decoders(bench, self.batch, self.context, self.steps))
        engine_s = token_gap_s(before, await counted(bench.engine, before, self.batch), answers)
        gaps, contexts = self._gaps(answers)
        steps = min(map(len, gaps))
        if steps < FEWEST_STEPS and not _held_up(_mean_gap_s(answers), engine_s):
            raise ImpossibleError(
                f"only {steps} steps with all {self.batch} sequences of {self.context} tokens in them: the engine does "
                "not run so many at once (give its --max-num-seqs), or preempts some",
            )
        client_s = float(np.mean([_trimmed_mean(each) for each in gaps])) if steps >= FEWEST_STEPS else 0.0
        late = _held_up(client_s, engine_s)
        own = engine_s is not None and (late or self.batch == 1)
        if own:
            steps = len(answers[0].token_s) - 1
            contexts = [self.context + np.arange(1.0, steps + 1.0)]
        return Observation(
            "decode",
            seconds=engine_s if own else client_s,
            flag=LATE if late and self.batch > 1 and not self._was_primed(bench, answers) else "",
            batch=self.batch,
            context_tokens=round(float(np.mean(np.concatenate(contexts))), 1),
            steps=steps,
            probe=self.name,
        )

    async def _prime(self, bench: Bench) -> None:
        """Bring those prompts into the prefix cache that were not sent before, so that all begin to decode at once."""
        if bench.prefix_caching and self.batch > 1:
            missing = [name for name in self.documents() if bench.prompts.held(name) < self.context]
            await together(*(bench.engine.complete(bench.prompts.document(name, self.context), 1) for name in missing))

    def _was_primed(self, bench: Bench, answers: Sequence[Answer]) -> bool:
        missing = [self.context - (answer.cached_tokens or 0) for answer in answers if answer.cached_tokens is not None]
        return bench.prefix_caching and max(missing, default=0) <= 2 * bench.block_size

    def _gaps(self, answers: Sequence[Answer]) -> tuple[list[FloatArray], list[FloatArray]]:
        """The gaps between tokens while all decode, and the contexts in the steps between, by answer."""
        start = max(answer.submitted_s + answer.ttft_s for answer in answers)
        end = min(answer.submitted_s + answer.e2e_s for answer in answers)
        gaps, contexts = [], []
        for answer in answers:
            times = answer.submitted_s + np.array(answer.token_s)
            within = np.flatnonzero((times >= start) & (times <= end))
            gaps.append(np.diff(times[within]))
            contexts.append(self.context + within[1:].astype(np.float64))
        return gaps, contexts


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
        *answers, (mixers, engine_s) = await together(*requests, self._mixers(bench, beginning, decoding))
        after = await counted(bench.engine, before, self.batch + MIXERS)
        gap_s = token_gap_s(before, after and after._replace(prefills=after.prefills - MIXERS), answers)
        late = _held_up(_mean_gap_s(answers), gap_s)
        if late and engine_s is None:
            raise ImpossibleError(
                "tokens are held up on their way from the engine: the client or the server is too busy"
            )
        row = self._observed(answers, mixers, len(beginning), late)
        return replace(row, seconds=engine_s or row.seconds)

    async def _mixers(
        self, bench: Bench, beginning: list[int], decoding: Sequence[asyncio.Event]
    ) -> tuple[list[Answer], float | None]:
        """The prompts' answers, and the engine's own time of their steps where that is what its clock shows: with
        asynchronous scheduling it begins within the step before, and it says nothing if decoding requests ended."""
        for event in decoding:
            await event.wait()
        before = (await bench.engine.look()).counters if bench.synchronous else None
        found = []
        for _ in range(MIXERS):
            await asyncio.sleep(BETWEEN_MIXERS_S)
            found.append(await bench.engine.complete([*beginning, *bench.prompts.fresh(self.new)], 1))
        return found, first_token_s(before, await counted(bench.engine, before, MIXERS), MIXERS)

    def _observed(self, answers: Sequence[Answer], mixers: Sequence[Answer], beginning: int, late: bool) -> Observation:
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
        if median(between) > MOST_STEPS_OF_MIXER and not late:
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


def _mean_gap_s(answers: Sequence[Answer]) -> float:
    """The client's mean time between two tokens of all answers together."""
    return sum(one.e2e_s - one.ttft_s for one in answers) / sum(len(one.token_s) - 1 for one in answers)


def _held_up(client_s: float, engine_s: float | None) -> bool:
    """Whether tokens were held up between engine and client, so that gaps between them say nothing about steps."""
    return engine_s is not None and not 1 / MOST_LATE < client_s / engine_s < MOST_LATE


def _trimmed_mean(gaps: FloatArray) -> float:
    cut = int(TRIMMED * len(gaps))
    return float(np.sort(gaps)[cut : len(gaps) - cut].mean())
