"""A calibration's measurements from beginning to end: within a time budget, on the disk as taken, resumable."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from kvsim.calibrate.observation_files import Writer, read_observations
from kvsim.calibrate.observations import Header, Observation
from kvsim.live.costs import Costs
from kvsim.live.engine import Answer, Counters, EngineError, ImpossibleError, LiveEngine, Look
from kvsim.live.plan import SHARE, Limits, cost_s, first_look, reference, round_of, sessions_of, sessions_s
from kvsim.live.probes import Bench, Probe
from kvsim.live.prompts import Prompts
from kvsim.live.sessions import Sessions
from kvsim.live.turns import planned_turns
from kvsim.live.watch import BACKGROUND, DRIFT, THROTTLED, References, foreign_tokens

ATTEMPTS = 4
"""How often a probe is tried before the measuring ends."""

TRIES = 2
"""How often, in different rounds, a probe is tried that the engine did not take."""

FIRST_WAIT_S = 1.0
"""Before the second attempt; doubled for each further one."""

REFERENCE_EVERY_S = 12.0
REFERENCES = 3
"""Repeats of the reference probe at a time."""

QUIET_WAIT_S = 20.0
"""How long others' requests are waited for before measuring beside them."""

QUIET_POLL_S = 0.25
SESSIONS_EVERY = 3
"""Rounds between two runs of the sessions; the first follows the first round."""

ROUNDS = 24
"""More repeats would tell nothing new."""

Say = Callable[[str], None]


@dataclass
class Outcome:
    """What was measured: the file, how many rows now and before, seconds spent in all, and what to know about it."""

    file: Path
    taken: int = 0
    before: int = 0
    spent_s: float = 0.0
    notes: list[str] = field(default_factory=list)


class MeasuringEndedError(EngineError):
    """Measuring ended early; what was taken is on the disk."""

    def __init__(self, cause: str, outcome: Outcome) -> None:
        kept = outcome.before + outcome.taken
        super().__init__(
            f"{cause}. {kept} measurements are kept in {outcome.file}; the same command goes on from there, "
            f"and 'kvsim calibrate --measurements {outcome.file}' fits what there is."
        )
        self.outcome = outcome


class _Counting:
    """An engine, with a count of the prompt tokens that were sent to it."""

    def __init__(self, engine: LiveEngine) -> None:
        self._engine = engine
        self.client = engine.client
        self.prompt_tokens = 0

    async def look(self) -> Look:
        return await self._engine.look()

    async def reset_prefix_cache(self) -> bool:
        return await self._engine.reset_prefix_cache()

    async def complete(
        self, prompt: Sequence[int], output_tokens: int, *, ids: bool = False, first: asyncio.Event | None = None
    ) -> Answer:
        self.prompt_tokens += len(prompt)
        return await self._engine.complete(prompt, output_tokens, ids=ids, first=first)


