"""A calibration: the coefficients of the law for one GPU, each with its unit, interval and evidence.

Kernel coefficients are fractions of datasheet figures (so that they carry over to a relative of the GPU) or
times of one kernel; engine overheads stand apart under the engine version they were measured on, so that a
newer engine needs only those refitted. The files are ``profiles/calibrations/<gpu id>.toml``; the command
``python -m kvsim.calibrate.fit`` writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from ._profiles import check_fields, parse_toml, read_text, shipped
from .errors import InputError, UnknownNameError

Kind = Literal["fitted", "datasheet", "inherited"]
Regime = Literal["prefill", "decode"]

WEIGHT_FORMATS = ("bf16", "fp8", "fp4", "packed", "mxfp4")
"""Packed weights are stored in fewer bits and expanded to 16 before the product (AWQ, GPTQ); so are
mxfp4's, which only experts have and which have kernels of their own."""

KERNEL_FORMATS = {"gemm": WEIGHT_FORMATS[:4], "experts": WEIGHT_FORMATS}
"""The formats that each product kernel has coefficients for."""

CACHE_FORMATS = ("bf16", "fp8")
TENSOR_PARALLEL = (2, 4, 8)


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a coefficient is: its unit, its physical bounds and its meaning."""

    unit: str
    bounds: tuple[float, float]
    meaning: str


def _quantities() -> dict[str, Quantity]:
    """Every kernel coefficient a calibration holds, by name."""
    efficiency, time = (0.01, 1.05), (0.0, 2e-4)
    out: dict[str, Quantity] = {}
    for kernel, what in (("gemm", "dense matrix products"), ("experts", "fused routed experts")):
        for fmt in KERNEL_FORMATS[kernel]:
            out[f"{kernel}_{fmt}_compute"] = Quantity(
                "of dense peak", efficiency, f"arithmetic of {what}, {fmt} weights"
            )
            out[f"{kernel}_{fmt}_memory"] = Quantity(
                "of datasheet bandwidth", efficiency, f"weights and activations of {what}, {fmt} weights"
            )
    for fmt in KERNEL_FORMATS["experts"]:
        out[f"experts_{fmt}_tile"] = Quantity(
            "tokens/expert", (0.0, 128.0), f"rows computed in vain for each expert touched, {fmt} weights"
        )
    for fmt in CACHE_FORMATS:
        out[f"prefill_{fmt}_compute"] = Quantity(
            "of dense bf16 peak", efficiency, f"arithmetic of prefill attention over a {fmt} cache"
        )
        out[f"decode_{fmt}_memory"] = Quantity(
            "of datasheet bandwidth", efficiency, f"reading a {fmt} cache while decoding, at a wide batch"
        )
        out[f"decode_{fmt}_spread"] = Quantity(
            "sequences x KV heads",
            (0.0, 32.0),
            f"parallelism at which a {fmt} cache is read at half that speed",
        )
    out["prefill_softmax_dims"] = Quantity(
        "head dimensions", (0.0, 256.0), "exponentials of a pair, as dimensions of its product"
    )
    out["prefill_tile_rows"] = Quantity(
        "query rows", (0.0, 512.0), "rows of the tile with which one multiprocessor walks a chunk's context"
    )
    out["decode_sequence_s"] = Quantity("s/sequence/layer", (0.0, 1e-6), "a decoding sequence's own part of attention")
    out["decode_latent_compute"] = Quantity(
        "of dense bf16 peak",
        efficiency,
        "arithmetic of decode attention: felt where many heads share a key (MLA), and on CPUs",
    )
    out["mixed_tile_rows"] = Quantity(
        "query rows", (0.0, 256.0), "rows computed for each decoding head in a step that also has a chunk"
    )
    out["mixed_tile_keys"] = Quantity(
        "context tokens", (0.0, 1024.0), "context that a decoding sequence's tile takes on top there to start and end"
    )
    for tp in TENSOR_PARALLEL:
        out[f"all_reduce_{tp}_latency_s"] = Quantity("s", time, f"a small all-reduce among {tp} GPUs")
        out[f"all_reduce_{tp}_bytes_per_s"] = Quantity("bytes/s", (1e8, 2e12), f"message bytes of one among {tp} GPUs")
        out[f"all_reduce_{tp}_large_latency_s"] = Quantity(
            "s", (0.0, 1.0), f"start of the algorithm that sums large messages among {tp} GPUs"
        )
        out[f"all_reduce_{tp}_large_bytes_per_s"] = Quantity(
            "bytes/s", (1e8, 2e12), f"message bytes of that algorithm among {tp} GPUs"
        )
    out["elementwise_memory"] = Quantity(
        "of datasheet bandwidth",
        efficiency,
        "norms, rotary embedding, activation: bytes moved between products",
    )
    out["sampler_passes"] = Quantity("passes", (0.5, 16.0), "times the sampler reads the fp32 logits")
    return out


QUANTITIES: Mapping[str, Quantity] = _quantities()

LATER: Mapping[str, float] = {
    "mixed_tile_rows": 0.0,
    "mixed_tile_keys": 0.0,
    "quantised_s": 0.0,
    "fused_s": 0.0,
    "reading": 1.0,
    "request_s": 0.0,
    **{f"all_reduce_{tp}_large_latency_s": 1.0 for tp in TENSOR_PARALLEL},
    **{f"all_reduce_{tp}_large_bytes_per_s": 2e12 for tp in TENSOR_PARALLEL},
}
"""Coefficients that files of earlier versions lack, with the values that price as those did."""

OVERHEADS: Mapping[str, Quantity] = {
    "step_s": Quantity("s/step", (0.0, 2e-2), "scheduling, input preparation, output of a step"),
    "layer_s": Quantity("s/layer", (0.0, 5e-3), "start and end of a plain layer's kernels, gaps between them"),
    "experts_s": Quantity(
        "s/layer", (0.0, 2e-4), "routing, sorting and summing of experts that are kernels of their own"
    ),
    "quantised_s": Quantity("s/layer", (0.0, 2e-4), "rounding the activations of a layer's products to 8 or 4 bits"),
    "ranks_s": Quantity("s/step", (0.0, 5e-3), "keeping ranks in step: once, and once more for each doubling"),
    "fused_s": Quantity("s/all-reduce", (0.0, 1e-5), "what fusing an all-reduce with the norm behind it saves"),
    "sequence_s": Quantity("s/sequence", (0.0, 5e-3), "the engine's work for each sequence of a step"),
    "reading": Quantity("times", (0.3, 3.0), "time to read the cache while decoding over that of the kernels measured"),
    "request_s": Quantity("s/request", (0.0, 0.5), "a request's way through server and client, outside of steps"),
}


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One fitted, inherited or datasheet number with its 90 % interval, source and number of points."""

    value: float
    low: float
    high: float
    kind: Kind
    source: str
    n: int


