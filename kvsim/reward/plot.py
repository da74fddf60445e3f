"""A plot of reward against cost, with the ``report`` extra (plotly)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kvsim.errors import InputError
from kvsim.metrics.pareto import pareto_front
from kvsim.report.figures import require_plotly

#: Units with the words of an axis.
_AXES = {
    "latency_s": "latency, s",
    "model_s": "time in the model, s",
    "gpu_s": "GPU-seconds",
    "kv_byte_s": "KV cache, byte-seconds",
    "pte": "prefill token equivalents",
    "usd": "US dollars",
    "joules": "joules (upper bound)",
}


@dataclass(frozen=True)
class Run:
    """Rollouts of one run, step or file: ``costs``, ``rewards`` and ``names``, one each."""

    costs: npt.NDArray[np.float64]
    rewards: npt.NDArray[np.float64]
    names: list[str]


def reward_against_cost(runs: Mapping[str, Run], unit: str) -> Any:
    """A plotly figure: a point for each rollout, each run's mean, and the Pareto front of the means.

    ``unit`` is that of the costs. Raises :class:`kvsim.errors.MissingExtraError` without plotly.
    """
    if not runs:
        raise InputError("there are none", field="runs", remedy="Give at least one run")
    graph = require_plotly()
    figure = graph.Figure()
    colours = _colours()
    means = np.array([[run.costs.mean(), run.rewards.mean()] for run in runs.values()])
    for number, (name, run) in enumerate(runs.items()):
        colour = colours[number % len(colours)]
        figure.add_scatter(
            x=run.costs,
            y=run.rewards,
            text=run.names,
            mode="markers",
            name=name,
            legendgroup=name,
            marker={"color": colour, "size": 6, "opacity": 0.5},
            hovertemplate="%{text}<br>cost %{x:.4g}<br>reward %{y:.4g}<extra></extra>",
        )
        figure.add_scatter(
            x=means[number : number + 1, 0],
            y=means[number : number + 1, 1],
            mode="markers",
            name=f"{name}: mean of {len(run.costs)}",
            legendgroup=name,
            showlegend=False,
            marker={"color": colour, "size": 13, "symbol": "diamond", "line": {"color": "black", "width": 1}},
        )
    front = pareto_front(means[:, 0], means[:, 1])
    if len(front) > 1:
        figure.add_scatter(
            x=means[front, 0],
            y=means[front, 1],
            mode="lines",
            name="Pareto front of the means",
            line={"color": "black", "dash": "dot"},
        )
    figure.update_layout(xaxis_title=f"cost: {_AXES.get(unit, unit)}", yaxis_title="reward", template="plotly_white")
    return figure


def _colours() -> list[str]:
    colours: list[str] = importlib.import_module("plotly.colors").qualitative.D3
    return colours
