"""Fit every shipped calibration: ``python -m kvsim.calibrate.fit [--check] [--ray ADDRESS] [GPU ...]``.

Reads profiles/measurements, writes profiles/calibrations/<gpu>.toml and prints how well fitted and held-out
points are predicted. ``--check`` writes nothing and fails if a shipped file is not reproduced.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..calibration import (
    CACHE_FORMATS,
    OVERHEADS,
    QUANTITIES,
    TENSOR_PARALLEL,
    WEIGHT_FORMATS,
    Calibration,
    Coefficient,
    Evidence,
    Regime,
    Residual,
    parse_calibration,
)
from ..hardware import Gpu, gpu, gpus
from ..law import device_of
from ..validation import shipped_points
from .client import NO_WAY, Found, Way, era, unqueued, ways
from .closed_loop import closed_loops
from .engine_steps import EngineSteps, engine_steps
from .kernels import Findings, kernel_findings
from .measured import Part
from .measurements import Column, Measurements, Table
from .relatives import TILES_OF_THEIR_OWN, TRANSFERS, chain
from .render import to_toml
from .report import COLUMNS, accuracy
from .robust import Accuracy, Array, next_group
from .serving import TYPICAL, ServingFit, engine_of, expectations, fit_overheads, fits_in_memory, with_scales
from .validation import Errors, Parts, errors_of, held_out_errors, parts_of, points, to_csv, with_intervals
from .whole_steps import MODELS, whole_steps

PROFILES = Path(__file__).resolve().parents[2] / "profiles"

DATE = "2026-11-22"
"""When the measurements were collected; a calibration's date, so that a rerun makes the same file."""

ENGINE = "vllm-1"
"""The engine generation in force; the others' overheads are kept beside it for old measurements."""

FEWEST_POINTS = 8
"""Serving points below which overheads are inherited."""

FEWEST_OF_MODEL = 3
"""Points of a model below which they are predicted, not fitted."""

OVERHEAD_DONOR = "h100-sxm"
"""Whose engine overheads stand in where a GPU has too few serving points: they come from the host and the
launches, and the steadiest points of most models were taken on it."""

SAME = 0.02
"""Relative difference up to which --check takes a value for reproduced: solvers differ in the last digits."""


LATEST = ("0.19 on", "to 0.18", "not stated")
"""Words that mark eras of clients, the latest first; what has none comes last."""

NEGLIGIBLE = 1e-5
"""Share of a coefficient's upper bound below which it is as good as zero, wherever a solver stops."""