@dataclass(frozen=True, slots=True)
class Residual:
    """Spread of log(measured / predicted) on held-out points: 5 %, 50 % and 95 % quantile of ``n`` points."""

    n: int
    q05: float
    q50: float
    q95: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the coefficients rest on: ranges (lowest, highest) and kinds; beyond them the law extrapolates."""

    step_tokens: tuple[int, int]
    sequences: tuple[int, int]
    context_tokens: tuple[int, int]
    tensor_parallel: tuple[int, ...]
    weight_formats: tuple[str, ...]
    cache_formats: tuple[str, ...]
    families: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """All coefficients of the law for one GPU; hashed and compared by identity.

    ``kind`` is "measured" or "inherited"; in the second case ``relative`` names the GPU whose efficiencies
    were taken over. ``overheads`` maps an engine version to its step, layer and sequence overhead;
    ``engine`` names the one in force.
    """

    gpu: str
    kind: Literal["measured", "inherited"]
    relative: str
    date: str
    engine: str
    note: str
    evidence: Evidence
    residuals: Mapping[Regime, Residual]
    coefficients: Mapping[str, Coefficient]
    overheads: Mapping[str, Mapping[str, Coefficient]]

    def values(self) -> dict[str, float]:
        """Kernel coefficients and the engine's overheads, by name."""
        plain = {name: coefficient.value for name, coefficient in self.coefficients.items()}
        plain.update({name: coefficient.value for name, coefficient in self.overheads[self.engine].items()})
        return plain


