"""A simulation in a few numbers: what the engine did, sums over trajectories, and distributions.

The engine's figures cover every turn that it served; sums and distributions cover the trajectories of which it served
every turn, as an estimate's do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvsim.backends.run_sums import SPREAD
from kvsim.columns import SUMMED, batch_sums, summed_columns, sums
from kvsim.commands._totals import BOUNDED

if TYPE_CHECKING:
    from kvsim.backends.run_sums import Spread
    from kvsim.simulation import Simulation

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

SPREAD_S = tuple(f"{name}_s" for name in SPREAD)
"""The times whose distribution is told: four of turns, and the latency of trajectories."""


def engine_totals(run: Simulation) -> dict[str, float]:
    """What the engine did in all; shares are NaN where there is nothing to share."""
    engine, replicas = run.engine, run.sums.replicas
    turns, prompt, output, cached, lost = (
        sum(column)
        for column in (
            replicas.turns,
            replicas.prompt_tokens,
            replicas.output_tokens,
            replicas.cached_tokens,
            replicas.recomputed_tokens,
        )
    )
    makespan_s = _makespan_s(run)
    return {
        "turns": turns,
        "turns_per_s": _over(turns, makespan_s),
        "output_tokens_per_s": _over(output, makespan_s),
        "makespan_s": makespan_s,
        "busy_s": engine.busy_s,
        "busy_share": _over(engine.busy_s, makespan_s * len(replicas.turns)),
        "steps": engine.steps,
        "hit_rate": _over(cached, prompt),
        "recompute_share": _over(lost, prompt),
        "reuse_share": _over(cached, cached + lost),
        "evicted_blocks": engine.evicted_blocks,
        "preemptions": engine.preemptions,
        "peak_blocks": engine.peak_blocks,
        "usable_blocks": engine.usable_blocks,
        "peak_sequences": run.peak_sequences,
    }


def run_totals(run: Simulation) -> dict[str, float]:
    """Sums over the trajectories that were served whole."""
    found = {**batch_sums(run.batch, run.served_whole), **run.totals}
    return {name: found[name] for name in ("trajectories", *SUMMED)}


def interval_totals(run: Simulation) -> dict[str, dict[str, float]]:
    """The ends of the sums and of the makespan's parts, by name."""
    among, ends = run.served_whole, run.interval
    parts = [sums(summed_columns(ends.low), among), run_totals(run), sums(summed_columns(ends.high), among)]
    return {name: {"low": min(v[name] for v in parts), "high": max(v[name] for v in parts)} for name in BOUNDED}


def interval_distributions(run: Simulation) -> dict[str, dict[str, dict[str, float]]]:
    """The ends of means and quantiles."""
    parts = [distributions(part) for part in (run.interval.low, run, run.interval.high)]
    return {
        name: {
            statistic: {
                "low": min(part[name][statistic] for part in parts),
                "high": max(part[name][statistic] for part in parts),
            }
            for statistic in values
        }
        for name, values in parts[0].items()
    }


def distributions(run: Simulation) -> dict[str, dict[str, float]]:
    """Mean and quantiles of turns' times and of trajectories' latencies."""
    spreads = run.spreads(tuple(QUANTILES.values()))
    return dict(zip(SPREAD_S, map(distribution, spreads.values()), strict=True))


def distribution(spread: Spread) -> dict[str, float]:
    """Mean and quantiles (linear between neighbours) in seconds, NaN where there are no values."""
    if not spread.how_many:
        return dict.fromkeys(("mean", *QUANTILES), float("nan"))
    found = {"mean": spread.total_ns / (spread.how_many * 10**9)}
    for (name, share), neighbours_ns in zip(QUANTILES.items(), spread.neighbours_ns, strict=True):
        found[name] = _quantile(neighbours_ns, share * (spread.how_many - 1) % 1)
    return found


def _quantile(neighbours_ns: tuple[int, int], part: float) -> float:
    """The bits of ``numpy.quantile``, that part of the way from one value to the next."""
    low, high = neighbours_ns[0] / 1e9, neighbours_ns[1] / 1e9
    return high - (high - low) * (1 - part) if part >= 0.5 else low + (high - low) * part


def replica_totals(run: Simulation) -> list[dict[str, float]]:
    """What each replica did."""
    makespan_s, turns = _makespan_s(run), run.sums.replicas.turns
    return [
        {
            "turns": turns[number],
            "busy_s": replica.busy_s,
            "busy_share": _over(replica.busy_s, makespan_s),
            "steps": replica.steps,
            "hit_rate": replica.hit_rate,
            "evicted_blocks": replica.evicted_blocks,
            "preemptions": replica.preemptions,
            "peak_blocks": replica.peak_blocks,
        }
        for number, replica in enumerate(run.replicas)
    ]


def _makespan_s(run: Simulation) -> float:
    """From the first release to the last finish."""
    replicas = run.sums.replicas
    if not any(replicas.turns):
        return float("nan")
    return (max(replicas.last_finish_ns) - min(replicas.first_release_ns)) / 1e9


def _over(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
