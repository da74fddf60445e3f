"""How sure a price is: 90 % intervals, and what lies beyond the evidence.

A calibration knows how far measured times were from predicted ones on whole models that its fit had not seen, for
prefill and for decoding. Such errors have one cause for all steps of a model on a GPU, so they do not average out over
a trajectory: both ends of an interval are the whole batch priced again with every step that much shorter or longer.
Beyond the evidence the ends move apart, and :class:`Beyond` says what is extrapolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, hypot, log2
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from .calibration import Calibration, Evidence, Regime
from .errors import ExtrapolationError
from .law import Law, StepCosts, costs_of, tabulate

if TYPE_CHECKING:
    from .architecture import Architecture
    from .costs import Costs
    from .engine import Engine
    from .hardware import Gpu

COVERAGE = 0.9
"""What share of measured times an interval is meant to contain."""

OCTAVE = 0.08
"""How much (log, 90 %) the ends move apart for each doubling beyond a measured range, in quadrature: see
docs/accuracy.md for what predicting kernels beyond the range of their fit cost."""

UNSEEN = 0.48
"""How far (log, 90 %) the time of what was never measured on the GPU may be off: what taking over rates costs among
measured GPUs (``python -m kvsim.calibrate.fit`` prints it)."""

Floats = npt.NDArray[np.float64]
R = TypeVar("R")


class Reach(NamedTuple):
    """The largest that was priced: tokens and sequences of a step, tokens of a context."""

    step_tokens: int
    sequences: int
    context_tokens: int


@dataclass(frozen=True, slots=True)
class Beyond:
    """One way in which a price lies outside of what its calibration rests on, and how unsure (log) that makes it."""

    sentence: str
    width: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Measured over predicted time: the 5 % and the 95 % quantile expected."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """How far times may be off: spreads of prefill and decoding, and what was extrapolated."""

    prefill: Spread
    decode: Spread
    beyond: tuple[Beyond, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was extrapolated, in words."""
        return tuple(part.sentence for part in self.beyond)

    def refuse_extrapolation(self) -> None:
        """Raise :class:`~kvsim.errors.ExtrapolationError` naming all that lies beyond the evidence, if anything."""
        if self.beyond:
            raise ExtrapolationError(self.sentences)


@dataclass(frozen=True, slots=True)
class Interval(Generic[R]):
    """Both ends of the 90 % interval of a result: the same batch priced with shorter and with longer steps.

    ``low`` and ``high`` are whole results, so that every column of turns and trajectories has its ends; a turn's or
    trajectory's own ends are :meth:`of`.
    """

    low: R
    high: R
    nominal: R
    uncertainty: Uncertainty

    def of(self, name: str, *, turns: bool = False) -> tuple[Floats, Floats]:
        """The ends of a value of each trajectory (or column of each turn), the result itself between them.

        Where turns share an engine, shorter steps may make a single turn later; then that is an end.
        """
        values = [
            np.asarray(getattr(part.turns if turns else part, name), np.float64)  # type: ignore[attr-defined]
            for part in (self.low, self.nominal, self.high)
        ]
        return np.fmin.reduce(values), np.fmax.reduce(values)

    def total(self, name: str) -> tuple[float, float]:
        """The ends of a sum over trajectories; those that could not be priced are left out."""
        sums = [float(np.nansum(getattr(part, name))) for part in (self.low, self.nominal, self.high)]
        return min(sums), max(sums)


def uncertainty_of(
    architecture: Architecture, engine: Engine, gpu: Gpu, calibration: Calibration, reach: Reach
) -> Uncertainty:
    """How sure the times of a model are under an engine's settings, for steps and contexts up to ``reach``."""
    beyond = (
        *_ranges(calibration.evidence, reach),
        *_deployment(costs_of(architecture, engine, gpu, calibration.values()), calibration),
    )
    extra = hypot(*(part.width for part in beyond))

    def spread(regime: Regime) -> Spread:
        residual = calibration.residuals[regime]
        return Spread(
            exp(residual.q50 - hypot(residual.q50 - residual.q05, extra)),
            exp(residual.q50 + hypot(residual.q95 - residual.q50, extra)),
        )

    return Uncertainty(spread("prefill"), spread("decode"), beyond)


def _ranges(evidence: Evidence, reach: Reach) -> list[Beyond]:
    found = []
    for what, value, (_, most) in (
        ("tokens in a step", reach.step_tokens, evidence.step_tokens),
        ("sequences in a step", reach.sequences, evidence.sequences),
        ("tokens of context", reach.context_tokens, evidence.context_tokens),
    ):
        if value > most:
            found.append(Beyond(f"{value:,} {what}: measured up to {most:,}.", OCTAVE * log2(value / most)))
    return found