def load_calibration(path: str | Path) -> Calibration:
    """Read a calibration file.

    Raises :class:`~kvsim.errors.InputError` for a file that cannot be read, an unknown or missing field, a
    wrong unit, or a value outside its physical bounds or its own interval.
    """
    return parse_calibration(read_text(path), str(path))


@cache
def shipped_calibration(gpu: str) -> Calibration:
    """The calibration that ships for a GPU id; UnknownNameError if none does."""
    texts = shipped("calibrations")
    if gpu not in texts:
        raise UnknownNameError("calibration", gpu, texts, remedy="Give your own file with load_calibration(path).")
    return parse_calibration(texts[gpu], f"calibrations/{gpu}.toml")


def parse_calibration(text: str, file: str) -> Calibration:
    """A calibration from its TOML text; ``file`` is named in errors."""
    return _Reader(file).calibration(parse_toml(text, file=file))


def _absent(value: float, quantity: Quantity) -> dict[str, Any]:
    """The table of a coefficient that nothing is known about."""
    return {
        "value": value,
        "unit": quantity.unit,
        "low": value,
        "high": value,
        "bounds": list(quantity.bounds),
        "kind": "datasheet",
        "source": "",
        "n": 0,
    }


class _Reader:
    """Strict conversion from TOML values; every error names the file and the field."""

    def __init__(self, file: str) -> None:
        self.file = file

    def calibration(self, data: dict[str, Any]) -> Calibration:
        self.fields(data, Calibration, "")
        kind = self.choice(data["kind"], ("measured", "inherited"), "kind")
        overheads = {
            engine: self.coefficients(table, OVERHEADS, f"overheads.{engine}")
            for engine, table in self.table(data["overheads"], "overheads").items()
        }
        engine = self.text(data["engine"], "engine")
        if engine not in overheads:
            raise self.error(f"no overheads for engine {engine!r}", "engine")
        residuals = self.table(data["residuals"], "residuals")
        self.names(residuals, get_args(Regime), "residuals")
        return Calibration(
            gpu=self.text(data["gpu"], "gpu"),
            kind="measured" if kind == "measured" else "inherited",
            relative=self.text(data["relative"], "relative"),
            date=self.text(data["date"], "date"),
            engine=engine,
            note=self.text(data["note"], "note"),
            evidence=self.evidence(self.table(data["evidence"], "evidence")),
            residuals={
                "prefill": self.residual(residuals["prefill"], "residuals.prefill"),
                "decode": self.residual(residuals["decode"], "residuals.decode"),
            },
            coefficients=self.coefficients(data["coefficients"], QUANTITIES, "coefficients"),
            overheads=overheads,
        )

    def evidence(self, data: dict[str, Any]) -> Evidence:
        self.fields(data, Evidence, "evidence")

        def integers(name: str, length: int | None = None) -> tuple[int, ...]:
            value = data[name]
            whole = isinstance(value, list) and all(type(item) is int for item in value)
            if not whole or (length is not None and len(value) != length):
                raise self.error(f"needs {length or 'some'} integers, got {value!r}", f"evidence.{name}")
            return tuple(value)

        def words(name: str) -> tuple[str, ...]:
            value = data[name]
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise self.error(f"needs a list of strings, got {value!r}", f"evidence.{name}")
            return tuple(value)

        def span(name: str) -> tuple[int, int]:
            low, high = integers(name, 2)
            return low, high

        return Evidence(
            step_tokens=span("step_tokens"),
            sequences=span("sequences"),
            context_tokens=span("context_tokens"),
            tensor_parallel=integers("tensor_parallel"),
            weight_formats=words("weight_formats"),
            cache_formats=words("cache_formats"),
            families=words("families"),
            sources=words("sources"),
        )

    def residual(self, value: object, field: str) -> Residual:
        data = self.table(value, field)
        self.fields(data, Residual, field)
        q05, q50, q95 = (self.number(data[name], f"{field}.{name}") for name in ("q05", "q50", "q95"))
        if not q05 <= q50 <= q95:
            raise self.error("quantiles are not in order", field)
        return Residual(self.count(data["n"], f"{field}.n"), q05, q50, q95)

    def coefficients(self, value: object, quantities: Mapping[str, Quantity], field: str) -> dict[str, Coefficient]:
        data = self.table(value, field)
        for name in LATER.keys() & quantities.keys() - data.keys():
            data[name] = _absent(LATER[name], quantities[name])
        self.names(data, quantities, field)
        return {name: self.coefficient(data[name], quantities[name], f"{field}.{name}") for name in quantities}

    def coefficient(self, value: object, quantity: Quantity, field: str) -> Coefficient:
        data = self.table(value, field)
        self.names(data, ("value", "unit", "low", "high", "bounds", "kind", "source", "n"), field)
        if data["unit"] != quantity.unit:
            raise self.error(f"unit {data['unit']!r} where {quantity.unit!r} belongs", field)
        if data["bounds"] != list(quantity.bounds):
            raise self.error(f"bounds {data['bounds']!r} where {list(quantity.bounds)} belong", field)
        number, low, high = (self.number(data[name], f"{field}.{name}") for name in ("value", "low", "high"))
        least, most = quantity.bounds
        if not least <= number <= most:
            raise self.error(f"{number:g} is outside the physical bounds {least:g} to {most:g}", field)
        if not low <= number <= high:
            raise self.error(f"{number:g} is outside its own interval {low:g} to {high:g}", field)
        return Coefficient(
            number,
            low,
            high,
            self.kind(data["kind"], f"{field}.kind"),
            self.text(data["source"], f"{field}.source"),
            self.count(data["n"], f"{field}.n"),
        )

    def kind(self, value: object, field: str) -> Kind:
        for kind in get_args(Kind):
            if value == kind:
                return kind  # type: ignore[no-any-return]
        raise self.error(f"{value!r} is none of {', '.join(get_args(Kind))}", field)

    def fields(self, data: Mapping[str, object], shape: type, field: str) -> None:
        self.names(data, shape.__dataclass_fields__, field)  # type: ignore[attr-defined]

    def names(self, data: Mapping[str, object], wanted: Iterable[str], field: str) -> None:
        check_fields(data, file=self.file, required=wanted, under=field)

    def table(self, value: object, field: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.error(f"needs a table, got {value!r}", field)
        return value

    def text(self, value: object, field: str) -> str:
        if not isinstance(value, str):
            raise self.error(f"needs a string, got {value!r}", field)
        return value

    def choice(self, value: object, allowed: tuple[str, ...], field: str) -> str:
        if value not in allowed:
            raise self.error(f"{value!r} is none of {', '.join(allowed)}", field)
        return str(value)

    def number(self, value: object, field: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            raise self.error(f"needs a number, got {value!r}", field)
        return float(value)

    def count(self, value: object, field: str) -> int:
        if type(value) is not int or value < 0:
            raise self.error(f"needs a count, got {value!r}", field)
        return value

    def error(self, problem: str, field: str) -> InputError:
        return InputError(problem, file=self.file, field=field)
