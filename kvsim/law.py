"""The law as integer tables: the only thing the pricing backends know about time.

:func:`build_law` tabulates :class:`~kvsim.costs.Costs` once; from then on the time of a step is additions
and multiplications of integers (docs/architecture.md gives the formula), so that every backend gets the
same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ._once import once
from .architecture import Architecture
from .calibration import Calibration
from .costs import GROUPS, Costs, Storage
from .engine import Engine
from .errors import InputError
from .hardware import Gpu
from .terms import Device, Rates

MOST_FRACTION_BITS = 20
"""A millionth of a nanosecond: finer than any coefficient is known."""

MONOLITHIC: Mapping[str, frozenset[str]] = {
    "9": frozenset({"mxfp4"}),
    "10": frozenset({"bf16", "fp8", "fp4", "mxfp4"}),
}
"""By major compute capability, formats whose routed experts vLLM runs as one operation: Triton's kernels for gpt-oss,
FlashInfer's from TensorRT-LLM."""

FUSED_REDUCE_MIB: Mapping[str, Mapping[int, float]] = {"9": {2: 64, 4: 2, 8: 0.5}, "10": {2: 64, 4: 32, 8: 1}}
"""By major compute capability and ranks, the largest message (MiB) whose all-reduce vLLM fuses with a norm
(FI_ALLREDUCE_FUSION_MAX_SIZE_MB of vllm.compilation.passes.fusion.allreduce_rms_fusion)."""

HORIZON = 2**62
"""Accumulated times stay below this, so that 64-bit sums of two of them do not overflow."""

Table = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AttentionTable:
    """One attention group's coefficients: per pair, per context token of a chunk, and per context token of a
    decoding sequence by the number of sequences that decode, alone (``decode``) and in a step that also has a chunk
    (``mixed``); entry 0 of both is 0."""

    pair: int
    context: int
    decode: Table
    mixed: Table


@dataclass(frozen=True, slots=True)
class Law:
    """Times in units of ``2**-fraction_bits`` nanoseconds.

    ``step`` is indexed by the tokens of a step (0 to max_num_batched_tokens), ``sequences`` and the groups'
    ``decode`` by sequences (0 to max_num_seqs); entry 0 of each is 0. ``window`` is the most tokens that the
    windowed group reads, 0 if the model has none (its coefficients are then 0). ``tile_keys`` is how much context
    each sequence that decodes beside a chunk seems to read on top of its own.
    """

    fraction_bits: int
    step: Table
    sequences: Table
    window: int
    tile_keys: int
    full: AttentionTable
    windowed: AttentionTable

    def seconds(self, units: int) -> float:
        """A sum of table entries as seconds."""
        return units / (1e9 * 2.0**self.fraction_bits)


def build_law(
    architecture: Architecture, engine: Engine, gpu: Gpu, calibration: Calibration, *, held_tokens: int = 0
) -> Law:
    """The law of a model under an engine's settings on a GPU.

    ``held_tokens`` is the most context that the sequences of one step hold together, where that is more than the KV
    cache holds (a load declared by hand). ``fraction_bits`` is the largest up to 20 with which no turn the engine can
    hold overflows (:func:`check_horizon`). Raises InputError where not even whole nanoseconds would fit.
    """
    storage = Storage.of(engine.weights, engine.kv_cache_dtype, engine.dtype)
    ranks, tokens, sequences = engine.tensor_parallel_size, engine.max_num_batched_tokens, engine.max_num_seqs
    known = _step_seconds_of(architecture, ranks, storage, gpu, calibration, tokens, sequences)
    return known.law(engine.max_model_len, _held_tokens(engine, held_tokens))


@once(maxsize=64)
def _step_seconds_of(
    architecture: Architecture,
    ranks: int,
    storage: Storage,
    gpu: Gpu,
    calibration: Calibration,
    tokens: int,
    sequences: int,
) -> StepSeconds:
    """What engines share that differ in their KV cache alone."""
    return StepSeconds(Costs(architecture, ranks, storage, _rates(gpu, calibration.values())), tokens, sequences)


def law_of(costs: StepCosts, engine: Engine, *, held_tokens: int = 0) -> Law:
    """:func:`build_law` of terms that are known."""
    return tabulate(
        costs,
        tokens=engine.max_num_batched_tokens,
        sequences=engine.max_num_seqs,
        max_model_len=engine.max_model_len,
        held_tokens=_held_tokens(engine, held_tokens),
    )


def _held_tokens(engine: Engine, declared: int) -> int:
    """Context of all sequences of a step: what is declared, or what fits the cache if that is more."""
    return max(declared, min(engine.kv_capacity_tokens, engine.max_num_seqs * engine.max_model_len))


def costs_of(architecture: Architecture, engine: Engine, gpu: Gpu, values: Mapping[str, float]) -> Costs:
    """The terms behind a law, in seconds; ``values`` are a calibration's, by name."""
    storage = Storage.of(engine.weights, engine.kv_cache_dtype, engine.dtype)
    return Costs(architecture, engine.tensor_parallel_size, storage, _rates(gpu, values))


def _rates(gpu: Gpu, values: Mapping[str, float]) -> Rates:
    return Rates(values, device_of(gpu))


def device_of(gpu: Gpu) -> Device:
    """The datasheet figures that the law rests on."""
    peak = {"bf16": gpu.half_flop_per_s, "fp8": gpu.fp8_flop_per_s, "fp4": gpu.fp4_flop_per_s}
    generation = gpu.compute_capability.partition(".")[0]
    return Device(
        peak={name: value for name, value in peak.items() if value},
        bandwidth=gpu.memory_bandwidth_byte_per_s,
        multiprocessors=gpu.sm_count,
        cache_bytes=0.0 if gpu.is_processor else gpu.l2_bytes,
        overlaps=not gpu.is_processor,
        monolithic=MONOLITHIC.get(generation, frozenset()),
        fused_reduce_bytes={
            ranks: mebibytes * 2**20 for ranks, mebibytes in FUSED_REDUCE_MIB.get(generation, {}).items()
        },
    )