class Study:
    """The fits of all GPUs, made when first needed."""

    def __init__(self, measurements: Measurements) -> None:
        self.measurements = measurements
        self._kernels: dict[str, Findings] = {}
        self._overheads: dict[str, dict[str, ServingFit]] = {}
        self._engine_steps: dict[str, EngineSteps] = {}
        self._parts: dict[tuple[str, str], Parts] = {}
        self._ways: dict[str, Found] = {}
        self._errors: dict[tuple[str, str, str], Errors] = {}
        self._points: dict[str, list[dict[str, object]]] = {}

    def kernels(self, name: str) -> Findings:
        """What a GPU's kernel tables say."""
        if name not in self._kernels:
            self._kernels[name] = kernel_findings(gpu(name), self.measurements)
        return self._kernels[name]

    def whole_steps(self, name: str) -> list[Array]:
        """Held-out errors of steps put together from a GPU's layers, by model."""
        models = MODELS.get(name, ())
        return [whole_steps(name, model, self.measurements, self.values(name)).held_out for model in models]

    def engine_steps(self, name: str) -> EngineSteps | None:
        """What whole steps of an engine say, where a card has sweeps; then nothing else bears on it."""
        folder = self.measurements.folder / "engine_steps" / name
        if not folder.is_dir():
            return None
        if name not in self._engine_steps:
            self._engine_steps[name] = engine_steps(folder)
        return self._engine_steps[name]

    def coefficients(self, name: str, stand_ins: Sequence[str] | None = None) -> dict[str, Coefficient]:
        """All kernel coefficients of a GPU: its own, else of its nearest stand-in that has them."""
        out: dict[str, Coefficient] = {}
        for source in (name, *(chain(name) if stand_ins is None else stand_ins)):
            for key, value in self.kernels(source).coefficients.items():
                out.setdefault(key, value if source == name else inherited(value, f"{source}: {value.source}"))
        if gpu(name).compute_capability.startswith(TILES_OF_THEIR_OWN):
            for key in ("mixed_tile_rows", "mixed_tile_keys"):
                out[key] = Coefficient(0.0, 0.0, 0.0, "datasheet", "kernels that decode beside a chunk as alone", 0)
        for part in ("compute", "memory"):  # no table times packed dense products
            plain = out[f"gemm_bf16_{part}"]
            out.setdefault(f"gemm_packed_{part}", inherited(plain, f"as gemm_bf16_{part}; {plain.source}"))
        return out

    def serving(self, name: str, engine: str | None = None) -> Table:
        """A GPU's serving points that the law can be held against, of one engine generation if given."""
        table = self.measurements.table("serving", name)
        if not len(table):
            return table
        keep = [
            experts == 1 and not path and generation in (engine or ENGINE, engine or "vllm-0-offline")
            for experts, path, generation in zip(table["expert_parallel"], table["path"], engines(table), strict=True)
        ]
        table = table.where(np.array(keep))
        return table.where(fits_in_memory(table, gpu(name).memory_bytes)) if len(table) else table

    def overheads(self, name: str) -> dict[str, ServingFit]:
        """Overheads fitted to a GPU's own serving points, by engine generation."""
        if name not in self._overheads:
            table, found = self.serving(name), {}
            for engine in sorted(set(engines(table))) if len(table) else ():
                part = self.serving(name, engine)
                part = part.where(_often(part["model"]))
                if len(part) >= FEWEST_POINTS:
                    rough = self._fit_overheads(name, engine, part, factors=None, final=False)
                    factors = self.factors(name, part, rough)
                    found[engine] = self._fit_overheads(name, engine, part, factors=factors, final=True)
            self._overheads[name] = found
        return self._overheads[name]

    def _fit_overheads(self, name: str, engine: str, part: Table, *, factors: Array | None, final: bool) -> ServingFit:
        card = gpu(name)
        return fit_overheads(
            part,
            self.values(name),
            device_of(card),
            engine,
            near=self.near(name, engine),
            scaled=not self.kernels(name).coefficients and not same_silicon(card, gpu(chain(name)[0])),
            factors=factors,
            final=final,
        )

    def parts(self, name: str, engine: str) -> Parts:
        """Predictions of a GPU's serving points of an engine generation that has overheads."""
        if (name, engine) not in self._parts:
            self._parts[name, engine] = parts_of(self, name, engine)
        return self._parts[name, engine]

    def points(self, name: str) -> list[dict[str, object]]:
        """A GPU's serving points with their predictions, without intervals."""
        if name not in self._points:
            self._points[name] = points(self, name)
        return self._points[name]

    def errors(self, name: str, regime: str, generation: str) -> Errors:
        """Held-out errors of a regime and an engine generation by GPU and model, on all GPUs of the same maker."""
        key = regime, generation, _maker(name)
        if key not in self._errors:
            alike = [one for one in gpus() if _maker(one) == key[2] and generation in self.overheads(one)]
            self._errors[key] = errors_of((row for one in alike for row in self.points(one)), regime, generation)
        return self._errors[key]

    def ways(self, engine: str) -> Found:
        """Clients' ways to engines of a generation, from all GPUs' points."""
        if engine not in self._ways:
            self._ways[engine] = ways(self, gpus(), engine)
        return self._ways[engine]

    def way(self, name: str, engine: str, rows: Table, row: int) -> tuple[Way, Way]:
        """A client's way to a serving point's engine: from all points of its era, and without the point's model."""
        source, found = str(rows["source"][row]), self.ways(engine)
        its = found.eras.get(era(source, str(rows["engine"][row]), gpu(name).compute_capability))
        if its is None:
            return NO_WAY, NO_WAY
        return its.whole, its.without(str(rows["model"][row]), name, found.sources[source])

    def values(self, name: str) -> dict[str, float]:
        """A GPU's kernel coefficients as numbers."""
        return {key: part.value for key, part in self.coefficients(name).items()}

    def factors(self, name: str, part: Table, rough: ServingFit) -> Array:
        """Time between tokens in the simulated closed loop over what :func:`.serving.seconds` expects; 1 where a
        point is of another kind. What runs in a step hardly depends on how long steps take, so that a rough fit
        will do."""
        values = with_scales(self.values(name), rough.result.values)
        loops = closed_loops(part, gpu(name), values)
        expected = expectations(part, values, device_of(gpu(name)))
        return np.array(
            [1.0 if loop is None else loop.tpot_s / one for loop, one in zip(loops, expected.tolist(), strict=True)]
        )

    def near(self, name: str, engine: str) -> Mapping[str, float]:
        """The overheads that a GPU's fit is held near: the best measured GPU's, whose own are held near
        typical ones."""
        donor = {} if name == OVERHEAD_DONOR else self.overheads(OVERHEAD_DONOR)
        if engine not in donor:
            return TYPICAL
        return {key: donor[engine].result.values[key] for key in TYPICAL}

    def transfer(self, regime: Regime) -> Array:
        """Log errors of measured GPUs' kernel coefficients against those of their stand-ins."""
        words = ("gemm", "prefill") if regime == "prefill" else ("memory",)
        errors = []
        for name, stand_in in TRANSFERS:
            own, other = self.kernels(name).coefficients, self.kernels(stand_in).coefficients
            for key in own.keys() & other.keys():
                kind = key.endswith("_compute") if regime == "prefill" else key.endswith("_memory")
                if kind and "bf16" in key and any(word in key for word in words):
                    errors.append(np.log(other[key].value / own[key].value))
        return np.array(sorted(errors))

    def widening(self, regime: Regime) -> float:
        """How far (log, 90 %) an inherited rate may be off: what inheriting costs among measured GPUs."""
        return float(np.quantile(np.abs(self.transfer(regime)), 0.9))


