"""A calibration from evidence of one GPU, and what is told of how it was fitted.

It starts from what is known of the GPU (its shipped calibration, or what it inherits, or orders of magnitude) and fits
those coefficients again that the evidence identifies; each says whether it was fitted here or kept.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from .._inheritance import calibration_of, own
from ..calibration import (
    OVERHEADS,
    QUANTITIES,
    Calibration,
    Coefficient,
    Evidence,
    Regime,
    Residual,
    load_calibration,
)
from ..errors import InputError
from ..hardware import Gpu
from .coefficients import coefficient
from .evidence import CLIENT, Loaded, Timed, Together, single
from .prior import beliefs, datasheet_prior
from .robust import Accuracy, Array
from .solve import Solution, solve

FEWEST_ERRORS = 8
"""Held-out errors from which on they say more about whole steps than the prior's."""

UNEXPLAINED = 0.5
"""Median error from which on evidence is not what it was said to be."""

OUTLIER = 4.0
"""Rows so many times their kind's noise off are listed."""

REGIMES: tuple[Regime, ...] = ("prefill", "decode")


@dataclass(frozen=True)
class Part:
    """How well one kind of evidence is predicted: ``noise`` is what a row of it counted by."""

    kind: str
    regime: str
    noise: float
    fitted: Accuracy
    held_out: Accuracy


@dataclass(frozen=True)
class Outlier:
    """A row that is predicted badly; ``error`` is predicted over measured, less one."""

    place: str
    measured_s: float
    error: float


@dataclass(frozen=True)
class Fitted:
    """What came of a fit.

    client_s: what a client's way to the engine and back adds to a request it timed: seconds, and seconds a prompt
    token. evidence: what was fitted, as it was fitted.
    """

    calibration: Calibration
    prior: Calibration
    fitted: tuple[str, ...]
    client_s: tuple[float, float]
    parts: tuple[Part, ...]
    outliers: tuple[Outlier, ...]
    warnings: tuple[str, ...]
    evidence: tuple[Timed | Together, ...] = field(repr=False)

    def report(self) -> str:
        """For people: accuracy by kind, coefficients fitted and kept, outliers."""
        from .report import text

        return text(self)


def prior_of(card: Gpu, prior: str | Path | Calibration | None, date: str) -> Calibration:
    """Where a fit starts from."""
    if isinstance(prior, Calibration):
        return own(prior, card)
    if prior is None:
        return calibration_of(card)
    if str(prior) == "datasheet":
        return datasheet_prior(card.id, date)
    return own(load_calibration(prior), card)


