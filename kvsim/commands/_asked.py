"""Which result a command's options ask for: an estimate of each trajectory alone, or a simulation of all together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvsim.commands._pricing_facts import load_fact, price_warnings
from kvsim.commands._reading_facts import read_warnings
from kvsim.commands._run_warnings import run_warnings
from kvsim.commands._traffic import ALONE, Traffic, one_turn
from kvsim.engine import EngineConfig
from kvsim.errors import InputError
from kvsim.estimation import Estimate, estimate
from kvsim.load import Load
from kvsim.simulation import simulate

if TYPE_CHECKING:
    from kvsim.simulation import Simulation
    from kvsim.trajectory import Batch

EVICTION_TURNS = 20_000
"""Up to so many turns a simulation writes down who evicted what."""


@dataclass(frozen=True)
class Asked:
    """What to price with, and the load of an estimate (None: the default) or the traffic of a simulation."""

    model: str
    gpu: str
    engine: EngineConfig
    load: str | None
    traffic: Traffic
    calibration: str | None
    usd_per_hour: float | None
    backend: str
    strict: bool

    def __post_init__(self) -> None:
        if self.simulated and self.load is not None:
            raise InputError(
                "a simulation has its own load", field="load", remedy="Give --load or --arrivals, not both"
            )
        if not self.simulated and self.traffic != Traffic(arrivals=ALONE):
            raise InputError(
                "options of traffic are of a simulation", field="arrivals", remedy="Add, say, --arrivals closed:16"
            )
        if not self.simulates and self.engine.scheduling_policy != EngineConfig().scheduling_policy:
            raise InputError(
                "nobody waits in an estimate", field="scheduling_policy", remedy="Add, say, --arrivals closed:16"
            )

    @property
    def simulated(self) -> bool:
        """Whether trajectories share engines."""
        return self.traffic.arrivals != ALONE

    @property
    def simulates(self) -> bool:
        """Whether anything of what is asked for comes from a simulation."""
        return self.simulated

    @property
    def pricing(self) -> dict[str, Any]:
        """The arguments that estimates and simulations have in common."""
        names = ("model", "gpu", "engine", "calibration", "usd_per_hour", "backend")
        return {name: getattr(self, name) for name in names}

    @property
    def arguments(self) -> dict[str, Any]:
        """All arguments of the estimate or the simulation, ``explain``'s too."""
        how = self.traffic.arguments if self.simulated else {"load": Load.parse(self.load or "")}
        return self.pricing | how

    def require_names(self) -> None:
        """Fail on what is unknown or does not fit before a long read, not after it."""
        self.priced(one_turn())

    def priced(self, batch: Batch, **more: Any) -> Estimate | Simulation:
        """The batch's estimate or simulation; ``more`` are other arguments of it."""
        price = simulate if self.simulated else estimate
        return price(batch, **self.arguments, **more)

    def traced(self, batch: Batch, **more: Any) -> Estimate | Simulation:
        """The same; a simulation knows who evicted what, unless that would take long or it runs on a device."""
        if not self.simulated:
            return self.priced(batch, **more)
        return self.priced(batch, **more, evictions=batch.turns <= EVICTION_TURNS and self.backend != "cuda")

    def fact(self, result: Estimate | Simulation) -> str:
        """The load or the traffic in words."""
        return load_fact(result.pricing.load, result.batch) if isinstance(result, Estimate) else self.traffic.fact()

    @staticmethod
    def warnings(result: Estimate | Simulation) -> list[str]:
        """What of the read, of turns without a price and of the evidence needs attention."""
        if isinstance(result, Estimate):
            return [*read_warnings(result.batch), *price_warnings(result)]
        return run_warnings(result)