def _often(models: Column) -> npt.NDArray[np.bool_]:
    """Rows of models with enough points to tell overheads from what is not known of a deployment."""
    names = models.tolist()
    return np.array([names.count(name) >= FEWEST_OF_MODEL for name in names], dtype=bool)


def engines(table: Table) -> list[str]:
    """The engine generation of each serving point."""
    return [engine_of(*pair) for pair in zip(table["source"].tolist(), table["engine"].tolist(), strict=True)]


def _maker(name: str) -> str:
    return "amd" if gpu(name).compute_capability.startswith("gfx") else "nvidia"


def same_silicon(first: Gpu, second: Gpu) -> bool:
    """Whether two cards differ in memory only."""
    return first.sm_count == second.sm_count and first.half_flop_per_s == second.half_flop_per_s


def inherited(part: Coefficient, source: str) -> Coefficient:
    """A coefficient taken over from elsewhere; its interval is widened in :func:`calibrate`."""
    return replace(part, kind="inherited", source=source, n=0)


def widened(name: str, part: Coefficient, width: float) -> Coefficient:
    """An inherited coefficient with its interval stretched by a factor e**width each way, within bounds."""
    if part.kind != "inherited":
        return part
    low, high = QUANTITIES[name].bounds if name in QUANTITIES else OVERHEADS[name].bounds
    stretch = float(np.exp(width))
    return replace(
        part,
        low=min(part.value, max(low, part.low / stretch)),
        high=max(part.value, min(high, part.high * stretch)),
    )


