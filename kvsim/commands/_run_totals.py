"""A simulation in a few numbers: what the engine did, sums over trajectories, and distributions.

The engine's figures cover every turn that it served; sums and distributions cover the trajectories of which it served
every turn, as an estimate's do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvsim.columns import sums, trajectory_columns
from kvsim.commands._totals import BOUNDED

if TYPE_CHECKING:
    from kvsim.simulation import Simulation

Floats = npt.NDArray[np.float64]

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

OF_TURNS = ("ttft_s", "e2e_s", "queue_s", "decode_s")
"""The columns of turns whose distribution is told."""


def engine_totals(run: Simulation) -> dict[str, float]:
    """What the engine did in all; shares are NaN where there is nothing to share."""
    engine, served = run.engine, run.turns.status == "ok"
    prompt = int(run.batch.prompt_tokens[served].sum())
    cached, lost = (int(run.turns[name][served].sum()) for name in ("cached_tokens", "recomputed_tokens"))
    turns, makespan_s = int(served.sum()), _makespan_s(run, served)
    return {
        "turns": turns,
        "turns_per_s": _over(turns, makespan_s),
        "output_tokens_per_s": _over(int(run.batch.output_tokens[served].sum()), makespan_s),
        "makespan_s": makespan_s,
        "busy_s": engine.busy_s,
        "busy_share": _over(engine.busy_s, makespan_s * len(run.replicas)),
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
    return sums(trajectory_columns(run), run.served_whole)


def interval_totals(run: Simulation) -> dict[str, dict[str, float]]:
    """The ends of the sums and of the makespan's parts, by name."""
    among, ends = run.served_whole, run.interval
    parts = [sums(trajectory_columns(part), among) for part in (ends.low, run, ends.high)]
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
    whole = run.served_whole
    turns = whole[run.batch.trajectory]
    values = {name: run.turns[name][turns] for name in OF_TURNS} | {"latency_s": run.latency_s[whole]}
    return {name: distribution(column) for name, column in values.items()}


def distribution(values: Floats) -> dict[str, float]:
    """Mean and quantiles (linear between neighbours), NaN where there are no values."""
    if not len(values):
        return dict.fromkeys(("mean", *QUANTILES), float("nan"))
    ordered = np.sort(values)
    return {"mean": float(values.mean()), **{name: _quantile(ordered, share) for name, share in QUANTILES.items()}}


def _quantile(ordered: Floats, share: float) -> float:
    """The bits of ``numpy.quantile``, without the 0.2 ms that its checks take: a sweep asks for fifteen a point."""
    place = share * (len(ordered) - 1)
    below = int(place)
    low, high = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
    part = place - below
    return high - (high - low) * (1 - part) if part >= 0.5 else low + (high - low) * part


def replica_totals(run: Simulation) -> list[dict[str, float]]:
    """What each replica did."""
    makespan_s = _makespan_s(run, run.turns.status == "ok")
    return [
        {
            "turns": int((run.turns.replica == number).sum()),
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


def _makespan_s(run: Simulation, served: npt.NDArray[np.bool_]) -> float:
    """From the first release to the last finish."""
    if not served.any():
        return float("nan")
    return int(run.served.finish_ns[served].max() - run.served.release_ns[served].min()) / 1e9


def _over(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