class StepCosts(Protocol):
    """Seconds of a step's parts, as :class:`~kvsim.costs.Costs` has them from a model and a GPU."""

    def step_s(self, tokens: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """By tokens in the step."""
        ...

    def sequences_s(self, sequences: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """By sequences in the step."""
        ...

    def decode_s(self, group: str, sequences: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """A context token of a decoding sequence, by how many decode."""
        ...

    def mixed_s(self, group: str, sequences: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The same in a step that also has a chunk."""
        ...

    def tile_keys(self) -> int:
        """Context that each sequence decoding beside a chunk seems to read on top of its own."""
        ...

    def pair_s(self, group: str) -> float:
        """A pair of a chunk."""
        ...

    def context_s(self, group: str) -> float:
        """A context token of a chunk."""
        ...

    def window(self) -> int:
        """The most tokens that the windowed group reads, 0 without one."""
        ...


def tabulate(costs: StepCosts, *, tokens: int, sequences: int, max_model_len: int, held_tokens: int) -> Law:
    """Integer tables for up to ``tokens`` and ``sequences`` in a step.

    ``max_model_len`` and ``held_tokens`` (context tokens that all sequences of a step hold together) bound
    the horizon.
    """
    return StepSeconds(costs, tokens, sequences).law(max_model_len, held_tokens)


class StepSeconds:
    """A step's parts in seconds, by tokens and by sequences; and as laws, one for each unit of time."""

    def __init__(self, costs: StepCosts, tokens: int, sequences: int) -> None:
        counts = np.arange(1, sequences + 1, dtype=np.float64)
        self._step = costs.step_s(np.arange(1, tokens + 1, dtype=np.float64))
        self._per_step = costs.sequences_s(counts)
        self._decode = {group: costs.decode_s(group, counts) for group in GROUPS}
        self._mixed = {group: costs.mixed_s(group, counts) for group in GROUPS}
        self._tile_keys = costs.tile_keys()
        self._pair = {group: costs.pair_s(group) for group in GROUPS}
        self._context = {group: costs.context_s(group) for group in GROUPS}
        self._window = costs.window()
        self._sequences = sequences
        self._longest = {
            "step": float(self._step.max() + self._per_step.max()),
            "pair": sum(self._pair.values()),
            "context": sum(self._context.values()),
            "decode": float(sum(np.maximum(self._decode[name], self._mixed[name]).max() for name in GROUPS)),
        }
        self._laws: dict[int, Law] = {}

    def law(self, max_model_len: int, held_tokens: int) -> Law:
        """The law in the finest unit in which no turn overflows; the same object for equal units."""
        held_tokens += self._tile_keys * self._sequences
        worst = _worst_turn(**self._longest, max_model_len=max_model_len, held_tokens=held_tokens)
        bits = int(np.floor(np.log2(HORIZON / (1e9 * worst)))) - 1  # one bit for what rounding adds
        if bits < 0:
            raise InputError(
                f"a turn of {max_model_len} tokens could take {worst:.3g} s, beyond what 64-bit nanoseconds hold",
                remedy="Lower max_model_len.",
                field="max_model_len",
            )
        bits = min(bits, MOST_FRACTION_BITS)
        if bits not in self._laws:
            self._laws[bits] = self._rounded(bits)
        return self._laws[bits]

    def _rounded(self, bits: int) -> Law:
        unit = 1e9 * 2.0**bits

        def table(seconds: npt.NDArray[np.float64]) -> Table:
            made = np.concatenate(([0], np.rint(seconds * unit))).astype(np.int64)
            made.flags.writeable = False  # all who ask for this unit share it
            return made

        def group(name: str) -> AttentionTable:
            return AttentionTable(
                round(self._pair[name] * unit),
                round(self._context[name] * unit),
                table(self._decode[name]),
                table(self._mixed[name]),
            )

        return Law(
            bits,
            table(self._step),
            table(self._per_step),
            self._window,
            self._tile_keys,
            group("full"),
            group("window"),
        )


def check_horizon(law: Law, *, max_model_len: int, held_tokens: int) -> None:
    """Refuse a law with which one turn's time might not fit 62 bits.

    The worst turn prefills a context of ``max_model_len`` tokens, a token a step, and decodes as many, every
    step as long as the tables' longest beside sequences that hold ``held_tokens`` of context together.
    Raises InputError naming the remedy.
    """
    groups = (law.full, law.windowed)
    worst = _worst_turn(
        step=int(law.step.max()) + int(law.sequences.max()),
        pair=sum(group.pair for group in groups),
        context=sum(group.context for group in groups),
        decode=sum(int(max(group.decode.max(), group.mixed.max())) for group in groups),
        max_model_len=max_model_len,
        held_tokens=held_tokens + law.tile_keys * (len(law.sequences) - 1),
    )
    if worst >= HORIZON:
        raise InputError(
            f"a turn of {max_model_len} tokens beside {held_tokens} tokens of context could overflow 64 bits",
            remedy="Build the law for this context and load.",
            field="max_model_len",
        )


def _worst_turn(
    *, step: float, pair: float, context: float, decode: float, max_model_len: int, held_tokens: int
) -> float:
    """An upper bound of one turn's time, in the unit of its arguments (Python integers do not overflow)."""
    pairs = max_model_len * (max_model_len + 1) // 2
    return pair * pairs + max_model_len * (2 * step + context * max_model_len + 2 * decode * held_tokens)