def calibrate(study: Study, name: str) -> Calibration:
    """The calibration of one GPU from everything that bears on it."""
    steps = study.engine_steps(name)
    if steps:
        return steps.calibration
    kernels, serving = study.kernels(name), study.overheads(name)
    measured = bool(kernels.coefficients or serving)
    coefficients = study.coefficients(name)
    overheads, note = _overheads(study, name)
    for fitted in serving.values():
        coefficients = _scaled(coefficients, fitted)
    width = max(study.widening("prefill"), study.widening("decode"))
    return Calibration(
        gpu=name,
        kind="measured" if measured else "inherited",
        relative=next((one for one in chain(name) if one != name), "") if not measured else "",
        date=DATE,
        engine=ENGINE,
        note=note,
        evidence=_evidence(study, name),
        residuals={
            "prefill": _residual(study, name, "prefill"),
            "decode": _residual(study, name, "decode"),
        },
        coefficients={key: widened(key, coefficients[key], width) for key in QUANTITIES},
        overheads={
            engine: {key: widened(key, table[key], width) for key in OVERHEADS} for engine, table in overheads.items()
        },
    )


def _overheads(study: Study, name: str) -> tuple[dict[str, dict[str, Coefficient]], str]:
    own = study.overheads(name)
    out: dict[str, dict[str, Coefficient]] = {}
    unknown = max(study.widening("prefill"), study.widening("decode"))
    for engine, fitted in own.items():
        found = fitted.result
        sources = ", ".join(sorted(set(study.serving(name, engine)["source"].tolist())))
        out[engine] = {
            key: _overhead(key, found.values[key], found.intervals[key], sources, fitted.points, unknown)
            for key in TYPICAL
        }
        out[engine]["request_s"] = _request(study, name, engine)
    if ENGINE in out:
        return out, ""
    donor, _ = _overheads(study, OVERHEAD_DONOR)
    out[ENGINE] = {key: inherited(part, f"{OVERHEAD_DONOR}: serving points") for key, part in donor[ENGINE].items()}
    return out, f"engine overheads of {ENGINE} taken over from {OVERHEAD_DONOR}"


def _request(study: Study, name: str, engine: str) -> Coefficient:
    """A request's way to the engine as the latest of the GPU's published points with times to first token had it."""
    rows = study.parts(name, engine).rows
    rows = rows.where(unqueued(rows))
    pairs = zip(rows["source"].tolist(), rows["engine"].tolist(), strict=True)
    known = {era(*pair, gpu(name).compute_capability) for pair in pairs} & study.ways(engine).eras.keys()
    eras = sorted(known, key=lambda one: [word in one for word in LATEST], reverse=True)
    if not eras:
        return _overhead("request_s", 0.0, (0.0, 0.0), "", 0, 0.0)
    found = study.ways(engine).eras[eras[0]]
    return _overhead("request_s", found.whole.request_s, found.span(), eras[0], len(found.rows), 0.0)


def _overhead(
    name: str, value: float, low_high: tuple[float, float], source: str, n: int, unknown: float
) -> Coefficient:
    """A fitted overhead. Where all draws of models gave one value (there is one model, or none bears on it), it may be
    ``unknown`` (log) off."""
    least, most = OVERHEADS[name].bounds
    if unknown and low_high[1] <= low_high[0] * (1 + 1e-6):
        low_high, source = (value / np.exp(unknown), value * np.exp(unknown)), f"{source}; spread assumed"
    low, middle, high = (min(most, max(least, float(f"{part:.5g}"))) for part in (low_high[0], value, low_high[1]))
    return Coefficient(middle, min(low, middle), max(high, middle), "fitted", source, n)


def _scaled(coefficients: Mapping[str, Coefficient], fitted: ServingFit) -> dict[str, Coefficient]:
    """Inherited rates as serving points scaled them."""
    out = dict(coefficients)
    for ending in ("compute", "memory"):
        scale = fitted.result.values.get(f"{ending}_scale")
        if scale is None:
            continue
        for name, part in coefficients.items():
            if name.endswith(f"_{ending}"):
                low, high = QUANTITIES[name].bounds
                moved = [min(high, max(low, scale * number)) for number in (part.value, part.low, part.high)]
                source = f"{part.source}, times {scale:.3g} after {fitted.points} serving points"
                out[name] = replace(part, value=moved[0], low=moved[1], high=moved[2], source=source)
    return out


