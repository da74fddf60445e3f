"""What eviction does to trajectories: with more of them in flight, and with longer pauses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kvsim.commands.sweep import _cliff as cliffs
from kvsim.commands.sweep import _plans
from kvsim.commands.sweep._asked import calibration_of, gpus_of, models_of
from kvsim.commands.sweep._points import Point
from kvsim.commands.sweep._serving import Conditions, Server
from kvsim.estimation import estimate
from kvsim.report.page import Cliff, Survival

if TYPE_CHECKING:
    from kvsim.commands._asked import Asked
    from kvsim.commands._report import AskedPage
    from kvsim.estimation import Estimate
    from kvsim.trajectory import Batch

CLIFF_TURNS = 100_000
"""Up to so many turns the eviction cliff is searched for unless told."""

SURVIVALS = 40
"""So many times that KV survives are tried."""


def cliff_of(batch: Batch, asked: AskedPage) -> tuple[Cliff | None, str]:
    """Reuse by trajectories in flight, or why it was not looked for."""
    if asked.cliff is None and batch.turns > CLIFF_TURNS:
        return None, f"Not looked for in more than {CLIFF_TURNS:,} turns: --cliff does."
    if asked.cliff is False or not len(batch):
        return None, "Not looked for."
    models, gpus, traffic = models_of([asked.model]), gpus_of([asked.gpu]), asked.traffic
    conditions = Conditions(
        models=models,
        gpus=gpus,
        engine=asked.engine,
        calibration=calibration_of(asked.calibration, gpus),
        usd_per_hour=asked.usd_per_hour,
        speedup=1.0,
        stagger_s=0.0,
        seed=traffic.seed,
        backend=asked.backend,
        strict=False,
    )
    base = Point(
        model=next(iter(models)),
        gpu=next(iter(gpus)),
        num_gpu_blocks_override=asked.engine.num_gpu_blocks_override,
        replicas=traffic.replicas,
        router=traffic.router,
        retention=traffic.retention,
        pause_scale=1.0,
        arrivals="closed:1",
    )
    rows = _plans.follow(cliffs.search(base, len(batch)), Server(batch, conditions))
    served = sorted((row for row in rows if row["status"] == "ok"), key=cliffs.in_flight)
    found = cliffs.cliff_of(base, rows)
    if found is None:
        return None, str(rows[0]["reason"])
    return (
        Cliff(
            in_flight=[cliffs.in_flight(row) for row in served],
            reuse_share=[row["reuse_share"] for row in served],
            turns_per_s=[row["turns_per_s"] for row in served],
            turn_s=[row["e2e_s_mean"] for row in served],
            collapses_at=found.collapses_at,
            fastest=found.fastest,
        ),
        "",
    )


def survival_of(result: Estimate, asked: Asked) -> Survival | None:
    """The same trajectories with KV that survives pauses of up to so long, from the shortest pause to the longest."""
    pauses_s = result.pauses_ns[result.pauses_ns > 0] / 1e9
    if not len(pauses_s):
        return None
    ends = (max(float(pauses_s.min()) / 2, 1e-3), min(float(pauses_s.max()) * 1.2, 1e8))
    load, ttl_s = result.pricing.load, [float(f"{ttl:.4g}") for ttl in np.geomspace(*ends, SURVIVALS)]
    found = [estimate(result.batch, **asked.pricing, load=replace(load, kv=f"ttl:{ttl:.4g}")) for ttl in ttl_s]
    return Survival(
        ttl_s=ttl_s,
        model_s=[float(np.nansum(each.model_s)) for each in found],
        recompute_s=[float(np.nansum(each.recompute_s)) for each in found],
    )
