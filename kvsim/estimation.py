"""``estimate``: what each trajectory costs alone under a declared load, in closed form per turn."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt

from kvsim._door import MAX_TOTAL_NS
from kvsim.backends import get, kernels
from kvsim.backends.interface import empty_columns
from kvsim.backends.kernels import OK, TOTALS, PriceColumns
from kvsim.backends.rates import rates
from kvsim.cores import threads_of
from kvsim.device import DeviceBatch, DeviceEstimate, require_device
from kvsim.errors import InputError
from kvsim.load import Load
from kvsim.pricing import Pricing, require_price, resolve_pricing
from kvsim.result import STATUSES, Costed, Table, seconds
from kvsim.uncertainty import Interval, Uncertainty, largest

if TYPE_CHECKING:
    from pathlib import Path

    from kvsim.architecture import Architecture
    from kvsim.backends.interface import Backend, Ints
    from kvsim.calibration import Calibration
    from kvsim.engine import EngineConfig
    from kvsim.hardware import Gpu
    from kvsim.trajectory import Batch

__all__ = ["Estimate", "Load", "estimate"]

Floats = npt.NDArray[np.float64]
_COLUMN = {name: column for column, name in enumerate(TOTALS)}


@overload
def estimate(
    batch: Batch,
    *,
    model: str | Architecture,
    gpu: str | Gpu,
    load: Load | None = None,
    engine: EngineConfig | None = None,
    backend: str = "auto",
    calibration: str | Path | Calibration | None = None,
    usd_per_hour: float | None = None,
    strict: bool = False,
    reuse: Estimate | None = None,
    threads: int | str = 1,
) -> Estimate: ...


@overload
def estimate(
    batch: DeviceBatch,
    *,
    model: str | Architecture,
    gpu: str | Gpu,
    load: Load | None = None,
    engine: EngineConfig | None = None,
    backend: str = "auto",
    calibration: str | Path | Calibration | None = None,
    usd_per_hour: float | None = None,
    strict: bool = False,
    reuse: None = None,
    threads: int | str = 1,
) -> DeviceEstimate: ...


def estimate(
    batch: Batch | DeviceBatch,
    *,
    model: str | Architecture,
    gpu: str | Gpu,
    load: Load | None = None,
    engine: EngineConfig | None = None,
    backend: str = "auto",
    calibration: str | Path | Calibration | None = None,
    usd_per_hour: float | None = None,
    strict: bool = False,
    reuse: Estimate | None = None,
    threads: int | str = 1,
) -> Estimate | DeviceEstimate:
    """Price every turn of a batch on a GPU, each trajectory alone beside the declared load.

    model: hub name, or path of a config.json. gpu: id such as ``"h100-sxm"``, or path of a TOML file.
    load, engine: by default alone without churn, and vLLM's defaults for that GPU.
    backend: ``"auto"``, ``"native"``, ``"numba"``, ``"reference"`` or ``"cuda"``; all give the same bits. A
        :class:`kvsim.DeviceBatch` is priced where it is.
    calibration: a file or object in place of the one that ships for the GPU.
    usd_per_hour: price of one GPU in place of the marketplace price.
    strict: turns beyond the model's maximum or the card's capacity are an error instead of a status, and so is what
        lies beyond the calibration's evidence.
    reuse: an earlier estimate of as many turns, no longer needed, whose buffers for columns of turns are taken over.
    threads: how many threads price, or ``"auto"``: one a core. Each takes whole trajectories with all that they depend
        on, so that no bit depends on how many there are. One by default: callers often run processes of their own.
        Only ``"native"`` uses more, where the batch is large enough to gain by it (32,768 turns a thread); with
        ``"cuda"`` so many copy to and from the device.

    A turn's prompt tokens that nothing cached are prefilled in chunks, each chunk in a step with one decoding token
    of every other sequence; its output tokens but the first take one decode step each, all sequences decoding.
    Raises :class:`kvsim.errors.KvsimError` for unknown names and for a model that does not fit.
    """
    if isinstance(batch, DeviceBatch):
        require_device(backend)
        require_price(usd_per_hour)
        on_device = DeviceEstimate(batch, resolve_pricing(model, gpu, engine, load, calibration), usd_per_hour)
        if strict:
            on_device.require_priced()
            on_device.uncertainty.refuse_extrapolation()
        return on_device
    chosen = get(backend)
    pricing = resolve_pricing(model, gpu, engine, load, calibration)
    require_price(usd_per_hour)
    result = Estimate(batch, pricing, chosen, usd_per_hour, reuse, threads_of(threads))
    if strict:
        result.require_priced()
        result.uncertainty.refuse_extrapolation()
    return result


class Estimate(Costed):
    """Prices of a batch: one value a trajectory here, one a turn in :attr:`turns`.

    Trajectories with a turn that could not be priced (see ``turns["status"]``) are NaN.
    """

    def __init__(
        self,
        batch: Batch,
        pricing: Pricing,
        backend: Backend,
        usd_per_hour: float | None = None,
        reuse: Estimate | None = None,
        threads: int = 1,
    ) -> None:
        self.batch = batch
        self.pricing = pricing
        self.backend = backend.name
        self._threads = threads
        self._usd_per_hour = usd_per_hour
        require_clock(batch, pricing)
        self._buffers = reuse.release_buffers(batch.turns) if reuse is not None else None
        priced = backend.estimate(pricing.handle(backend), batch.packed(backend), None, threads)
        self._totals = priced.totals
        self._held_block_ns = priced.held_block_ns

    @property
    def priced(self) -> npt.NDArray[np.bool_]:
        """Whether all turns of the trajectory could be priced, shape (trajectories,)."""
        priced: npt.NDArray[np.bool_] = self._total("unpriced_turns") == 0
        return priced

    @property
    def latency_s(self) -> Floats:
        """Last finish minus first arrival, tool pauses included (over the DAG of turns)."""
        return seconds(self._total("last_finish_ns") - self._total("first_release_ns"), self._unpriced)

    @property
    def model_s(self) -> Floats:
        """Time in the model: the sum of the turns' ``e2e_s``."""
        parts = self._total("fresh_ns") + self._total("recompute_ns") + self._total("decode_ns")
        return seconds(parts, self._unpriced)

    @property
    def fresh_prefill_s(self) -> Floats:
        """Prefill of tokens that were never in the cache."""
        return seconds(self._total("fresh_ns"), self._unpriced)

    @property
    def recompute_s(self) -> Floats:
        """Prefill of tokens that had been in the cache and were evicted."""
        return seconds(self._total("recompute_ns"), self._unpriced)

    @property
    def decode_s(self) -> Floats:
        """Decode steps after the first token."""
        return seconds(self._total("decode_ns"), self._unpriced)

    @property
    def gpu_s(self) -> Floats:
        """GPU-seconds: model time x tensor_parallel_size, divided by the load's concurrency."""
        return self.gpu_s_of(self.model_s)

    def gpu_s_of(self, model_s: Floats) -> Floats:
        """GPU-seconds of seconds in the model."""
        return model_s * self.pricing.gpus_per_second

    @property
    def kv_byte_s(self) -> Floats:
        """KV-cache bytes held (all ranks) x seconds, pauses through which they stayed included."""
        return seconds(self._held_block_ns * self.pricing.kv_bytes_per_block, self._unpriced)

    @property
    def estimated_share(self) -> float:
        """The share of new and output tokens that were estimated from text rather than logged, 0 to 1."""
        return self.batch.estimated_share

    @property
    def cached_tokens(self) -> Ints:
        """Prompt tokens found in the cache."""
        return self._total("cached_tokens").copy()

    @property
    def recomputed_tokens(self) -> Ints:
        """Prompt tokens that had been in the cache and were evicted."""
        return self._total("recomputed_tokens").copy()

    @cached_property
    def uncertainty(self) -> Uncertainty:
        """How far its times may be off, and what of the batch lies beyond the evidence."""
        return self.pricing.uncertainty(**self.extremes)

    @cached_property
    def extremes(self) -> dict[str, int]:
        """The largest prefill, the sequences in a step and the longest context that were priced; 0 for none."""
        batch, priced = self.batch, self._columns.status == OK
        return {
            "prefilled_tokens": largest((batch.prompt_tokens - self._columns.cached_tokens)[priced]),
            "sequences": self.pricing.load.concurrent,
            "context_tokens": largest((batch.prompt_tokens + batch.output_tokens)[priced]),
        }

    @cached_property
    def interval(self) -> Interval[Estimate]:
        """The 90 % interval of every value: the batch priced again with shorter and with longer steps."""
        sure = self.uncertainty

        def end(prefill: float, decode: float) -> Estimate:
            pricing = self.pricing.scaled(prefill, decode)
            return Estimate(self.batch, pricing, get(self.backend), self._usd_per_hour, threads=self._threads)

        return Interval(end(sure.prefill.low, sure.decode.low), end(sure.prefill.high, sure.decode.high), self, sure)

    @cached_property
    def turns(self) -> Table:
        """One value a turn, rows as in the batch. Columns:

        ``ttft_s e2e_s queue_s fresh_prefill_s recompute_s decode_s pause_s release_s finish_s gpu_s kv_byte_s``
        (NaN where not priced), ``cached_tokens recomputed_tokens preemptions`` (integers) and ``status`` (text:
        ``ok``, ``over_max`` beyond max_model_len, ``over_capacity`` beyond the KV cache).
        ``e2e_s`` is queue + fresh prefill + recompute + decode; ``queue_s`` is 0 in an estimate. ``release_s`` and
        ``finish_s`` count from the batch's origin of time; ``pause_s`` precedes the turn.
        """
        column = self._columns
        unknown = None if self._unpriced is None else column.status != OK
        rows = self.batch.turns

        def e2e() -> Floats:
            return seconds(column.fresh_ns + column.recompute_ns + column.decode_ns, unknown)

        return Table(
            rows,
            {
                "ttft_s": lambda: seconds(column.fresh_ns + column.recompute_ns, unknown),
                "e2e_s": e2e,
                "queue_s": lambda: seconds(np.zeros(rows, np.int64), unknown),
                "fresh_prefill_s": lambda: seconds(column.fresh_ns, unknown),
                "recompute_s": lambda: seconds(column.recompute_ns, unknown),
                "decode_s": lambda: seconds(column.decode_ns, unknown),
                "pause_s": lambda: seconds(self.batch.pause_ns, None),
                "release_s": lambda: seconds(column.release_ns, unknown),
                "finish_s": lambda: seconds(
                    column.release_ns + column.fresh_ns + column.recompute_ns + column.decode_ns, unknown
                ),
                "gpu_s": lambda: self.gpu_s_of(e2e()),
                "kv_byte_s": lambda: seconds(column.held_block_ns * self.pricing.kv_bytes_per_block, unknown),
                "cached_tokens": lambda: column.cached_tokens,
                "recomputed_tokens": lambda: column.recomputed_tokens,
                "preemptions": lambda: np.zeros(rows, np.int64),
                "status": lambda: np.array(STATUSES)[column.status],
            },
        )

    @property
    def model_ns(self) -> Ints:
        """Time in the model of every turn in nanoseconds, shape (rows,); 0 where not priced."""
        return self._columns.fresh_ns + self._columns.recompute_ns + self._columns.decode_ns

    @property
    def columns(self) -> PriceColumns:
        """Whole nanoseconds and tokens, one value a turn; 0 where not priced."""
        return self._columns

    @property
    def pauses_ns(self) -> Ints:
        """Nanoseconds from the release of every turn back to the finish it waited for; 0 where it came by itself."""
        return np.where(self.batch.waits, self.batch.pause_ns, 0)

    @property
    def held_block_ns(self) -> Floats:
        """KV blocks held by every turn times nanoseconds, shape (rows,)."""
        return self._columns.held_block_ns

    @property
    def span_ns(self) -> tuple[Ints, Ints]:
        """When every turn was released and when it finished, in nanoseconds, shapes (rows,)."""
        return self._columns.release_ns, self._columns.release_ns + self.model_ns

    @cached_property
    def status_counts(self) -> dict[str, int]:
        """How many turns have each status, those with none left out."""
        counts = np.bincount(self._columns.status, minlength=len(STATUSES))
        return {name: int(count) for name, count in zip(STATUSES, counts, strict=True) if count}

    def release_buffers(self, turns: int) -> PriceColumns | None:
        """Give up the columns of turns, for another estimate to overwrite; None where they do not have that length."""
        columns: PriceColumns | None = self.__dict__.pop("_columns", None)
        self.__dict__.pop("turns", None)
        return columns if columns is not None and len(columns.status) == turns else None

    def require_priced(self) -> None:
        """Raise :class:`InputError` naming the first turn that could not be priced, if there is one."""
        if self._unpriced is None:
            return
        row = int(np.flatnonzero(self._columns.status != OK)[0])
        batch, engine = self.batch, self.pricing.engine
        tokens = int(batch.prompt_tokens[row] + batch.output_tokens[row])
        limits = {"over_max": engine.max_model_len, "over_capacity": engine.kv_capacity_tokens - engine.block_size}
        status = STATUSES[self._columns.status[row]]
        raise InputError(
            f"a turn of trajectory {batch.ids[batch.trajectory[row]]!r} (row {row}) has {tokens} tokens, "
            f"{status.replace('_', ' ')} of {limits[status]}; so have {int(self._unpriced.sum())} trajectories",
            field="prompt_tokens",
            remedy="Choose a longer max_model_len, a model or GPU with more room, or leave out strict",
        )

    @cached_property
    def _columns(self) -> PriceColumns:
        backend = get(self.backend)
        columns = self._buffers if self._buffers is not None else empty_columns(self.batch.turns)
        backend.estimate(self.pricing.handle(backend), self.batch.packed(backend), columns, self._threads)
        return columns

    @cached_property
    def _unpriced(self) -> npt.NDArray[np.bool_] | None:
        """Which trajectories could not be priced; None where all could."""
        unpriced = self._total("unpriced_turns")
        return unpriced > 0 if np.count_nonzero(unpriced) else None

    def _total(self, name: str) -> Ints:
        return self._totals[:, _COLUMN[name]]


def require_clock(batch: Batch | DeviceBatch, pricing: Pricing) -> None:
    """Refuse a batch whose turns together could take longer than 64-bit nanoseconds count."""
    law = pricing.law
    if batch.turns << (62 - law.fraction_bits) <= MAX_TOTAL_NS:  # no turn takes 2^62 of the law's units
        return
    prompt, output = batch.longest
    longest = pricing.engine.max_model_len
    made, step = rates(law, pricing.engine, pricing.load)
    units = int(kernels.prefill_time(made, step, 0, min(prompt, longest)))
    units += int(kernels.decode_time(made, min(prompt, longest), min(output, longest)))
    if batch.turns * (units >> law.fraction_bits) > MAX_TOTAL_NS:
        raise InputError(
            f"{batch.turns} turns of up to {prompt} + {output} tokens could take longer than a 64-bit clock counts",
            field="prompt_tokens",
            remedy="Split the batch",
        )
