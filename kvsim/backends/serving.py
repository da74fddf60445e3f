"""Where simulations run: the native engine, the readable text compiled by Numba, or uncompiled (reference)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from kvsim.backends import engine_kernels
from kvsim.backends.engine_kernels import (
    REPLICA_TOTALS,
    ROUND_ROBIN,
    Fleet,
    Served,
    Timeline,
)
from kvsim.backends.eviction_log import EvictionLog, canonical
from kvsim.backends.interface import Ints
from kvsim.backends.numba_backend import compiled
from kvsim.errors import BackendUnavailableError, UnknownNameError


class Serve(Protocol):
    """Serves a workload: Settings, StepLaw, Contexts, Workload, Plan, Fleet, Timeline."""

    def __call__(self, *inputs: Any, log: EvictionLog | None = None) -> tuple[Served, Ints]:
        """The columns of rows and the totals of replicas, shape (replicas, REPLICA_TOTALS).

        Blocks in use are added to the timeline, evictions left in the log.
        """
        ...


ALONE = Fleet(replicas=1, router=ROUND_ROBIN)
"""One engine."""


def timeline_of(replicas: int, bin_ns: int = 0, end_ns: int = 0) -> Timeline:
    """An empty timeline up to and including ``end_ns``; without bins where ``bin_ns`` is 0."""
    bins = end_ns // bin_ns + 1 if bin_ns else 0
    return Timeline(bin_ns, np.zeros((replicas, bins), np.int64), np.zeros((replicas, bins), np.int64))


AUTOMATIC = ("native", "numba")


def serve(backend: str) -> Serve:
    """The function of a backend by name; ``auto`` is the fastest one that runs here.

    Raises :class:`BackendUnavailableError` with the reason where it cannot run.
    """
    if backend == "auto":
        reasons = []
        for name in AUTOMATIC:
            try:
                return serve(name)
            except BackendUnavailableError as error:
                reasons.append(str(error))
        raise BackendUnavailableError("no backend can run: " + "; ".join(reasons))
    if backend == "cuda":  # not cached: the device may come and go
        return _cuda()
    if backend not in _MAKERS:
        raise UnknownNameError("backend", backend, [*_MAKERS, "auto"])
    return _MAKERS[backend]()


@lru_cache
def _native() -> Serve:
    try:
        from kvsim import _core
    except ImportError as error:
        raise BackendUnavailableError(
            f"native: the C++ core is not built ({error}); reinstall kvsim with a C++17 compiler"
        ) from error

    def run(*inputs: Any, log: EvictionLog | None = None) -> tuple[Served, Ints]:
        columns, totals, entries = _core.simulate(*inputs, evictions=log is not None)
        if log is not None:
            log.evictions = canonical(entries)
        return Served(*columns), np.array(totals, np.int64)

    return run


def _cuda() -> Serve:
    from kvsim.backends import cuda

    device = cuda.chosen()

    def run(*inputs: Any, log: EvictionLog | None = None) -> tuple[Served, Ints]:
        require_no_log(log)
        return _from_device(device.simulate_one(inputs))

    return run


def serve_together() -> Callable[[list[tuple[Any, ...]]], list[tuple[Served, Ints]]]:
    """What serves many workloads side by side, on the CUDA device; each takes the inputs of :class:`Serve`.

    Raises :class:`BackendUnavailableError` with the reason where there is none.
    """
    from kvsim.backends import cuda

    device = cuda.chosen()
    return lambda all_inputs: [_from_device(made) for made in device.simulate(all_inputs)]


def _from_device(made: Any) -> tuple[Served, Ints]:
    columns, totals = made
    return Served(*columns), np.array(totals, np.int64)


def require_no_log(log: EvictionLog | None) -> None:
    """Refuse evictions, which nobody writes down on a device."""
    if log is not None:
        raise BackendUnavailableError(
            "cuda: evictions are not written down on CUDA devices; backend='native' simulates the same on the CPU"
        )


def _from_text(text: ModuleType) -> Serve:
    def run(*inputs: Any, log: EvictionLog | None = None) -> tuple[Served, Ints]:
        settings, law, contexts, workload, plan, fleet, timeline = inputs
        entries = np.empty((fleet.replicas, 0, 4), np.int64)
        if log is not None:  # how many there will be, a first run tells
            _, totals = run(*inputs[:-1], timeline_of(fleet.replicas))
            most = int(totals[:, REPLICA_TOTALS.index("evicted_blocks")].max())
            entries = np.empty((fleet.replicas, most, 4), np.int64)
        rows = len(contexts.prompt)
        served = text.Served(*(np.empty(rows, np.int64) for _ in Served._fields))
        totals = np.zeros((fleet.replicas, len(REPLICA_TOTALS)), np.int64)
        logged = np.zeros(fleet.replicas, np.int64)
        groups = (text.GroupLaw(*_writable(group)) for group in (law.full, law.windowed))
        own_law = text.StepLaw(*_writable(law[:-2]), *groups)
        text.simulate(
            text.Settings(*settings),
            own_law,
            text.Contexts(*_writable(contexts)),
            text.Workload(*_writable(workload)),
            text.Plan(*plan),
            text.Fleet(*fleet),
            text.Timeline(*timeline),
            served,
            totals,
            entries,
            logged,
        )
        if log is not None:
            log.evictions = canonical(_packed(entries, logged))
        return Served(*served), totals

    return run


def _packed(entries: Ints, counts: Ints) -> Ints:
    """The first ``counts[r]`` entries of each replica r, with its number before them."""
    packed = [np.insert(entries[replica, :count], 0, replica, axis=1) for replica, count in enumerate(counts)]
    return np.concatenate(packed)


def _writable(columns: Iterable[Any]) -> list[Any]:
    """Read-only arrays as copies: for them Numba would compile everything once more."""
    return [np.array(one) if isinstance(one, np.ndarray) and not one.flags.writeable else one for one in columns]


@lru_cache
def _reference() -> Serve:
    return _from_text(engine_kernels)


@lru_cache
def _numba() -> Serve:
    return _from_text(compiled(engine_kernels))


_MAKERS: dict[str, Callable[[], Serve]] = {"native": _native, "numba": _numba, "reference": _reference}
