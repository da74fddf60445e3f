"""The way of a request to the engine and back as a benchmark's client times it: a nuisance of published times to first
token, which the law leaves out.

HTTP and the engine's front end take a time per request, turning text into tokens one per prompt token. Both come from
the benchmark's machines and the engine's version, not from the GPU, so that all GPUs' unqueued points of one benchmark
and era are fitted together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ..hardware import gpu
from .measurements import Table
from .robust import Array, Parameter, fit_all

if TYPE_CHECKING:
    from .study import Study

UNQUEUED = 4
"""Up to so many clients in a closed loop hardly ever wait for each other."""

PARAMETERS = {"request_s": Parameter(2e-2, 1e-5, 0.5), "token_s": Parameter(3e-6, 1e-9, 1e-4)}

INDEPENDENT = 6
"""A model's points on a GPU count as so many at most: their errors have causes in common."""


def era(source: str, version: str, capability: str) -> str:
    """Points whose clients and servers were alike: of one benchmark, by generations of vLLM's front end and of the GPU,
    which came with another host and other launch scripts."""
    part, hosts = version.split("."), f"hosts of {capability.partition('.')[0]}.x"
    if len(part) < 2 or not part[1].isdecimal():
        return f"{source}, {version}, {hosts}"
    return f"{source}, vllm {'0.19 on' if int(part[1]) >= 19 else 'to 0.18'}, {hosts}"


class Way(NamedTuple):
    """Seconds per request and per prompt token."""

    request_s: float
    token_s: float

    def seconds(self, prompt_tokens: float) -> float:
        """Of a request."""
        return self.request_s + self.token_s * prompt_tokens


NO_WAY = Way(0.0, 0.0)


class Ways:
    """The ways of one era: fitted to all its points, and to those without a model or, where there is one model only,
    without a GPU."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.whole, self._by_model, self._by_gpu = _fitted(rows), _apart(rows, "model"), _apart(rows, "gpu")

    def without(self, model: str, gpu: str, elsewhere: Ways) -> Way:
        """From the points of other models, else of other GPUs, else of other models of the same benchmark's other
        eras."""
        if model in self._by_model:
            return self._by_model[model]
        return self._by_gpu[gpu] if gpu in self._by_gpu else elsewhere._by_model.get(model, self.whole)

    def span(self) -> tuple[float, float]:
        """Smallest and largest time per request among the fits to parts."""
        among = [way.request_s for way in (self.whole, *self._by_model.values(), *self._by_gpu.values())]
        return min(among), max(among)


def _apart(rows: Sequence[Row], column: str) -> dict[str, Way]:
    """The ways of all rows but those of each model or GPU, where any are left."""
    names = sorted({getattr(row, column) for row in rows})
    return {name: _fitted([row for row in rows if getattr(row, column) != name]) for name in names if len(names) > 1}


def _fitted(rows: Sequence[Row]) -> Way:
    kinds = [(row.gpu, row.model) for row in rows]
    measured, law, prompt = (
        np.array([getattr(row, name) for row in rows]) for name in ("measured_s", "law_s", "prompt_tokens")
    )

    def model(values: Mapping[str, float], rows: npt.NDArray[np.intp]) -> Array:
        return np.asarray(law[rows] + values["request_s"] + values["token_s"] * prompt[rows])

    weights = np.array([min(1.0, INDEPENDENT / kinds.count(kind)) for kind in kinds])
    return Way(**fit_all(model, measured, PARAMETERS, weights))


class Row(NamedTuple):
    """An unqueued time to first token and what the law fitted with it says."""

    gpu: str
    model: str
    prompt_tokens: float
    measured_s: float
    law_s: float


def unqueued(rows: Table) -> npt.NDArray[np.bool_]:
    """Rows with a time to first token that hardly holds waiting, of deployments that take the way the law prices."""
    usual = (rows["path"] == "") & (rows["expert_parallel"] == 1)
    return np.asarray(usual & np.isfinite(rows["ttft_s"]) & (rows["concurrency"] <= UNQUEUED))


class Found(NamedTuple):
    """Ways by era and by benchmark."""

    eras: Mapping[str, Ways]
    sources: Mapping[str, Ways]


def ways(study: Study, gpus: Sequence[str], engine: str) -> Found:
    """The ways of each era that any GPU has points of, and of all eras of each benchmark together."""
    eras: dict[str, list[Row]] = {}
    sources: dict[str, list[Row]] = {}
    for name in gpus:
        if engine not in study.overheads(name):
            continue
        part = study.parts(name, engine)
        rows, law = part.rows, part.fitted.ttft_s
        for row in np.flatnonzero(unqueued(rows) & np.isfinite(law)).tolist():
            source, version = str(rows["source"][row]), str(rows["engine"][row])
            numbers = (float(rows["prompt_tokens"][row]), float(rows["ttft_s"][row]), float(law[row]))
            one = Row(name, str(rows["model"][row]), *numbers)
            eras.setdefault(era(source, version, gpu(name).compute_capability), []).append(one)
            sources.setdefault(source, []).append(one)
    return Found(*({key: Ways(part) for key, part in sorted(found.items())} for found in (eras, sources)))
