"""How trajectories are served, and how they could be: another GPU, model, engine, or policy for the cache."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from kvsim.backends import get
from kvsim.engine import EngineConfig
from kvsim.estimation import Estimate
from kvsim.insight.what_if.change import ServingChange
from kvsim.load import Load
from kvsim.pricing import require_price, resolve_pricing
from kvsim.retention import policy
from kvsim.simulation import require_servable, run

if TYPE_CHECKING:
    from pathlib import Path

    from kvsim.architecture import Architecture
    from kvsim.calibration import Calibration
    from kvsim.hardware import Gpu
    from kvsim.pricing import Pricing
    from kvsim.simulated import How, Simulation
    from kvsim.trajectory import Batch


@dataclass(frozen=True)
class Deployment:
    """What a batch is priced with: the arguments of :func:`kvsim.estimate`; with ``how`` of :func:`kvsim.simulate`."""

    model: str | Architecture
    gpu: str | Gpu
    engine: EngineConfig = field(default_factory=EngineConfig)
    load: Load = field(default_factory=Load)
    calibration: str | Path | Calibration | None = None
    usd_per_hour: float | None = None
    backend: str = "auto"
    how: How | None = None

    @cached_property
    def pricing(self) -> Pricing:
        """Names resolved, the law built."""
        require_price(self.usd_per_hour)
        load = None if self.how is not None else self.load
        pricing = resolve_pricing(self.model, self.gpu, self.engine, load, self.calibration)
        if self.how is not None:
            require_servable(pricing)
        return pricing

    def price(self, batch: Batch, pricing: Pricing | None = None) -> Estimate | Simulation:
        """The batch priced or served, with this deployment's law or a scaled one."""
        pricing = pricing if pricing is not None else self.pricing
        if self.how is None:
            return Estimate(batch, pricing, get(self.backend), self.usd_per_hour)
        return run(batch, pricing, self.how._replace(usd_per_hour=self.usd_per_hour))

    def changed(self, **changes: Any) -> Deployment:
        """This deployment with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class KeepCache(ServingChange):
    """Every context stays in the GPU's cache while its tools run."""

    kind: ClassVar[str] = "keep cache"

    def deployed(self, now: Deployment) -> Deployment:
        return now.changed(load=replace(now.load, kv="never"))


@dataclass(frozen=True)
class WithPolicy(ServingChange):
    """Another retention policy (simulated engines)."""

    kind: ClassVar[str] = "policy"

    retention: str = "lru"

    def deployed(self, now: Deployment) -> Deployment:
        if now.how is None:
            return now
        return now.changed(how=now.how._replace(retention=policy(self.retention)))


@dataclass(frozen=True)
class OnGpu(ServingChange):
    """Another GPU, at its own price, with its own calibration."""

    kind: ClassVar[str] = "gpu"

    gpu: str = ""

    def deployed(self, now: Deployment) -> Deployment:
        return now.changed(gpu=self.gpu, calibration=None, usd_per_hour=None)


@dataclass(frozen=True)
class WithModel(ServingChange):
    """Another model, which is taken to say the same in the same tokens."""

    kind: ClassVar[str] = "model"

    model: str = ""

    def deployed(self, now: Deployment) -> Deployment:
        return now.changed(model=self.model)


@dataclass(frozen=True)
class WithEngine(ServingChange):
    """Other arguments of the engine, by vLLM's names."""

    kind: ClassVar[str] = "engine"

    arguments: tuple[tuple[str, Any], ...] = ()

    def deployed(self, now: Deployment) -> Deployment:
        return now.changed(engine=replace(now.engine, **dict(self.arguments)))