def _residual(study: Study, name: str, regime: Regime) -> Residual:
    """Quantiles of log(measured / predicted) expected of a model not yet seen: from serving points of models that were
    held out; without, those of held-out kernels and of steps put together from layers; without any, the measured
    GPUs', widened by what inheriting costs."""
    own = list(study.kernels(name).regimes[regime])
    if regime == "prefill":
        own += study.whole_steps(name)
    unseen = held_out_errors(study, name, regime)
    if unseen and (regime == "decode" or not own):  # to the first token a server takes time of its own
        return Residual(sum(map(len, unseen)), *(float(f"{value:.4g}") for value in next_group(unseen)))
    errors = np.concatenate(own) if own else np.array([])
    inherited_rates = not study.kernels(name).coefficients and not study.overheads(name)
    if len(errors) < FEWEST_POINTS:
        errors = np.concatenate([np.concatenate(study.kernels(one).regimes[regime]) for one, _ in TRANSFERS])
        inherited_rates = True
    q05, q50, q95 = (float(value) for value in np.quantile(errors, [0.05, 0.5, 0.95]))
    if inherited_rates:
        width = study.widening(regime)
        q05, q95 = q50 - float(np.hypot(q50 - q05, width)), q50 + float(np.hypot(q95 - q50, width))
    return Residual(0 if inherited_rates else len(errors), *(float(f"{value:.4g}") for value in (q05, q50, q95)))


def _evidence(study: Study, name: str) -> Evidence:
    """The ranges and kinds of what a GPU's coefficients rest on, each table its own or its nearest
    stand-in's."""

    def rows(table: str) -> Table:
        found = (study.measurements.table(table, one) for one in (name, *chain(name)))
        return next(part for part in found if len(part))

    gemm, experts, latent = rows("gemm"), rows("experts"), rows("latent_decode")
    prefill, decode, serving = rows("prefill_attention"), rows("decode_attention"), study.serving(name)
    formats = {"none": "bf16", "fp8": "fp8", "nvfp4": "fp4", "mxfp4": "mxfp4", "int4": "packed"}
    weights = _words(gemm["format"], experts["format"]) | {formats[one] for one in _words(serving["quantization"])}
    ranks = {int(one) for one in np.concatenate([rows("all_reduce")["ranks"], serving["tensor_parallel"]])}
    caches = _words(prefill["cache"], decode["cache"])
    tables = (gemm, experts, prefill, decode, latent, serving)
    return Evidence(
        step_tokens=_span(gemm["tokens"]),
        sequences=_span(decode["sequences"], serving["concurrency"]),
        context_tokens=_span(decode["context"], prefill["new"] + prefill["cached"], serving["prompt_tokens"]),
        tensor_parallel=(1, *(one for one in TENSOR_PARALLEL if one in ranks)),
        weight_formats=tuple(one for one in WEIGHT_FORMATS if one in weights),
        cache_formats=tuple(one for one in CACHE_FORMATS if one in caches),
        families=("dense", "experts", "latent"),
        sources=tuple(sorted(_words(*(part["source"] for part in tables)))),
    )


def _span(*columns: Column) -> tuple[int, int]:
    together = np.concatenate([column.astype(float) for column in columns])
    return max(1, int(together.min())), int(together.max())


def _words(*columns: Column) -> set[str]:
    return {str(word) for column in columns for word in column.tolist()}