def _deployment(costs: Costs, calibration: Calibration) -> list[Beyond]:
    """What of the deployment was never measured, or not on this GPU.

    What a GPU that was never measured took over is in its residuals already.
    """
    evidence, ranks = calibration.evidence, costs.tensor_parallel
    unseen, taken_over = [], []
    if ranks not in evidence.tensor_parallel:
        known = ", ".join(map(str, evidence.tensor_parallel))
        unseen.append(f"tensor_parallel_size {ranks}: measured with {known}.")
    cache = costs.storage.cache_format
    used = {"dense products": ("gemm", costs.product("gemm")[0])}
    if costs.architecture.experts():
        used["routed experts"] = ("experts", costs.product("experts")[0])
    unseen += [
        f"{name} with {fmt} weights were not measured."
        for name, (_, fmt) in used.items()
        if fmt not in evidence.weight_formats
    ]
    if cache not in evidence.cache_formats:
        unseen.append(f"a {cache} KV cache was not measured.")
    unseen += _families(costs.architecture, evidence)
    parts = {name: f"{kernel}_{fmt}_compute" for name, (kernel, fmt) in used.items()}
    parts |= {"prefill attention": f"prefill_{cache}_compute", "decode attention": f"decode_{cache}_memory"}
    strange = {name: calibration.coefficients[key] for name, key in parts.items()}
    taken_over = [
        f"{name} not measured on {calibration.gpu}: rates from {part.source}."
        for name, part in strange.items()
        if part.kind == "inherited"
    ]
    if calibration.overheads[calibration.engine]["step_s"].kind == "inherited":
        taken_over.append(f"engine overheads not measured on {calibration.gpu}.")
    measured = calibration.kind == "measured" and any(part.n for part in calibration.residuals.values())
    return [
        *(Beyond(sentence, UNSEEN) for sentence in unseen),
        *(Beyond(sentence, UNSEEN / 2 if measured else 0.0) for sentence in taken_over),
    ]


def _families(architecture: Architecture, evidence: Evidence) -> list[str]:
    found = []
    if architecture.experts() and "experts" not in evidence.families:
        found.append("routed experts were not measured.")
    latent = any(group.expand_flops_per_token for group in architecture.attention_groups())
    if latent and "latent" not in evidence.families:
        found.append("latent attention was not measured.")
    if architecture.recurrent_state_bytes():
        found.append("linear attention was not measured: its states are priced as memory traffic.")
    return found


def scaled_law(
    architecture: Architecture,
    engine: Engine,
    gpu: Gpu,
    calibration: Calibration,
    *,
    prefill: float,
    decode: float,
    held_tokens: int,
) -> Law:
    """The law of a machine whose chunks take ``prefill`` times as long and whose other steps ``decode`` times."""
    costs = _Scaled(costs_of(architecture, engine, gpu, calibration.values()), prefill, decode, engine.max_num_seqs)
    return tabulate(
        costs,
        tokens=engine.max_num_batched_tokens,
        sequences=engine.max_num_seqs,
        max_model_len=engine.max_model_len,
        held_tokens=held_tokens,
    )


@dataclass(frozen=True, slots=True)
class _Scaled:
    """Costs with a factor on each regime; a step of more tokens than sequences can decode prefills."""

    costs: StepCosts
    prefill: float
    decode: float
    most_decoding: int

    def step_s(self, tokens: Floats) -> Floats:
        return self.costs.step_s(tokens) * np.where(tokens > self.most_decoding, self.prefill, self.decode)

    def sequences_s(self, sequences: Floats) -> Floats:
        return self.costs.sequences_s(sequences) * self.decode

    def decode_s(self, group: str, sequences: Floats) -> Floats:
        return self.costs.decode_s(group, sequences) * self.decode

    def mixed_s(self, group: str, sequences: Floats) -> Floats:
        return self.costs.mixed_s(group, sequences) * self.decode

    def tile_keys(self) -> int:
        return self.costs.tile_keys()

    def pair_s(self, group: str) -> float:
        return self.costs.pair_s(group) * self.prefill

    def context_s(self, group: str) -> float:
        return self.costs.context_s(group) * self.prefill

    def window(self) -> int:
        return self.costs.window()


def largest(*columns: npt.NDArray[np.int64] | Sequence[int]) -> int:
    """The largest value of some columns, 0 where there is none."""
    return max((int(np.max(column)) for column in columns if len(column)), default=0)
