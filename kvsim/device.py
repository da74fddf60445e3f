"""Rollouts that are on a GPU already, priced there: no column travels, and prices stay there too.

    batch = kvsim.DeviceBatch.from_columns(parent=parent, kept_tokens=kept, ...)  # torch or CuPy, int64, on the device
    price = kvsim.estimate(batch, model="Qwen/Qwen3-8B", gpu="h100-sxm")
    costs = torch.from_dlpack(price.gpu_s)

The GPU that prices has nothing to do with the ``gpu`` that is priced.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from kvsim._door import MAX_NS, MAX_TOKENS, MAX_TOTAL_NS, REMEDIES
from kvsim.backends.kernels import TOTALS, PriceColumns
from kvsim.errors import InputError
from kvsim.result import Costed, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvsim.backends.cuda import CudaBackend
    from kvsim.pricing import Pricing
    from kvsim.uncertainty import Uncertainty

_BOUNDS = {
    "prompt_tokens": f"1 to {MAX_TOKENS}",
    "output_tokens": f"0 to {MAX_TOKENS}",
    "pause_ns": f"0 to {MAX_NS}",
    "arrival_ns": f"0 to {MAX_NS}",
}
_COLUMN = {name: column for column, name in enumerate(TOTALS)}


class DeviceBatch:
    """Turns in columns on a CUDA device, one row a turn, checked there; ``len(batch)`` is the number of trajectories.

    Build one with :meth:`from_columns`. Columns mean what they mean in :class:`kvsim.Batch`; named prefixes, tools,
    priorities, segments and logged times are for batches in host memory.
    """

    def __init__(self, backend: CudaBackend, turns: Any) -> None:
        self.backend = backend
        self.resident = turns

    @classmethod
    def from_columns(
        cls,
        *,
        parent: Any,
        kept_tokens: Any,
        prompt_tokens: Any,
        output_tokens: Any,
        pause_ns: Any,
        arrival_ns: Any,
        trajectory: Any,
        after: Any | None = None,
        waits_for: tuple[Any, Any] | None = None,
        cached_tokens: Any | None = None,
    ) -> DeviceBatch:
        """A batch from int64 arrays on one device: whatever has ``__dlpack__`` or ``__cuda_array_interface__``.

        ``waits_for`` is a pair (offsets, rows), packed as in :class:`kvsim.trajectory.Ragged`. Arrays are not copied:
        do not change them afterwards. Where trajectories do not stand one after the other, depend on each other, or
        rows stand before those they need, what depends on what is read back once to find an order.
        Raises :class:`InputError` naming the row, the field and the remedy, and
        :class:`kvsim.errors.BackendUnavailableError` without a device.
        """
        from kvsim.backends.cuda import chosen

        backend = chosen()
        offsets, rows = (None, None) if waits_for is None else waits_for
        turns = backend.resident(
            parent=parent,
            after=after,
            kept_tokens=kept_tokens,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            pause_ns=pause_ns,
            arrival_ns=arrival_ns,
            trajectory=trajectory,
            waits_offsets=offsets,
            waits_rows=rows,
            cached_tokens=cached_tokens,
        )
        if turns.fault is not None:
            _refuse(*turns.fault)
        facts = turns.facts
        if facts["pauses_ns"] + facts["last_arrival_ns"] > MAX_TOTAL_NS:
            raise InputError(
                "all pauses together exceed 2^61 ns, so that timestamps would overflow",
                field="pause_ns",
                remedy="Split the batch, or check the units",
            )
        return cls(backend, turns)

    def __len__(self) -> int:
        return int(self.resident.trajectories)

    @property
    def turns(self) -> int:
        """How many turns (rows) the batch holds."""
        return int(self.resident.rows)

    @property
    def longest(self) -> tuple[int, int]:
        """The most prompt and the most output tokens that a turn has."""
        facts = self.resident.facts
        return facts["most_prompt"], facts["most_output"]

    @property
    def apart(self) -> bool:
        """Whether no trajectory depends on another."""
        return bool(self.resident.facts["apart"])

    def within(self, tokens: int) -> DeviceBatch:
        """The batch with every turn cut to that many tokens, the prompt first; itself where none is longer."""
        if self.resident.facts["most_tokens"] <= tokens:
            return self
        return DeviceBatch(self.backend, self.backend.call(self.resident.within, tokens))


class DeviceEstimate(Costed):
    """Prices of a batch on the device: values as :class:`kvsim.Estimate` has them, bit for bit, in arrays there.

    Each array hands itself over by ``__dlpack__`` and ``__cuda_array_interface__`` and has ``numpy()`` for a copy in
    host memory. What is not asked for is not computed.
    """

    backend = "cuda"

    def __init__(self, batch: DeviceBatch, pricing: Pricing, usd_per_hour: float | None = None) -> None:
        from kvsim.estimation import require_clock

        require_clock(batch, pricing)
        self.batch = batch
        self.pricing = pricing
        self._usd_per_hour = usd_per_hour
        self._totals, self._held_block_ns, _ = self._price(with_columns=False)

    @property
    def unpriced_turns(self) -> Any:
        """How many turns of each trajectory could not be priced."""
        return self._total("unpriced_turns")

    @property
    def latency_s(self) -> Any:
        """Last finish minus first arrival, tool pauses included."""
        return self._seconds(["last_finish_ns"], minus="first_release_ns")

    @property
    def model_s(self) -> Any:
        """Time in the model."""
        return self._seconds(["fresh_ns", "recompute_ns", "decode_ns"])

    @property
    def fresh_prefill_s(self) -> Any:
        """Prefill of tokens that were never in the cache."""
        return self._seconds(["fresh_ns"])

    @property
    def recompute_s(self) -> Any:
        """Prefill of tokens that had been in the cache and were evicted."""
        return self._seconds(["recompute_ns"])

    @property
    def decode_s(self) -> Any:
        """Decode steps after the first token."""
        return self._seconds(["decode_ns"])

    @property
    def gpu_s(self) -> Any:
        """GPU-seconds."""
        return self._in_gpu_seconds(1.0)

    @property
    def usd(self) -> Any:
        """``gpu_s`` at the price of the GPU, NaN where there is none."""
        return self._in_gpu_seconds(self.usd_per_hour / 3600)

    @property
    def joules(self) -> Any:
        """``gpu_s`` x TDP: an upper bound."""
        return self._in_gpu_seconds(self.pricing.gpu.tdp_w)

    @property
    def kv_byte_s(self) -> Any:
        """KV-cache bytes held x seconds."""
        return self._scaled([], amount=self._held_block_ns, scale=self.pricing.kv_bytes_per_block)

    @property
    def cached_tokens(self) -> Any:
        """Prompt tokens found in the cache."""
        return self._total("cached_tokens")

    @property
    def recomputed_tokens(self) -> Any:
        """Prompt tokens that had been in the cache and were evicted."""
        return self._total("recomputed_tokens")

    @cached_property
    def turns(self) -> Table:
        """One value a turn, as :attr:`kvsim.Estimate.turns`; ``status``: 0 ok, 1 over_max, 2 over_capacity."""
        column = PriceColumns(*self._price(with_columns=True)[2])
        model = [column.fresh_ns, column.recompute_ns, column.decode_ns]

        def seconds(plus: list[Any], **more: Any) -> Any:
            return self._scaled(plus, unknown=column.status, **more)

        return Table(
            self.batch.turns,
            {
                "ttft_s": lambda: seconds(model[:2]),
                "e2e_s": lambda: seconds(model),
                "fresh_prefill_s": lambda: seconds([column.fresh_ns]),
                "recompute_s": lambda: seconds([column.recompute_ns]),
                "decode_s": lambda: seconds([column.decode_ns]),
                "release_s": lambda: seconds([column.release_ns]),
                "gpu_s": lambda: seconds(model, factor=self.pricing.gpus_per_second),
                "kv_byte_s": lambda: seconds([], amount=column.held_block_ns, scale=self.pricing.kv_bytes_per_block),
                "cached_tokens": lambda: column.cached_tokens,
                "recomputed_tokens": lambda: column.recomputed_tokens,
                "status": lambda: column.status,
            },
        )

    @cached_property
    def uncertainty(self) -> Uncertainty:
        """How far its times may be off: as far as those of the longest turn, if nothing of it had been cached."""
        return self.pricing.uncertainty(
            prefilled_tokens=self.batch.longest[0],
            sequences=self.pricing.load.concurrent,
            context_tokens=int(self.batch.resident.facts["most_tokens"]),
        )

    def require_priced(self) -> None:
        """Raise :class:`InputError` if a turn could not be priced."""
        if unpriced := int((self.unpriced_turns.numpy() > 0).sum()):
            raise InputError(
                f"{unpriced} trajectories have turns beyond the model's maximum or the card's KV cache",
                field="prompt_tokens",
                remedy="Choose a longer max_model_len, a model or GPU with more room, or leave out strict",
            )

    def _price(self, *, with_columns: bool) -> Any:
        backend = self.batch.backend
        return backend.call(self.batch.resident.estimate, *self.pricing.handle(backend), with_columns)

    def _total(self, name: str) -> Any:
        return self._totals[_COLUMN[name]]

    def _in_gpu_seconds(self, further: float) -> Any:
        model = ["fresh_ns", "recompute_ns", "decode_ns"]
        return self._seconds(model, factor=self.pricing.gpus_per_second, further_factor=further)

    def _seconds(self, plus: Sequence[str], *, minus: str | None = None, **more: float) -> Any:
        less = None if minus is None else self._total(minus)
        return self._scaled([self._total(name) for name in plus], minus=less, **more)

    def _scaled(
        self,
        plus: list[Any],
        *,
        minus: Any = None,
        amount: Any = None,
        scale: float = 1.0,
        factor: float = 1.0,
        further_factor: float = 1.0,
        unknown: Any = None,
    ) -> Any:
        unknown = self.unpriced_turns if unknown is None else unknown
        return self.batch.backend.scaled(plus, minus, amount, scale, factor, further_factor, unknown)


def require_device(backend: str) -> None:
    """Refuse a backend of the host for a batch on the device."""
    if backend not in ("auto", "cuda"):
        raise InputError(
            f"a batch on a device is not priced by {backend!r}",
            field="backend",
            remedy="Leave it at 'auto', or give columns in host memory to kvsim.Batch",
        )


def _refuse(row: int, name: str, value: int) -> None:
    if name == "cycle":
        problem, name = "a turn waits for itself through a cycle of turns", "after"
    elif name == "trajectory" and row == 0 and value > 0:
        problem = f"trajectory {value} has no turn"
    else:
        bounds = f", outside {_BOUNDS[name]}" if name in _BOUNDS else ""
        problem = f"row {row}: {name} is {value}{bounds}" if name != "waits_for" else f"row {row}: no such rows"
    raise InputError(problem, field=name, remedy=REMEDIES[name])
