"""The units that a cost can have, each once: what it counts of a turn, and what that comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from kvsim.device import DeviceEstimate
from kvsim.errors import InputError, UnknownNameError
from kvsim.metrics.pte import READINGS, Read, Weights, paper_gamma, paper_turns, turns_of_estimate, weights_of
from kvsim.metrics.pte import on_device as pte_on_device

if TYPE_CHECKING:
    from kvsim.architecture import Architecture
    from kvsim.device import DeviceBatch
    from kvsim.estimation import Estimate
    from kvsim.pricing import Pricing

Floats = npt.NDArray[np.float64]
UnitName = Literal["latency_s", "model_s", "gpu_s", "kv_byte_s", "pte", "usd", "joules"]

UNITS: tuple[UnitName, ...] = get_args(UnitName)


class Unit(Protocol):
    """A unit: ``amount`` is what is summed over turns, ``value`` what an amount comes to in the unit.

    ``grain``: the part of an amount that is not divided further when turns are shared.
    """

    name: str
    grain: float

    def amount(self, estimate: Estimate) -> npt.NDArray[Any]:
        """The amount of every turn, shape (rows,): int64 nanoseconds, or float64."""
        ...

    def value(self, estimate: Estimate, amount: npt.NDArray[Any]) -> Floats:
        """Amounts, or sums of them, in the unit."""
        ...

    def trajectories(self, estimate: Estimate) -> Floats:
        """The cost of every trajectory of the batch, shape (trajectories,)."""
        ...

    def on_device(self, batch: DeviceBatch, pricing: Pricing, usd_per_hour: float | None) -> Any:
        """The same of a batch on the device, as an array there."""
        ...


class _Priced:
    """Units that estimates have by their name."""

    name: str

    def on_device(self, batch: DeviceBatch, pricing: Pricing, usd_per_hour: float | None) -> Any:
        return getattr(DeviceEstimate(batch, pricing, usd_per_hour), self.name)


class _Time(_Priced):
    """Units that are nanoseconds in the model times a factor: model_s, gpu_s, usd and joules."""

    grain = 1.0

    def __init__(self, name: str) -> None:
        self.name = name

    def amount(self, estimate: Estimate) -> npt.NDArray[Any]:
        return estimate.model_ns

    def value(self, estimate: Estimate, amount: npt.NDArray[Any]) -> Floats:
        seconds: Floats = amount / 1e9
        if self.name == "model_s":
            return seconds
        gpu_s = estimate.gpu_s_of(seconds)
        if self.name == "usd":
            return estimate.usd_of(gpu_s)
        return estimate.joules_of(gpu_s) if self.name == "joules" else gpu_s

    def trajectories(self, estimate: Estimate) -> Floats:
        values: Floats = getattr(estimate, self.name)
        return values


class _Latency(_Priced):
    """Seconds from a trajectory's first arrival to its last finish; of a turn: its pause and its time in the model."""

    name = "latency_s"
    grain = 1.0

    def amount(self, estimate: Estimate) -> npt.NDArray[Any]:
        return estimate.pauses_ns + estimate.model_ns

    def value(self, estimate: Estimate, amount: npt.NDArray[Any]) -> Floats:
        seconds: Floats = amount / 1e9
        return seconds

    def trajectories(self, estimate: Estimate) -> Floats:
        return estimate.latency_s


class _KvBytes(_Priced):
    """Bytes of KV cache held, times seconds."""

    name = "kv_byte_s"
    grain = 1.0

    def amount(self, estimate: Estimate) -> npt.NDArray[Any]:
        return estimate.held_block_ns

    def value(self, estimate: Estimate, amount: npt.NDArray[Any]) -> Floats:
        byte_seconds: Floats = amount * estimate.pricing.kv_bytes_per_block / 1e9
        return byte_seconds

    def trajectories(self, estimate: Estimate) -> Floats:
        return estimate.kv_byte_s


class _Pte:
    """Prefill token equivalents in one of the readings of :mod:`kvsim.metrics.pte`."""

    name = "pte"
    grain = 1e-6

    def __init__(self, reading: str, pricing: Pricing, model: str | Architecture) -> None:
        self.reading = reading
        paper = reading == "paper"
        self.weights = Weights(0, (Read(paper_gamma(model, pricing.gpu)),)) if paper else weights_of(pricing, reading)

    def amount(self, estimate: Estimate) -> npt.NDArray[Any]:
        if self.reading == "paper":
            gamma = self.weights.reads[0].gamma
            return paper_turns(estimate.batch.prompt_tokens, estimate.batch.output_tokens, gamma)
        return turns_of_estimate(estimate, self.reading, self.weights.token_gpu_s)

    def value(self, estimate: Estimate, amount: npt.NDArray[Any]) -> Floats:
        return np.asarray(amount, np.float64)

    def trajectories(self, estimate: Estimate) -> Floats:
        batch = estimate.batch
        weights = self.amount(estimate)
        return np.bincount(batch.trajectory, weights=weights, minlength=len(batch)).astype(np.float64, copy=False)

    def on_device(self, batch: DeviceBatch, pricing: Pricing, usd_per_hour: float | None) -> Any:
        return pte_on_device(batch, None if self.reading == "paper" else pricing, self.weights)[1]


def unit_of(name: str, reading: str, pricing: Pricing, usd_per_hour: float | None, model: str | Architecture) -> Unit:
    """The unit of that name; raises where it is unknown or where what it rests on is."""
    if name not in UNITS:
        raise UnknownNameError("unit", name, UNITS)
    if reading not in READINGS:
        raise UnknownNameError("reading", reading, READINGS)
    if name == "usd" and usd_per_hour is None and pricing.gpu.usd_per_hour is None:
        raise InputError(
            f"no marketplace price is known for {pricing.gpu.id}",
            field="usd_per_hour",
            remedy="Give the price of one GPU in US dollars an hour",
        )
    if name == "pte":
        return _Pte(reading, pricing, model)
    if name == "latency_s":
        return _Latency()
    return _KvBytes() if name == "kv_byte_s" else _Time(name)
