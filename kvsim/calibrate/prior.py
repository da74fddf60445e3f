"""What is believed of a GPU's coefficients before its evidence is looked at: a value, and how far it may be off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log

from ..calibration import LATER, OVERHEADS, QUANTITIES, Calibration, Coefficient, Evidence, Quantity, Residual
from .robust import Parameter
from .serving import TYPICAL

QUANTILES_90 = 3.29
"""Standard deviations from the 5 % to the 95 % quantile."""

LEAST_SPREAD = 0.15
"""Even a coefficient whose interval is narrow may be so far off on another specimen: power limits, clocks, drivers."""

LEAST_OVERHEAD_SPREAD = 0.3
"""Overheads come from the host's CPU and the engine's version as much as from the GPU."""

DATASHEET_ERROR = 1.0
"""How far (log) a step priced from orders of magnitude may be off."""

ENGINE = "vllm-1"
"""The engine generation that overheads are of where nothing else is said."""

STARTS: Mapping[str, float] = {
    "prefill_softmax_dims": 20.0,
    "prefill_tile_rows": 32.0,
    "decode_sequence_s": 1e-7,
    "sampler_passes": 2.0,
    **{f"decode_{fmt}_spread": 0.1 for fmt in ("bf16", "fp8")},
    **{f"experts_{fmt}_tile": 8.0 for fmt in ("bf16", "fp8", "fp4", "packed", "mxfp4")},
    **{f"all_reduce_{ranks}_latency_s": 1e-5 * ranks for ranks in (2, 4, 8)},
    **{f"all_reduce_{ranks}_bytes_per_s": 1e10 for ranks in (2, 4, 8)},
    **{f"all_reduce_{ranks}_large_latency_s": 3e-5 * ranks for ranks in (2, 4, 8)},
    **{f"all_reduce_{ranks}_large_bytes_per_s": 2e10 for ranks in (2, 4, 8)},
}
"""Orders of magnitude of what is no fraction of a datasheet figure."""

UNKNOWN_SPREAD = 2.5

REQUEST_S = 2e-3
"""A client's way to the engine and back, where no calibration says: some milliseconds."""


@dataclass(frozen=True, slots=True)
class Belief:
    """A coefficient before the fit: log-normal around ``value`` with a standard deviation of ``spread``."""

    value: float
    spread: float
    low: float
    high: float

    def parameter(self) -> Parameter:
        """As the search takes it; the belief itself is a pull of its own there."""
        return Parameter(self.value, self.low, self.high)


def beliefs(calibration: Calibration) -> dict[str, Belief]:
    """Of all kernel coefficients and of the overheads in force."""
    found = {name: _belief(part, QUANTITIES[name], LEAST_SPREAD) for name, part in calibration.coefficients.items()}
    overheads = calibration.overheads[calibration.engine]
    found |= {name: _belief(part, OVERHEADS[name], LEAST_OVERHEAD_SPREAD) for name, part in overheads.items()}
    return found


def _belief(part: Coefficient, quantity: Quantity, least: float) -> Belief:
    low, high = quantity.bounds
    floor = max(low, 1e-6 * high)  # a coefficient fitted as zero may still grow
    if quantity is OVERHEADS["request_s"]:  # other clients and servers say little about this one
        return Belief(part.value or REQUEST_S, UNKNOWN_SPREAD, floor, high)
    value = min(high, max(floor, part.value))
    span = log(max(part.high, value) / min(value, max(part.low, floor))) / QUANTILES_90
    return Belief(value, min(UNKNOWN_SPREAD, max(least, span)), floor, high)


def datasheet_prior(gpu: str, date: str) -> Calibration:
    """A calibration that rests on nothing but orders of magnitude, its intervals as wide as that is uncertain."""
    wide = Residual(0, -DATASHEET_ERROR, 0.0, DATASHEET_ERROR)
    return Calibration(
        gpu=gpu,
        kind="inherited",
        relative="",
        date=date,
        engine=ENGINE,
        note="orders of magnitude only: nothing was measured",
        evidence=Evidence((1, 1), (1, 1), (1, 1), (), (), (), (), ()),
        residuals={"prefill": wide, "decode": wide},
        coefficients={name: _guess(name, quantity) for name, quantity in QUANTITIES.items()},
        overheads={ENGINE: {name: _guess(name, quantity) for name, quantity in OVERHEADS.items()}},
    )


def _guess(name: str, quantity: Quantity) -> Coefficient:
    if name in ("mixed_tile_rows", "mixed_tile_keys", "reading"):
        return Coefficient(LATER[name], LATER[name], LATER[name], "datasheet", "no effect: never measured", 0)
    if name in QUANTITIES and name.endswith(("_compute", "_memory")):
        value, spread = (0.5, 1.0) if name.endswith("_compute") else (0.8, 1.0)
    else:
        value, spread = {**STARTS, **TYPICAL, "request_s": REQUEST_S}[name], UNKNOWN_SPREAD
    least, most = quantity.bounds
    reach = exp(spread * QUANTILES_90 / 2)
    low, high = max(least, value / reach), min(most, value * reach)
    return Coefficient(value, low, high, "datasheet", "an order of magnitude: never measured", 0)
