"""Multi-turn tool-calling sessions on a live engine: each turn extends the one before, after a pause for its tool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from kvsim.calibrate.observations import Observation
from kvsim.live.probes import Bench, together


@dataclass(frozen=True, slots=True)
class Turn:
    """Tokens appended to the context before it, tokens generated, and the pause before it in seconds."""

    append: int
    output: int
    pause_s: float


@dataclass(frozen=True, slots=True)
class Sessions:
    """A workload: ``sessions`` sessions of ``turns`` turns that share a system prompt and start ``stagger_s`` apart.

    The first message and each tool's response are 0.5 to 1.5 times ``append`` tokens, answers 0.5 to 1.5 times
    ``output``, pauses exponential with mean ``pause_s``; drawn from ``seed``.
    """

    label: str
    sessions: int
    turns: int
    system: int
    append: int
    output: int
    pause_s: float
    stagger_s: float
    seed: int = 0

    @property
    def name(self) -> str:
        """The same for repeats; names how many turns a whole run has."""
        return f"turns/{self.label}/{self.sessions}x{self.turns}"

    def plan(self) -> list[list[Turn]]:
        """The turns of each session."""
        return [list(self._session(number)) for number in range(self.sessions)]

    def _session(self, number: int) -> Iterator[Turn]:
        random = Random(f"{self.name}/{self.seed}/{number}")

        def around(mean: int) -> int:
            return max(1, random.randint(mean // 2, mean + mean // 2))

        for turn in range(self.turns):
            pause_s = round(random.expovariate(1 / self.pause_s), 4) if turn and self.pause_s else 0.0
            yield Turn(around(self.append), around(self.output), pause_s)

    @property
    def context_tokens(self) -> int:
        """The contexts of all sessions at their ends, the shared system prompt counted once."""
        return self.system + sum(turn.append + turn.output for session in self.plan() for turn in session)

    @property
    def longest_context(self) -> int:
        """The longest context of any session."""
        return self.system + max(sum(turn.append + turn.output for turn in session) for session in self.plan())

    async def run(self, bench: Bench, observed: Callable[[Observation], None], repeat: int) -> None:
        """Serve all sessions; ``observed`` gets each turn when it has ended. Raises
        :class:`~kvsim.live.engine.EngineError`."""
        system = bench.prompts.fresh(self.system)
        began = time.perf_counter()

        async def session(number: int, turns: list[Turn]) -> None:
            await asyncio.sleep(number * self.stagger_s)
            context, kept, ended_s = list(system), self.system, time.perf_counter()
            for index, turn in enumerate(turns):
                await asyncio.sleep(turn.pause_s)
                context += bench.prompts.fresh(turn.append)
                answer = await bench.engine.complete(context, turn.output, ids=True)
                observed(
                    Observation(
                        "turn",
                        ttft_s=answer.ttft_s,
                        e2e_s=answer.e2e_s,
                        trajectory=f"{self.name}/{repeat}/s{number}",
                        turn=index,
                        prompt_tokens=answer.prompt_tokens,
                        output_tokens=turn.output,
                        kept_tokens=kept,
                        cached_tokens=answer.cached_tokens,
                        pause_s=max(0.0, answer.submitted_s - ended_s) if index else None,
                        arrival_s=answer.submitted_s - began,
                        probe=self.name,
                    )
                )
                context += answer.output or ()  # unknown where the engine does not tell: the next extends the prompt
                kept, ended_s = len(context), answer.submitted_s + answer.e2e_s

        await together(*(session(number, turns) for number, turns in enumerate(self.plan())))
