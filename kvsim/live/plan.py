"""What to measure, and in which order: coarse before fine, repeats outermost, so that whatever was measured when time
runs out spreads over the whole range."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kvsim.live.costs import Costs
from kvsim.live.probes import MIXERS, Decode, Mixed, Prefill
from kvsim.live.prompts import Prompts
from kvsim.live.sessions import Sessions

SHARE = 0.04
"""Of the whole time that a single probe may take; longer prompts and wider batches are left out."""

SESSIONS_SHARE = 0.13
"""Of the whole time that one run of sessions may take."""

STEPS = 24
"""Decoding steps that a probe times."""

SHORTEST = 16
"""Tokens of the shortest prefill and context."""

FINEST = 3
"""The level of the finest grid."""

WIDEST = 256
"""Most sequences that decode together in a probe."""

KV_SHARE = 0.8
"""Of the KV cache that one probe may fill."""

PRESSURE, EASE = 1.5, 0.6
"""Contexts of all sessions over the KV cache, under pressure and at ease."""

SESSION_TURNS = 5

PAUSE_SHARE, STAGGER_SHARE = 0.025, 0.005
"""A mean pause and the time between two sessions' starts, of the time for a run of sessions."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine can take. ``kv_tokens``: what its KV cache holds."""

    max_model_len: int
    max_num_seqs: int
    step_tokens: int
    kv_tokens: int
    block_size: int
    prefix_caching: bool
    synchronous: bool = False
    """Known to schedule a step after the one before has ended."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Values from ``low`` to ``high``, each twice the one before, the coarsest of them first."""

    values: tuple[int, ...]

    @classmethod
    def of(cls, low: int, high: int) -> Grid:
        """All powers-of-two multiples of ``low`` up to ``high``, and ``high``."""
        high = max(low, high)
        doublings = [low << power for power in range(1 + int(math.log2(high / low)))]
        if high > 1.3 * doublings[-1]:
            doublings.append(high)
        return cls(tuple(doublings))

    def level(self, level: int) -> tuple[int, ...]:
        """Ends and middle at level 0; twice as dense at each further one."""
        last = len(self.values) - 1
        parts = min(last, 2 << level) or 1
        return tuple(dict.fromkeys(self.values[round(index * last / parts)] for index in range(parts + 1)))


