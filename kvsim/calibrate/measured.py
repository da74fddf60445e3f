"""A calibration from a user's own measurements: :func:`fit_observations`, :func:`fit_files`.

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
from ..engine import EngineConfig
from ..errors import InputError
from ..hardware import Gpu
from ..hardware import gpu as find_gpu
from .deployment import Deployment, engine_config
from .evidence import CLIENT, Loaded, Timed
from .observations import Header, Observations
from .observed import evidence_of, usable
from .prior import beliefs, datasheet_prior
from .robust import Accuracy, Array
from .solve import Solution, solve

FEWEST_ERRORS = 8
"""Held-out errors from which on they say more about whole steps than the prior's."""

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
    evidence: tuple[Timed | Loaded, ...] = field(repr=False)

    def report(self) -> str:
        """For people: accuracy by kind, coefficients fitted and kept, outliers."""
        from .report import text

        return text(self)


def fit_observations(
    observations: Sequence[Observations],
    *,
    gpu: str | Gpu | None = None,
    model: str | Path | None = None,
    engine: EngineConfig | None = None,
    prior: str | Path | Calibration | None = None,
    only_overheads: bool = False,
    engine_version: str | None = None,
    date: str | None = None,
) -> Fitted:
    """A calibration from files of observations; what their headers leave open is given here.

    gpu, model, engine: count where a header does not say, the engine's arguments also where it does. prior: a
    calibration or its file, ``"datasheet"`` for orders of magnitude alone, None for what ships for the GPU.
    only_overheads: the engine's overheads alone are fitted, under ``engine_version`` (by default the headers'), beside
    those of other versions; the GPU's rates stay as they are.
    Raises :class:`~kvsim.errors.KvsimError` for names that are unknown and evidence that cannot be used.
    """
    card = _one_gpu([part.header.gpu for part in observations], gpu)
    evidence: list[Timed | Loaded] = []
    warnings: list[str] = []
    for part in observations:
        rows, left_out = usable(part)
        warnings += part.warnings()
        warnings += [f"{part.file}: {count} rows not fitted: {reason}" for reason, count in left_out.items()]
        evidence += evidence_of(rows, deployment_of(part.header, part.file, card, model, engine), part.file)
    headers = [part.header for part in observations]
    return fit_evidence(
        evidence,
        card,
        prior=prior,
        only_overheads=only_overheads,
        engine_version=engine_version or next((one.engine_version for one in headers if one.engine_version), None),
        date=date or max((one.date[:10] for one in headers if one.date), default=None),
        sources=[one.source or Path(part.file).name for one, part in zip(headers, observations, strict=True)],
        warnings=warnings,
    )


def deployment_of(
    header: Header, file: str, gpu: Gpu, model: str | Path | None, engine: EngineConfig | None
) -> Deployment:
    """What a header describes. Its model may be a path, relative to the file."""
    named = header.model or model
    if not named:
        raise InputError("of which model?", file=file, field="model", remedy="Say it in the header, or with --model.")
    beside = Path(file).parent / str(named)
    if header.model and str(named).endswith(".json") and beside.exists():
        named = beside
    return Deployment.of(named, gpu, engine_config(header, file, engine))


def _one_gpu(named: Sequence[str], given: str | Gpu | None) -> Gpu:
    if given is not None:
        return given if isinstance(given, Gpu) else find_gpu(given)
    cards = {find_gpu(name).id: find_gpu(name) for name in named if name}
    if len(cards) != 1:
        found = "measurements of " + " and ".join(sorted(cards)) if cards else "of which GPU?"
        raise InputError(found, field="gpu", remedy="Give --gpu, or files of one GPU.")
    return next(iter(cards.values()))


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
    evidence: Sequence[Timed | Loaded],
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
    client = (solution.values["client_s"], solution.values["client_token_s"])
    if not any((part.client_tokens >= 0).any() for part in evidence):
        client = (0.0, 0.0)
    engine = engine_version or start.engine
    rows = sum(len(part.measured) for part in evidence)
    source = ", ".join(sorted(set(sources))) or "own measurements"
    coefficients = {
        name: _coefficient(name, part, solution, source, rows) for name, part in start.coefficients.items()
    }
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
    return Fitted(
        calibration=calibration,
        prior=start,
        fitted=tuple(name for name in (*QUANTITIES, *OVERHEADS) if name in solution.intervals),
        client_s=client,
        parts=tuple(
            Part(part.kind, part.regime, noise, Accuracy.of(errors), Accuracy.of(held))
            for part, noise, errors, held in zip(
                evidence, solution.noise, solution.errors, solution.held_out, strict=True
            )
        ),
        outliers=_outliers(evidence, solution),
        warnings=tuple(warnings),
        evidence=tuple(evidence),
    )


def _coefficient(name: str, before: Coefficient, solution: Solution, source: str, rows: int) -> Coefficient:
    """A coefficient after the fit; those that were kept stay as they are."""
    if name not in solution.intervals:
        return before
    quantity = QUANTITIES[name] if name in QUANTITIES else OVERHEADS[name]
    least, most = quantity.bounds
    low, high = solution.intervals[name]
    low, value, high = (min(most, max(least, float(f"{part:.5g}"))) for part in (low, solution.values[name], high))
    return Coefficient(value, min(low, value), max(high, value), "fitted", source, rows)


def _note(start: Calibration, client: tuple[float, float], evidence: Sequence[Timed | Loaded]) -> str:
    said = [f"fitted to own measurements from the calibration of {start.date}"]
    if start.kind == "inherited" and start.relative:
        said.append(f"what was kept is {start.relative}'s")
    if any((part.client_tokens >= 0).any() for part in evidence):
        said.append(f"clients saw {client[0] * 1e3:.3g} ms more a request and {client[1] * 1e6:.3g} us a prompt token")
    return "; ".join(said)


def _seen(start: Calibration, evidence: Sequence[Timed | Loaded], sources: Sequence[str]) -> Evidence:
    """What the coefficients rest on: the prior's evidence, since kept ones rest on it, and this."""
    before = start.evidence
    tokens, sequences, contexts = [], [], []
    for part in evidence:
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
            reading = work.chunk_context[:, 0] + work.decode_context[:, 0] / np.maximum(work.decoding, 1)
            alone = work.sequences - work.decoding <= 1
            contexts += reading[alone].tolist()
    deployments = [part.deployment for part in evidence]
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
    start: Calibration, evidence: Sequence[Timed | Loaded], solution: Solution
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
    evidence: Sequence[Timed | Loaded], errors: Sequence[Array], regime: Literal["prefill", "decode", "queued"]
) -> Array:
    own_errors = [found for part, found in zip(evidence, errors, strict=True) if part.regime == regime]
    return np.concatenate(own_errors) if own_errors else np.array([])


def _outliers(evidence: Sequence[Timed | Loaded], solution: Solution) -> tuple[Outlier, ...]:
    """The worst rows, by multiples of their kind's noise."""
    found = []
    for part, noise, errors in zip(evidence, solution.noise, solution.errors, strict=True):
        for row in np.flatnonzero(np.abs(errors) > OUTLIER * noise).tolist():
            size = abs(float(errors[row])) / noise
            error = float(np.expm1(-errors[row]))
            found.append((size, Outlier(part.places[row], float(part.measured[row]), error)))
    found.sort(key=lambda pair: -pair[0])
    return tuple(outlier for _, outlier in found)
