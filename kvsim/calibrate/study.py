"""What measurements say of each GPU: the fits that calibrations are put together from, made when first needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..calibration import Coefficient, Regime
from ..hardware import Gpu, gpu, gpus
from ..law import device_of
from .client import NO_WAY, Found, Way, era, ways
from .closed_loop import closed_loops
from .coefficients import inherited
from .engine_steps import EngineSteps, engine_steps
from .findings import Findings
from .kernels import kernel_findings
from .measurements import Column, Measurements, Table
from .relatives import TILES_OF_THEIR_OWN, TRANSFERS, chain
from .robust import Array
from .serving import TYPICAL, ServingFit, engine_of, expectations, fit_overheads, fits_in_memory, with_scales
from .validation import Errors, Parts, errors_of, parts_of, points
from .whole_steps import MODELS, whole_steps

ENGINE = "vllm-1"
"""The engine generation in force; the others' overheads are kept beside it for old measurements."""

FEWEST_POINTS = 8
"""Serving points below which overheads are inherited."""

FEWEST_OF_MODEL = 3
"""Points of a model below which they are predicted, not fitted."""

OVERHEAD_DONOR = "h100-sxm"
"""Whose engine overheads stand in where a GPU has too few serving points: they come from the host and the
launches, and the steadiest points of most models were taken on it."""


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