def reference(limits: Limits) -> Prefill:
    """The probe whose repeats show whether the machine stays as fast as it was."""
    return Prefill(min(64, limits.max_model_len // 4), label="reference")


def first_look(limits: Limits) -> list[Prefill | Decode]:
    """The cheapest probes of each kind: from them the cost of the others is judged."""
    few = min(4, limits.max_num_seqs)
    short = min(4 * SHORTEST, limits.max_model_len // 8)
    probes: list[Prefill | Decode] = [Prefill(SHORTEST), Prefill(short), Decode(1, SHORTEST, STEPS)]
    return [*probes, Prefill(4 * short), Decode(few, short, STEPS)]


def round_of(number: int, limits: Limits) -> Iterator[Prefill | Decode | Mixed]:
    """The probes of a round that the engine can take, short before long and narrow before wide."""
    level = min(number, FINEST)
    lengths = Grid.of(SHORTEST, min(limits.max_model_len - 1, int(KV_SHARE * limits.kv_tokens)))
    yield from (Prefill(new) for new in lengths.level(level))
    if limits.prefix_caching:
        for prefix in lengths.level(level)[1:]:
            cached = prefix // limits.block_size * limits.block_size
            for new in (SHORTEST, 8 * SHORTEST):
                if cached and cached + new < limits.max_model_len:
                    yield Prefill(new, cached)
    contexts = Grid.of(SHORTEST, limits.max_model_len - 4 * STEPS)
    for batch in Grid.of(1, min(limits.max_num_seqs, WIDEST)).level(level):
        for context in contexts.level(level):
            if batch * (context + 2 * STEPS + limits.block_size) <= KV_SHARE * limits.kv_tokens:
                yield Decode(batch, context, STEPS)
    context = 4 * SHORTEST
    for batch in Grid.of(1, min(limits.max_num_seqs - 1, WIDEST // 4)).level(level)[1:]:
        for new in Grid.of(SHORTEST, min(limits.step_tokens - batch, limits.max_model_len // 2)).level(level):
            if batch * (context + 4 * STEPS + limits.block_size) + new <= KV_SHARE * limits.kv_tokens:
                yield Mixed(new, 0, batch, context)


def cost_s(probe: Prefill | Decode | Mixed, costs: Costs, prompts: Prompts) -> float:
    """An estimate of how long a probe takes; what its prompts have in the cache costs nothing."""
    if isinstance(probe, Prefill):
        missing = max(0, probe.cached - prompts.held(probe.DOCUMENT))
        return (costs.prefill_s(missing) if missing else 0.0) + costs.prefill_s(probe.new, probe.cached)
    missing = sum(max(1, probe.context - prompts.held(name)) for name in probe.documents())
    total = costs.prefill_s(missing) + (STEPS + 3) * costs.step_s(probe.batch, probe.context)
    return total if isinstance(probe, Decode) else total + MIXERS * costs.prefill_s(probe.new, probe.cached)


def sessions_of(limits: Limits, costs: Costs, budget_s: float) -> tuple[list[Sessions], dict[str, str]]:
    """Multi-turn workloads with and without cache pressure that fit into their share of the time, and by label why
    there is none."""
    share_s = SESSIONS_SHARE * budget_s
    count = min(8, limits.max_num_seqs)
    sized = _sized("ease", count, limits, share_s, 0, int(EASE * limits.kv_tokens))
    affordable = [sessions for sessions in sized if sessions_s(sessions, costs) <= share_s]
    found, missing = affordable[-1:], {}
    if not affordable:
        missing["ease"] = f"multi-turn sessions were not measured: the smallest would take more than {share_s:.0f} s"
    if limits.prefix_caching:
        lowest = int(PRESSURE * limits.kv_tokens)
        count = max(count, math.ceil(2 * lowest / limits.max_model_len))  # contexts differ by half
        pressed = _sized("pressure", count, limits, share_s, lowest, 2 * lowest)[:1]
        took_s = sum(sessions_s(sessions, costs) for sessions in pressed)
        if pressed and took_s <= share_s:
            found += pressed
        else:
            work_s = took_s - SESSION_TURNS * PAUSE_SHARE * share_s  # pauses grow with the time
            needed_s = work_s / (1 - SESSION_TURNS * PAUSE_SHARE) / SESSIONS_SHARE
            missing["pressure"] = (
                f"cache pressure was not measured: sessions with 1.5 times the {limits.kv_tokens:,} tokens of KV cache "
                + (f"need --minutes {needed_s / 60 + 0.05:.1f}" if pressed else "do not fit the engine")
            )
    return found, missing


def _sized(label: str, count: int, limits: Limits, share_s: float, lowest: int, highest: int) -> list[Sessions]:
    """Workloads whose contexts come to between ``lowest`` and ``highest`` tokens in all, the smallest first."""
    found = []
    for append in _steps_between(8, limits.max_model_len):
        output = max(6, min(append // 4, 128))
        made = Sessions(
            label, count, SESSION_TURNS, append, append, output, PAUSE_SHARE * share_s, STAGGER_SHARE * share_s
        )
        if made.longest_context > limits.max_model_len - 1 or made.context_tokens > highest:
            break
        if made.context_tokens >= lowest:
            found.append(made)
    return found


def sessions_s(sessions: Sessions, costs: Costs) -> float:
    """An estimate of how long a workload takes: its work one after the other, decoding four at a time."""
    total = 0.0
    together = min(4, sessions.sessions)
    for plan in sessions.plan():
        context = sessions.system
        for turn in plan:
            context += turn.append
            prefill = costs.prefill_s(turn.append, context - turn.append)
            if sessions.label == "pressure":
                prefill = (prefill + costs.prefill_s(context)) / 2
            total += prefill + turn.output * costs.step_s(together, context) / together
            context += turn.output
    return costs.prefill_s(sessions.system) + total + sessions.turns * sessions.pause_s


def _steps_between(low: int, high: int) -> Sequence[int]:
    steps, value = [], float(low)
    while value <= high:
        steps.append(int(value))
        value *= 1.19
    return steps