def fit_evidence(
    evidence: Sequence[Timed | Together],
    card: Gpu,
    *,
    prior: str | Path | Calibration | None = None,
    only_overheads: bool = False,
    engine_version: str | None = None,
    date: str | None = None,
    sources: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Fitted:
    """A calibration from evidence of one GPU."""
    if not evidence:
        raise InputError("no row to fit", remedy="Give measurements that bear on the engine's times.")
    date = date or datetime.date.today().isoformat()
    start = prior_of(card, prior, date)
    candidates = [*OVERHEADS, *CLIENT] if only_overheads else [*QUANTITIES, *OVERHEADS, *CLIENT]
    solution = solve(evidence, {**beliefs(start), **CLIENT}, candidates)
    fitted = tuple(name for name in (*QUANTITIES, *OVERHEADS) if name in solution.intervals)
    if not fitted:
        raise InputError(
            "the evidence identifies no coefficient", remedy="Give more of it: other lengths, batches or models."
        )
    client = (solution.values["request_s"], solution.values["client_token_s"])
    if not _by_clients(evidence):
        client = (0.0, 0.0)
    engine = engine_version or start.engine
    rows = sum(len(part.measured) for part in evidence)
    source = ", ".join(sorted(set(sources))) or "own measurements"
    coefficients = {name: _coefficient(name, part, solution, source, rows) for name, part in start.coefficients.items()}
    overheads = {
        name: _coefficient(name, part, solution, source, rows) for name, part in start.overheads[start.engine].items()
    }
    calibration = replace(
        start,
        kind="measured",
        relative="",
        date=date,
        engine=engine,
        note=_note(start, client, evidence),
        evidence=_seen(start, evidence, sources),
        residuals=_residuals(start, evidence, solution),
        coefficients=coefficients,
        overheads={**start.overheads, engine: overheads},
    )
    parts = tuple(
        Part(part.kind, part.regime, noise, Accuracy.of(errors), Accuracy.of(held))
        for part, noise, errors, held in zip(evidence, solution.noise, solution.errors, solution.held_out, strict=True)
    )
    return Fitted(
        calibration=calibration,
        prior=start,
        fitted=fitted,
        client_s=client,
        parts=parts,
        outliers=_outliers(evidence, solution),
        warnings=(*warnings, *_unexplained(parts)),
        evidence=tuple(evidence),
    )


def _coefficient(name: str, before: Coefficient, solution: Solution, source: str, rows: int) -> Coefficient:
    """A coefficient after the fit; those that were kept stay as they are."""
    if name not in solution.intervals:
        return before
    return coefficient(name, solution.values[name], solution.intervals[name], source, rows)


def _by_clients(evidence: Sequence[Timed | Together]) -> bool:
    """Whether a client timed anything."""
    return any(bool((part.client_tokens >= 0).any()) for part in single(evidence))


def _note(start: Calibration, client: tuple[float, float], evidence: Sequence[Timed | Together]) -> str:
    said = [f"fitted to own measurements from the calibration of {start.date}"]
    if start.kind == "inherited" and start.relative:
        said.append(f"what was kept is {start.relative}'s")
    if _by_clients(evidence):
        said.append(f"clients saw {client[0] * 1e3:.3g} ms more a request and {client[1] * 1e6:.3g} us a prompt token")
    return "; ".join(said)


def _seen(start: Calibration, evidence: Sequence[Timed | Together], sources: Sequence[str]) -> Evidence:
    """What the coefficients rest on: the prior's evidence, since kept ones rest on it, and this."""
    before = start.evidence
    tokens, sequences, contexts = [], [], []
    for part in single(evidence):
        if isinstance(part, Loaded):
            at_once = min(part.deployment.engine.max_num_seqs, part.batch.turns)
            lengths = part.batch.prompt_tokens + part.batch.output_tokens
            tokens += [1.0, float(min(part.deployment.engine.max_num_batched_tokens, part.batch.prompt_tokens.max()))]
            sequences += [1.0, float(at_once)]
            contexts += [float(lengths.min()), float(lengths.max())]
        else:
            work = part.work
            tokens += [work.tokens.min(), work.tokens.max()]
            sequences += [work.sequences.min(), work.sequences.max()]
            chunks = work.chunk_context[:, 0] / np.maximum(work.sequences - work.decoding, 1)
            decodes = work.decode_context[:, 0] / np.maximum(work.decoding, 1)
            contexts += np.maximum(chunks, decodes).tolist()
    deployments = [part.deployment for part in single(evidence)]
    costs = [one.costs({**start.values(), **dict.fromkeys(CLIENT, 0.0)}) for one in deployments]
    families = {"dense"} if deployments else set()
    families |= {"experts" for one in deployments if one.architecture.experts()}
    families |= {"latent" for one in deployments for group in one.architecture.attention_groups() if _latent(group)}

    def span(old: tuple[int, int], new: Sequence[float]) -> tuple[int, int]:
        return min(old[0], max(1, int(min(new)))), max(old[1], int(max(new)))

    return Evidence(
        step_tokens=span(before.step_tokens, tokens),
        sequences=span(before.sequences, sequences),
        context_tokens=span(before.context_tokens, contexts),
        tensor_parallel=tuple(
            sorted({*before.tensor_parallel, *(one.engine.tensor_parallel_size for one in deployments)})
        ),
        weight_formats=tuple(dict.fromkeys([*before.weight_formats, *(one.product("gemm")[0] for one in costs)])),
        cache_formats=tuple(dict.fromkeys([*before.cache_formats, *(one.storage.cache_format for one in costs)])),
        families=tuple(dict.fromkeys([*before.families, *sorted(families)])),
        sources=tuple(dict.fromkeys([*before.sources, *sources])),
    )


def _latent(group: object) -> bool:
    return bool(getattr(group, "expand_flops_per_token", 0))


def _residuals(
    start: Calibration, evidence: Sequence[Timed | Together], solution: Solution
) -> Mapping[Regime, Residual]:
    """Spread of held-out errors by regime; requests under load stand in for both where steps alone are too few."""
    found: dict[Regime, Residual] = {}
    for regime in REGIMES:
        errors = _errors(evidence, solution.held_out, regime)
        if len(errors) < FEWEST_ERRORS:
            errors = np.concatenate([errors, _errors(evidence, solution.held_out, "queued")])
        found[regime] = residual_of(errors) if len(errors) >= FEWEST_ERRORS else start.residuals[regime]
    return found


def residual_of(errors: Array) -> Residual:
    """Quantiles of log(measured / predicted)."""
    q05, q50, q95 = (float(f"{value:.4g}") for value in np.quantile(errors, [0.05, 0.5, 0.95]))
    return Residual(len(errors), q05, q50, q95)


def _errors(
    evidence: Sequence[Timed | Together], errors: Sequence[Array], regime: Literal["prefill", "decode", "queued"]
) -> Array:
    own_errors = [found for part, found in zip(evidence, errors, strict=True) if part.regime == regime]
    return np.concatenate(own_errors) if own_errors else np.array([])


def _unexplained(parts: Sequence[Part]) -> list[str]:
    """A sentence for each kind of evidence that no coefficients within physical bounds come near."""
    return [
        f"{part.kind}: the median error is {part.fitted.median:.0%} after the fit. They are of another model, GPU or "
        "engine than was said, or an engine served other traffic too (for logs: --arrivals closed:1 takes each "
        "trajectory for alone)"
        for part in parts
        if part.fitted.median > UNEXPLAINED
    ]


def _outliers(evidence: Sequence[Timed | Together], solution: Solution) -> tuple[Outlier, ...]:
    """The worst rows, by multiples of their kind's noise."""
    found = []
    for part, noise, errors in zip(evidence, solution.noise, solution.errors, strict=True):
        for row in np.flatnonzero(np.abs(errors) > OUTLIER * noise).tolist():
            size = abs(float(errors[row])) / noise
            error = float(np.expm1(-errors[row]))
            found.append((size, Outlier(part.places[row], float(part.measured[row]), error)))
    found.sort(key=lambda pair: -pair[0])
    return tuple(outlier for _, outlier in found)