def report(study: Study, names: Sequence[str]) -> str:
    """How well points are predicted, a line for each GPU and table: fitted, then held out."""
    lines = [f"{'GPU':<20}{'table':<34}{'fitted':^32}  {'held out':^32}", " " * 54 + f"{COLUMNS}  {COLUMNS}"]
    for name in names:
        steps = study.engine_steps(name)
        if steps:
            lines += [f"{name:<20}{_parts(part)}" for part in (*steps.fitted.parts, *steps.others)]
            continue
        kernels = study.kernels(name)
        parts = [(table, kernels.fitted[table], kernels.held_out[table]) for table in kernels.fitted]
        parts += [("whole steps", np.array([]), np.concatenate(steps)) for steps in [study.whole_steps(name)] if steps]
        parts += [
            (engine, fitted.result.fitted, fitted.result.held_out) for engine, fitted in study.overheads(name).items()
        ]
        for table, fitted, held_out in parts:
            lines.append(f"{name:<20}{table:<34}{_accuracy(fitted)}  {_accuracy(held_out)}")
    for regime in ("prefill", "decode"):
        errors = study.transfer(regime)
        lines.append(
            f"inheriting, {regime}: n={len(errors)}, median {np.median(np.abs(errors)):.1%}, "
            f"90 % within a factor {np.exp(study.widening(regime)):.2f}"
        )
    return "\n".join(lines)


def _parts(part: Part) -> str:
    return f"{part.kind:<34}{accuracy(part.fitted)}  {accuracy(part.held_out)}"


def _accuracy(errors: Array) -> str:
    return accuracy(Accuracy.of(errors))


def differences(made: Calibration, shipped: Calibration) -> list[str]:
    """Coefficients of a shipped calibration that a fit does not reproduce."""
    pairs = [(name, part, shipped.coefficients[name]) for name, part in made.coefficients.items()]
    nothing = {name: NEGLIGIBLE * quantity.bounds[1] for name, quantity in {**QUANTITIES, **OVERHEADS}.items()}
    for engine, table in made.overheads.items():
        if engine not in shipped.overheads:
            return [f"overheads of {engine} are missing"]
        pairs += [(f"{engine}.{name}", part, shipped.overheads[engine][name]) for name, part in table.items()]
    return [
        f"{name}: {old.value:g} shipped, {new.value:g} fitted"
        for name, new, old in pairs
        if abs(new.value - old.value) > SAME * max(abs(old.value), nothing[name.rpartition(".")[2]])
    ]


def _measured(study: Study, name: str) -> bool:
    return bool(study.engine_steps(name) or study.kernels(name).fitted or study.overheads(name))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m kvsim.calibrate.fit", description="Fit the shipped calibrations.")
    parser.add_argument("gpus", nargs="*", metavar="GPU", help="GPU ids; all by default")
    parser.add_argument("--check", action="store_true", help="compare with the shipped files instead of writing")
    parser.add_argument("--measurements", type=Path, default=PROFILES / "measurements", help="folder of tables")
    parser.add_argument("--output", type=Path, default=PROFILES / "calibrations", help="folder to write to")
    parser.add_argument("--ray", metavar="ADDRESS", help="draw intervals on a Ray cluster: host:6379, auto or local")
    options = parser.parse_args(arguments)
    if options.ray is None:
        return _fit(options)
    from ..scale import resampling

    with resampling(options.ray):
        return _fit(options)


def _fit(options: argparse.Namespace) -> int:
    study = Study(Measurements(options.measurements))
    names = options.gpus or gpus()
    wrong = 0
    for name in names:
        made, file = calibrate(study, name), options.output / f"{name}.toml"
        if not options.check:
            text = to_toml(made)
            parse_calibration(text, str(file))  # what is written can be read
            file.write_text(text, encoding="utf-8")
            continue
        for line in differences(made, parse_calibration(file.read_text(encoding="utf-8"), str(file))):
            wrong += 1
            print(f"{name}: {line}", file=sys.stderr)
    if not options.check:
        rows = [row for name in names for row in with_intervals(study, name)]
        others = [row for row in shipped_points() if row["gpu"] not in names] if options.gpus else []
        rows += [dict(row) for row in others]
        (options.output.parent / "validation.csv.gz").write_bytes(to_csv(sorted(rows, key=lambda row: str(row["gpu"]))))
    print(report(study, [name for name in names if _measured(study, name)]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
