"""What changes save: batch and changed batch priced with one law, and with both ends of its interval.

An error of the law is one of all steps alike, so that it makes the batch as it is and the batch as it would be longer
or shorter together: the ends of a saving are the savings at the ends of the law, not the difference of two intervals.
Where the law itself is another (another GPU or model), the two errors are taken to be independent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import hypot
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from kvsim.backends import get
from kvsim.estimation import Estimate
from kvsim.insight.what_if.edits import Edits
from kvsim.insight.what_if.families import Families
from kvsim.insight.what_if.rewriting import rewritten, touched_families

if TYPE_CHECKING:
    from kvsim.insight.what_if.deployment import Deployment
    from kvsim.pricing import Pricing
    from kvsim.simulated import Simulation
    from kvsim.trajectory import Batch, Ints

Floats = npt.NDArray[np.float64]

UNITS = ("model_s", "latency_s", "usd")
"""What savings are told in."""

_TURNS_AT_ONCE = 1 << 17


class Ends(NamedTuple):
    """A value by the law, and at both ends of its 90 % interval."""

    value: float
    low: float
    high: float


class Priced:
    """A batch on a deployment, by the law itself and with shorter and longer steps."""

    def __init__(self, batch: Batch, deployment: Deployment) -> None:
        self.batch = batch
        self.deployment = deployment
        self.result = deployment.price(batch)

    @cached_property
    def laws(self) -> tuple[Pricing, Pricing, Pricing]:
        """The law itself, and the ends of its interval for this batch."""
        sure, pricing = self.result.uncertainty, self.deployment.pricing
        return (
            pricing,
            pricing.scaled(sure.prefill.low, sure.decode.low),
            pricing.scaled(sure.prefill.high, sure.decode.high),
        )

    @cached_property
    def results(self) -> tuple[Estimate | Simulation, ...]:
        """The batch by each of the laws."""
        return (self.result, *(self.deployment.price(self.batch, law) for law in self.laws[1:]))

    @cached_property
    def families(self) -> Families:
        """The batch's families."""
        return Families.of_batch(self.batch)

    @cached_property
    def totals(self) -> dict[str, Ends]:
        """The sum over trajectories that could be priced, in each of the units."""
        return {unit: _ends([float(np.nansum(getattr(result, unit))) for result in self.results]) for unit in UNITS}


@dataclass(frozen=True)
class Savings:
    """What each variant saves, by unit: arrays (3, variants) by the law, and with its shorter and longer steps.

    NaN where a trajectory that could be priced no longer can be.
    """

    by_unit: dict[str, Floats]

    def ends(self, unit: str, variant: int = 0) -> Ends:
        """A variant's saving with its interval."""
        return _ends(self.by_unit[unit][:, variant].tolist())


def savings(base: Priced, edits: Edits) -> Savings:
    """What each variant of the edits saves on an estimated deployment: all that hangs together is priced again."""
    saved = {unit: np.zeros((3, edits.variants)) for unit in UNITS}
    backend = get(base.deployment.backend)
    for begin, end in _pieces(base, edits):
        made = rewritten(base.families, edits.part(begin, end))
        for number, law in enumerate(base.laws):
            result = Estimate(made.batch, law, backend, base.deployment.usd_per_hour)
            for unit in UNITS:
                before = getattr(base.results[number], unit)[made.original]
                difference = np.where(np.isnan(before), 0.0, before - getattr(result, unit))
                if unit == "usd" and np.isnan(result.usd_per_hour):
                    difference = np.full(len(before), np.nan)
                saved[unit][number, begin:end] += np.bincount(made.variant, difference, minlength=end - begin)
    return Savings(saved)


def savings_of_batch(base: Priced, changed: Batch) -> Savings:
    """What a changed batch of the same trajectories saves on the same deployment, simulated or estimated."""
    results = [base.deployment.price(changed, law) for law in base.laws]
    pairs = list(zip(base.results, results, strict=True))
    return Savings({unit: np.array([[_saved(one, other, unit)] for one, other in pairs]) for unit in UNITS})


def savings_of_deployment(base: Priced, other: Priced) -> dict[str, Ends]:
    """What another deployment saves on the same batch."""
    same = base.deployment.gpu == other.deployment.gpu and base.deployment.model == other.deployment.model
    found = {}
    for unit in UNITS:
        if same:
            pairs = zip(base.results, other.results, strict=True)
            found[unit] = _ends([_saved(one, changed, unit) for one, changed in pairs])
            continue
        (now, now_low, now_high), (then, then_low, then_high) = base.totals[unit], other.totals[unit]
        saved = _saved(base.result, other.result, unit)
        low = saved - hypot(now - now_low, then_high - then)
        found[unit] = Ends(saved, low, saved + hypot(now_high - now, then - then_low))
    return found


def _saved(one: Estimate | Simulation, other: Estimate | Simulation, unit: str) -> float:
    """The difference over the trajectories that the first could price; NaN where the second cannot."""
    before, after = getattr(one, unit), getattr(other, unit)
    if unit == "usd" and np.isnan(before).all():
        return float("nan")
    return float(np.where(np.isnan(before), 0.0, before - after).sum())


def _ends(values: Sequence[float]) -> Ends:
    """The first value, and the least and the largest of all."""
    return Ends(values[0], float(np.min(values)), float(np.max(values)))


def _pieces(base: Priced, edits: Edits) -> Iterator[tuple[int, int]]:
    """Variants in stretches of about so many turns."""
    variant, family = touched_families(base.families, edits)
    turns: Ints = np.zeros(edits.variants, np.int64)
    np.add.at(turns, variant, base.families.turns(family))
    piece = np.cumsum(turns) // _TURNS_AT_ONCE
    bounds = [0, *(np.flatnonzero(np.diff(piece)) + 1).tolist(), edits.variants]
    return ((begin, end) for begin, end in pairwise(bounds) if end > begin)
