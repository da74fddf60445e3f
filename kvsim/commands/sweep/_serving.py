"""Simulates the points of a sweep: files are read and names resolved once for all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from kvsim import __version__
from kvsim.commands._traffic import one_turn
from kvsim.commands.sweep._asked import threads_of
from kvsim.commands.sweep._points import Grid, Point
from kvsim.commands.sweep._rows import Row, row_of, row_without_run
from kvsim.errors import BackendUnavailableError, DoesNotFitError, InputError, KvsimError, UnknownNameError
from kvsim.simulation import simulate

if TYPE_CHECKING:
    from kvsim.architecture import Architecture
    from kvsim.calibration import Calibration
    from kvsim.commands.sweep._ahead import Serve
    from kvsim.engine import EngineConfig
    from kvsim.hardware import Gpu
    from kvsim.pricing import Pricing
    from kvsim.trajectory import Batch

_PLAIN: Mapping[str, Any] = {"replicas": 1, "router": "round-robin", "retention": "lru", "arrivals": "closed:1"}
"""Traffic that every model and GPU can be tried with."""

_AT_ONCE = 2
"""So many points a core are under way on a cluster, so that none waits for the next."""

_ASKED = ("arrivals", "retention", "replicas", "speedup", "stagger_s")
"""Fields whose errors mean that the sweep was asked for wrongly, not that one point cannot be."""


@dataclass(frozen=True)
class Conditions:
    """What all points of a sweep have in common, resolved. ``models`` and ``gpus`` by the names of the points."""

    models: Mapping[str, Architecture]
    gpus: Mapping[str, Gpu]
    engine: EngineConfig
    calibration: Calibration | None
    usd_per_hour: float | None
    speedup: float
    stagger_s: float
    seed: int
    backend: str
    strict: bool

    def arguments(self, point: Point) -> dict[str, Any]:
        """Of :func:`kvsim.simulate` at a point, but for the batch."""
        return {
            "model": self.models[point.model],
            "gpu": self.gpus[point.gpu],
            "engine": self.engine_at(point),
            "calibration": self.calibration,
            "usd_per_hour": self.usd_per_hour,
            "arrivals": point.arrivals,
            "retention": point.retention,
            "replicas": point.replicas,
            "router": point.router,
            "speedup": self.speedup,
            "stagger_s": self.stagger_s,
            "seed": self.seed,
            "backend": self.backend,
        }

    def engine_at(self, point: Point) -> EngineConfig:
        """The engine's arguments at a point."""
        return replace(self.engine, num_gpu_blocks_override=point.num_gpu_blocks_override)

    def pricing(self, point: Point) -> Pricing:
        """What a point's prices rest on; a KvsimError where the model does not fit."""
        from kvsim.pricing import resolve_pricing

        card = self.gpus[point.gpu]
        return resolve_pricing(self.models[point.model], card, self.engine_at(point), None, self.calibration)

    def require_names(self, grid: Grid) -> None:
        """Refuse what no point could be simulated with: tried on a batch of one turn, before a long read."""
        turn, points = one_turn(), list(grid.points())
        base = next((point for point in points if self._fits(turn, point)), None)
        if base is None:
            return
        for axis in ("replicas", "router", "retention", "arrivals"):
            for value in getattr(grid, axis):  # a preset without arrivals chooses them itself
                simulate(turn, **self.arguments(replace(base, **{axis: value})))

    def _fits(self, turn: Batch, point: Point) -> bool:
        try:
            simulate(turn, **self.arguments(replace(point, **_PLAIN)))
        except KvsimError as error:
            if _of_the_sweep(error):
                raise
            return False
        return True


@dataclass
class Server:
    """Makes the row of each point over one batch."""

    batch: Batch
    conditions: Conditions
    _scaled: dict[float, tuple[Batch, float]] = field(default_factory=dict)

    def __call__(self, point: Point) -> Row:
        """The point's row; raises where the sweep is strict or was asked for wrongly."""
        batch, pause_s = self.scaled(point.pause_scale)
        try:
            run = simulate(batch, **self.conditions.arguments(point), strict=self.conditions.strict)
        except KvsimError as error:
            if self.conditions.strict or _of_the_sweep(error):
                raise
            return row_without_run(point, "does_not_fit" if isinstance(error, DoesNotFitError) else "refused", error)
        return row_of(point, run, pause_s)

    def scaled(self, factor: float) -> tuple[Batch, float]:
        """The batch with its pauses times that, and the mean of them."""
        if factor not in self._scaled:
            batch = self.batch if factor == 1 else self.batch.scale_pauses(factor)
            self._scaled[factor] = batch, mean_pause_s(batch)
        return self._scaled[factor]

    def fingerprint(self) -> str:
        """Of what all rows rest on, the axes left out: rows with the same one belong into one table."""
        conditions = self.conditions
        digest = hashlib.sha256()
        for name, column in self.batch.columns.items():
            digest.update(name.encode())
            digest.update(column.data)
        fixed = {
            "kvsim": __version__,
            "engine": asdict(conditions.engine),
            "usd_per_hour": conditions.usd_per_hour,
            "speedup": conditions.speedup,
            "stagger_s": conditions.stagger_s,
            "seed": conditions.seed,
            "calibration": repr(conditions.calibration),
            "models": {name: repr(model) for name, model in conditions.models.items()},
        }
        digest.update(msgspec.json.encode(fixed))
        return digest.hexdigest()[:16]


@contextmanager
def where_served(server: Server, ray: str | None, threads: str) -> Iterator[tuple[Serve, int]]:
    """Who serves points, and how many at once: threads here, or a Ray cluster's workers."""
    if ray is None:
        yield server, threads_of(threads, server.batch.turns, server.conditions.backend)
        return
    from kvsim.scale.cluster import Cluster

    with Cluster(ray) as cluster:
        everywhere, serve = cluster.shared(server), cluster.caller(_row)
        yield lambda point: serve(everywhere, point), _AT_ONCE * cluster.cores


def _row(server: Server, point: Point) -> Row:
    return server(point)


def _of_the_sweep(error: KvsimError) -> bool:
    """Whether the whole sweep is at fault rather than one point."""
    wrong = isinstance(error, InputError) and error.field in _ASKED
    return wrong or isinstance(error, (UnknownNameError, BackendUnavailableError))


def mean_pause_s(batch: Batch) -> float:
    """The mean pause before turns that follow another; NaN where none does."""
    following = batch.after >= 0
    return float(batch.pause_ns[following].mean()) / 1e9 if following.any() else float("nan")
