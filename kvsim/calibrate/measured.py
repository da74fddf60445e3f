"""A calibration from a user's own measurements: :func:`fit_observations`, :func:`fit_files`."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..arrivals import starts_of
from ..calibration import Calibration
from ..engine import EngineConfig
from ..errors import InputError, KvsimError
from ..hardware import Gpu
from ..hardware import gpu as find_gpu
from .deployment import Deployment, engine_config
from .evidence import Loaded, Timed, Together, together
from .files import FileTables, ServingPoint, read_files, same_gpu
from .findings import Findings
from .fitted import Fitted, Part, fit_evidence, prior_of
from .kernels import kernel_findings
from .observations import Header, Observations
from .observed import evidence_of, step_rows, usable
from .robust import Accuracy
from .serving_load import as_measured, point_evidence, turns_evidence


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
