"""A calibration from a user's own measurements: :func:`fit_observations`, :func:`fit_files`.

It starts from what is known of the GPU (its shipped calibration, or what it inherits, or orders of magnitude) and fits
those coefficients again that the evidence identifies; each says whether it was fitted here or kept.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from .._inheritance import calibration_of, own
from ..arrivals import starts_of
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
from ..errors import InputError, KvsimError
from ..hardware import Gpu
from ..hardware import gpu as find_gpu
from .deployment import Deployment, engine_config
from .evidence import CLIENT, Loaded, Timed, Together, single, together
from .files import FileTables, ServingPoint, read_files, same_gpu
from .kernels import Findings, kernel_findings
from .observations import Header, Observations
from .observed import evidence_of, step_rows, usable
from .prior import beliefs, datasheet_prior
from .robust import Accuracy, Array
from .serving_load import as_measured, point_evidence, turns_evidence
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
    evidence, warnings = _observed(observations, card, model, engine)
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


def _observed(
    observations: Sequence[Observations], card: Gpu, model: str | Path | None, engine: EngineConfig | None
) -> tuple[list[Timed | Together], list[str]]:
    """Evidence of all files, and what of them was left out."""
    evidence: list[Timed | Together] = []
    warnings: list[str] = []
    for part in observations:
        rows, left_out = usable(part)
        warnings += part.warnings()
        warnings += [f"{part.file}: {count} rows not fitted: {reason}" for reason, count in left_out.items()]
        evidence += evidence_of(rows, deployment_of(part.header, part.file, card, model, engine), part.file)
    return evidence, warnings


def fit_files(
    paths: Sequence[str | Path],
    *,
    gpu: str | Gpu | None = None,
    model: str | Path | None = None,
    engine: EngineConfig | None = None,
    prior: str | Path | Calibration | None = None,
    only_overheads: bool = False,
    engine_version: str | None = None,
    date: str | None = None,
    format: str = "auto",
    lenient: bool = False,
    arrivals: str = "logged",
) -> Fitted:
    """A calibration from files of any kinds together: observations, step logs of vLLM (``steps_*.jsonl``), kernel
    tables, serving points (CSV, or what ``vllm bench serve --save-result`` writes), and every log that
    :func:`kvsim.read` takes and that holds times.

    Points and logs are matched by simulating their load. Logs are taken for all of the engine's traffic: each turn
    comes when it was sent, ``arrivals`` says how where they have no times of arrival. Other arguments as
    :func:`fit_observations` has them; the model of step logs, logs and unnamed points is ``model``.
    """
    found = read_files(paths, lenient=lenient)
    named = [part.header.gpu for part in found.observations]
    if gpu is None and not any(named):
        named += [name for _, table in found.tables for name in sorted(set(table["gpu"].tolist()))]
        named += sorted({point.gpu for point in found.points})
    card = _one_gpu(named, gpu)
    for log in found.step_logs:
        found.observations.append(
            Observations(str(log.path), Header(engine=log.engine.arguments), tuple(step_rows(log)))
        )
    evidence, warnings = _observed(found.observations, card, model, engine)
    warnings += found.warnings
    evidence += _points(found.points, card, model, engine, warnings)
    if found.logs:
        evidence += together([_logs(found.logs, card, model, engine, format, lenient, arrivals, warnings)])
    headers = [part.header for part in found.observations]
    date = date or max((one.date[:10] for one in headers if one.date), default=datetime.date.today().isoformat())
    start = prior_of(card, prior, date)
    tables, kernel_parts = FileTables(found.tables), list[Part]()
    if found.tables and not only_overheads:
        start, kernel_parts = _with_kernels(start, kernel_findings(card, tables))
    sources = [one.source or Path(part.file).name for one, part in zip(headers, found.observations, strict=True)]
    sources += [Path(name).name for name in sorted({p.point.place.rpartition(":")[0] for p in found.points})]
    sources += [Path(name).name for name in found.logs]
    version = engine_version or next((one.engine_version for one in headers if one.engine_version), None)
    if not evidence:
        return _kernels_only(start, kernel_parts, warnings)
    fitted = fit_evidence(
        evidence,
        card,
        prior=start,
        only_overheads=only_overheads,
        engine_version=version,
        date=date,
        sources=sources,
        warnings=warnings,
    )
    return replace(fitted, parts=(*kernel_parts, *fitted.parts))


def _with_kernels(start: Calibration, found: Findings) -> tuple[Calibration, list[Part]]:
    """The prior with the coefficients that kernel tables determine."""
    parts = [
        Part(f"{name} kernels", "kernels", 0.0, Accuracy.of(errors), Accuracy.of(found.held_out[name]))
        for name, errors in found.fitted.items()
    ]
    return replace(start, coefficients={**start.coefficients, **found.coefficients}), parts


def _kernels_only(start: Calibration, parts: Sequence[Part], warnings: Sequence[str]) -> Fitted:
    """A calibration from kernel tables alone: overheads are the prior's."""
    if not parts:
        raise InputError("no row to fit", remedy="Give measurements of this GPU and model.")
    fitted = tuple(name for name, part in start.coefficients.items() if part.kind == "fitted")
    calibration = replace(start, kind="measured", relative="", note="kernel tables alone: overheads were kept")
    return Fitted(calibration, start, fitted, (0.0, 0.0), tuple(parts), (), tuple(warnings), ())