class Campaign:
    """Measurements of one engine into one file.

    header: what the file says about the engine. limits: what it can take. budget_s: seconds of measuring in all,
    those of interrupted earlier runs included. say: progress, a line each.
    """

    def __init__(
        self,
        engine: LiveEngine,
        look: Look,
        header: Header,
        limits: Limits,
        *,
        vocabulary: int,
        file: Path,
        budget_s: float,
        say: Say,
    ) -> None:
        self._engine = _Counting(engine)
        self._bench = Bench(
            self._engine,
            Prompts(vocabulary),
            limits.step_tokens,
            limits.block_size,
            limits.prefix_caching,
            limits.synchronous,
        )
        self._identity, self._started = look.identity, look.started
        self._counts = look.counters is not None
        self._header = header
        self._limits, self._budget_s, self._say = limits, budget_s, say
        self._costs = Costs()
        self._done: Counter[str] = Counter()
        self._flag = ""
        self._flagged: Counter[str] = Counter()
        self._impossible: Counter[str] = Counter()
        self._since: dict[str, int] = {}
        self._next_repeat: Counter[str] = Counter()
        self._missing: dict[str, str] = {}
        self.outcome = Outcome(file)
        seconds = self._resume()
        self._references = References(seconds)
        self._writer = Writer(file, header)
        self._begin = time.perf_counter() - self.outcome.spent_s
        self._last_reference = -REFERENCE_EVERY_S

    def _resume(self) -> list[float]:
        """Take over what the file holds; the reference's times so far."""
        file = self.outcome.file
        if not file.exists() or not file.stat().st_size:
            return []
        rows = read_observations(file, lenient=True).rows
        self._costs.learn(row for row in rows if not row.flag)
        runs = Counter((row.probe, row.repeat) for row in rows)
        for (name, repeat), count in runs.items():
            self._next_repeat[name] = max(self._next_repeat[name], (repeat or 0) + 1)
            self._done[name] += not name.startswith("turns/") or count == planned_turns(name)
        self.outcome.before = len(rows)
        self.outcome.spent_s = max((row.at_s or 0.0 for row in rows), default=0.0)
        return [row.seconds for row in rows if row.probe == "reference" and row.seconds]

    @property
    def elapsed_s(self) -> float:
        """Seconds of measuring so far, earlier runs included."""
        return time.perf_counter() - self._begin

    async def run(self) -> Outcome:
        """Measure until the time is over or nothing is left. Raises :class:`MeasuringEndedError`."""
        try:
            if self.outcome.before:
                self._say(
                    f"going on with {self.outcome.file}: {self.outcome.before} measurements, "
                    f"{self.outcome.spent_s:.0f} s of {self._budget_s:.0f} s"
                )
            await self._warm_up()
            await self._look_first()
            for number in range(ROUNDS):
                if not await self._round(number):
                    break
                await self._sessions(1 + (number + 1) // SESSIONS_EVERY)
            await self._refer()
        except EngineError as failure:
            self.outcome.spent_s = self.elapsed_s
            raise MeasuringEndedError(str(failure), self.outcome) from failure
        finally:
            self._writer.close()
        self.outcome.spent_s = self.elapsed_s
        self._conclude()
        return self.outcome

    async def _warm_up(self) -> None:
        """The engine's first requests are slow: they are not measured."""
        for _ in range(2):
            await self._bench.engine.complete(self._bench.prompts.fresh(reference(self._limits).new), 4)

    async def _look_first(self) -> None:
        await self._refer()
        for probe in first_look(self._limits):
            if not self._done[probe.name]:
                await self._measure(probe)

    async def _round(self, number: int) -> bool:
        """One repeat of every probe of the round's grid; whether there was time for any."""
        any_time = False
        for probe in round_of(number, self._limits):
            name, cost = probe.name, cost_s(probe, self._costs, self._bench.prompts)
            if (
                self._impossible[name] >= TRIES
                or cost > SHARE * self._budget_s
                or self.elapsed_s + cost > self._budget_s
            ):
                continue
            any_time = True
            if self._done[name] <= number - self._since.setdefault(name, number):
                await self._refer_now_and_then()
                await self._measure(probe)
        return any_time

    async def _measure(self, probe: Probe) -> None:
        """One row, tried again where the engine fails or others disturb it."""

        async def once() -> None:
            before, own = await self._quiet(), self._engine.prompt_tokens
            row = await probe.run(self._bench)
            look = await self._checked_look()
            others = foreign_tokens(before, look.counters, self._engine.prompt_tokens - own)
            flag = BACKGROUND if others > 0 else self._flag or row.flag
            self._write(replace(row, repeat=self._done[probe.name], flag=flag))

        try:
            await self._trying(once)
        except ImpossibleError as failure:
            self._impossible[probe.name] += 1
            if self._impossible[probe.name] == TRIES:
                self._note(f"{probe.name} was left out: {failure}")

    async def _sessions(self, wanted: int) -> None:
        """The multi-turn part until there are ``wanted`` runs of each kind, as far as the time that is left allows."""
        found, self._missing = sessions_of(self._limits, self._costs, self._budget_s)
        for sessions in found:
            too_long = self.elapsed_s + sessions_s(sessions, self._costs) > self._budget_s
            if too_long or self._served(sessions.label) >= wanted:
                continue
            await self._refer_now_and_then()
            await self._trying(partial(self._serve, sessions))

    async def _serve(self, sessions: Sessions) -> None:
        """One run of a workload, each turn on the disk when it has ended."""
        self._say(f"{sessions.sessions} sessions of {sessions.turns} turns: {sessions.label}")
        before, own = await self._quiet(), self._engine.prompt_tokens
        if not await self._engine.reset_prefix_cache():
            self._note(
                "the server does not let its prefix cache be emptied (VLLM_SERVER_DEV_MODE=1 does): fresh prompts"
            )
        repeat = self._next_repeat[sessions.name]
        self._next_repeat[sessions.name] += 1
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as disk:  # a sync takes milliseconds, in which tokens may come
            writes: list[asyncio.Future[None]] = []

            def observed(row: Observation) -> None:
                row = replace(row, repeat=repeat, flag=self._flag)
                writes.append(loop.run_in_executor(disk, self._write, row))

            self._bench.prompts.forget()
            await sessions.run(self._bench, observed, repeat)
            await asyncio.gather(*writes)
        self._done[sessions.name] += 1
        look = await self._checked_look()
        if foreign_tokens(before, look.counters, self._engine.prompt_tokens - own) > 0:
            self._flag_run(sessions.name, repeat)

    def _served(self, label: str) -> int:
        """How many whole runs of sessions of a kind there are."""
        return sum(count for name, count in self._done.items() if name.startswith(f"turns/{label}/"))

    def _flag_run(self, name: str, repeat: int) -> None:
        """Mark the rows of a run that turned out to be disturbed; the file is replaced as a whole."""
        self._flagged[BACKGROUND] += 1
        self._writer.close()
        rows = [
            replace(row, flag=BACKGROUND) if (row.probe, row.repeat) == (name, repeat) else row
            for row in read_observations(self.outcome.file, lenient=True).rows
        ]
        replace_rows(self.outcome.file, self._header, rows)
        self._writer = Writer(self.outcome.file, self._header)

    async def _refer_now_and_then(self) -> None:
        if self.elapsed_s - self._last_reference > REFERENCE_EVERY_S:
            await self._refer()

    async def _refer(self) -> None:
        """Repeats of the reference probe; what is measured until the next ones is flagged if they are slow."""
        self._last_reference = self.elapsed_s
        times: list[float] = []

        async def once() -> None:
            await self._quiet()
            row = await reference(self._limits).run(self._bench)
            self._write(replace(row, repeat=len(self._references) + len(times)))
            times.append(row.seconds or 0.0)

        for _ in range(REFERENCES):
            await self._trying(once)
        throttled = self._references.add(times)
        if throttled and not self._flag:
            self._say("the reference probe has become slow: what follows is flagged as throttled")
        self._flag = THROTTLED if throttled else ""

    async def _trying(self, once: Callable[[], Awaitable[None]]) -> None:
        """Do it, again after failures that may pass, as often as ATTEMPTS."""
        wait_s = FIRST_WAIT_S
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await once()
                return
            except EngineError as failure:
                if not failure.again or attempt == ATTEMPTS:
                    raise
                self._say(f"{failure}; trying again in {wait_s:.0f} s ({attempt + 1} of {ATTEMPTS})")
            await asyncio.sleep(wait_s)
            wait_s *= 2

    async def _quiet(self) -> Counters | None:
        """What the engine has counted, once nobody runs on it, or it has stayed busy for too long."""
        until = time.perf_counter() + QUIET_WAIT_S
        while True:
            counters = (await self._checked_look()).counters
            if counters is None or counters.running + counters.waiting == 0:
                return counters
            if time.perf_counter() > until:
                self._say(
                    f"others keep the engine busy ({counters.running} running, {counters.waiting} waiting): "
                    "measuring beside them"
                )
                return counters
            await asyncio.sleep(QUIET_POLL_S)

    async def _checked_look(self) -> Look:
        """A look at the engine; it must still be the one that the file is about."""
        look = await self._engine.look()
        difference = self._identity.difference(look.identity)
        if difference:
            raise EngineError(f"another engine answers now: {difference}")
        if look.started != self._started:
            self._started = look.started
            self._note("the engine was restarted between measurements")
        return look

    def _write(self, row: Observation) -> None:
        """Put a row on the disk."""
        self._writer.write(replace(row, at_s=round(self.elapsed_s, 3)))
        self.outcome.taken += 1
        if row.flag:
            self._flagged[row.flag] += 1
        if row.kind != "turn":
            self._done[row.probe] += 1
            if not row.flag:
                self._costs.learn([row])
        took = f"{(row.seconds or row.e2e_s or 0) * 1e3:.4g} ms" + (f" ({row.flag})" if row.flag else "")
        self._say(f"{self.elapsed_s:5.1f} of {self._budget_s:.0f} s: {row.probe} {took}")

    def _note(self, text: str) -> None:
        if text not in self.outcome.notes:
            self.outcome.notes.append(text)
            self._say(text)

    def _conclude(self) -> None:
        """What there is to know about the whole."""
        if not self._counts:
            self._note("the engine does not count requests (no vLLM /metrics): background traffic cannot be seen")
        for label, text in self._missing.items():
            if not self._served(label):
                self._note(text)
        for flag, count in self._flagged.items():
            self._note(f"{count} measurements flagged '{flag}': kept in the file, not fitted")
        drift = self._references.drift()
        if abs(drift) > max(DRIFT, 3 * self._references.noise()):
            word = "slower" if drift > 0 else "faster"
            self._note(
                f"the reference probe was {abs(drift):.0%} {word} in the last third of the time than in the first: "
                "the clock throttles, or something else runs on the machine"
            )


def replace_rows(file: Path, header: Header, rows: Iterable[Observation]) -> None:
    """Replace a file of observations in one go: at no moment is there less on the disk than before."""
    with TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        with Writer(made, header) as writer:
            for row in rows:
                writer.write(row)
        os.replace(made, file)
