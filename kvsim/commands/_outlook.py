"""Prices and their worst case, for each GPU asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kvsim.commands._pricing_facts import price_warnings
from kvsim.commands._reading_facts import read_warnings
from kvsim.estimation import Estimate, estimate

if TYPE_CHECKING:
    from kvsim.hardware import Gpu
    from kvsim.load import Load
    from kvsim.trajectory import Batch


@dataclass(frozen=True)
class Outlook:
    """What a batch costs on one GPU under the declared load, and where every tool pause evicts its KV cache."""

    estimate: Estimate
    evicted: Estimate


@dataclass(frozen=True)
class Misfit:
    """A GPU that the model does not fit on, and what would help."""

    gpu: str
    tensor_parallel_size: int
    remedy: str


def distinct(gpus: Sequence[str]) -> list[str]:
    """The GPUs asked for, each once however it was spelled, in their order."""
    from kvsim.hardware import gpu

    found: dict[Gpu, str] = {}
    for name in gpus:
        found.setdefault(gpu(name), name)
    return list(found.values())


def fitting(gpus: Sequence[str], **what: Any) -> tuple[list[str], list[Misfit]]:
    """The GPUs that the model fits on and those that it does not; if it fits on none, that is the error.

    ``what`` are the other arguments of :func:`kvsim.pricing.resolve_pricing`.
    """
    from kvsim.errors import DoesNotFitError
    from kvsim.hardware import gpu
    from kvsim.pricing import resolve_pricing

    fit: list[str] = []
    misfits: list[Misfit] = []
    first: DoesNotFitError | None = None
    for name in gpus:
        try:
            resolve_pricing(gpu=name, **what)
            fit.append(name)
        except DoesNotFitError as error:
            first = first or error
            misfits.append(Misfit(gpu(name).id, what["engine"].tensor_parallel_size, str(error)))
    if first is not None and not fit:
        raise first
    return fit, misfits


def look_out(batch: Batch, *, gpus: Sequence[str], load: Load, **how: Any) -> list[Outlook]:
    """The batch's outlook on each GPU; ``how`` are the other arguments of :func:`kvsim.estimate`."""
    evicting = replace(load, kv="always")
    found = []
    for gpu in gpus:
        declared = estimate(batch, gpu=gpu, load=load, **how)
        evicted = declared if evicting == load else estimate(batch, gpu=gpu, load=evicting, **how)
        found.append(Outlook(declared, evicted))
    return found


def warnings(outlooks: Sequence[Outlook], misfits: Sequence[Misfit] = ()) -> list[str]:
    """What needs attention of the read and of each GPU's prices."""
    found = read_warnings(outlooks[0].estimate.batch)
    for outlook in outlooks:
        found += price_warnings(outlook.estimate)
    return found + [f"{misfit.gpu}: {misfit.remedy}" for misfit in misfits]