def _points(
    points: Sequence[ServingPoint],
    card: Gpu,
    model: str | Path | None,
    engine: EngineConfig | None,
    warnings: list[str],
) -> list[Together]:
    """Serving points of this GPU whose model is known and fits; the others are counted."""
    out, left_out = [], Counter[str]()
    for one in points:
        if not same_gpu(one.gpu, card.id):
            left_out[f"of another GPU, {one.gpu}"] += 1
            continue
        config = engine or EngineConfig()
        quantization = "fp8" if one.dtype.startswith("fp8") else config.quantization
        tensor_parallel = one.tensor_parallel_size or config.tensor_parallel_size
        try:
            deployment = Deployment.of(
                model or one.model,
                card,
                replace(config, tensor_parallel_size=tensor_parallel, quantization=quantization),
            )
            out.append(point_evidence(one.point, deployment))
        except KvsimError as error:
            left_out[str(error)] += 1
    warnings += [f"{count} serving points not fitted: {reason}" for reason, count in left_out.items()]
    return together(out)


def _logs(
    paths: Sequence[str],
    card: Gpu,
    model: str | Path | None,
    engine: EngineConfig | None,
    format: str,
    lenient: bool,
    arrivals: str,
    warnings: list[str],
) -> Loaded:
    """Logged turns with times, each sent when it really was."""
    from ..logs import read

    if model is None:
        raise InputError("of which model?", file=paths[0], field="model", remedy="Logs need --model.")
    batch = as_measured(read(paths, format, lenient=lenient))
    if arrivals == "logged" and not batch.arrival_ns.any() and len(batch) > 1:
        arrivals = "closed:1"
        warnings.append("the logs have no times of arrival: one trajectory at a time is simulated (--arrivals)")
    deployment = Deployment.of(model, card, engine)
    name = paths[0] if len(paths) == 1 else f"{len(paths)} logs"
    return turns_evidence(batch, deployment, starts=starts_of(batch, arrivals), name=name, kind="logged turns")


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
    quantity = QUANTITIES[name] if name in QUANTITIES else OVERHEADS[name]
    least, most = quantity.bounds
    low, high = solution.intervals[name]
    low, value, high = (min(most, max(least, float(f"{part:.5g}"))) for part in (low, solution.values[name], high))
    return Coefficient(value, min(low, value), max(high, value), "fitted", source, rows)


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
