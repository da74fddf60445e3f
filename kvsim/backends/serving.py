"""Where simulations run: the native engine, the readable text compiled by Numba, or uncompiled (reference)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np

from kvsim.backends import engine_kernels
from kvsim.backends.engine_kernels import (
    REPLICA_TOTALS,
    ROUND_ROBIN,
    Contexts,
    Fleet,
    Plan,
    Served,
    Settings,
    StepLaw,
    Timeline,
    Workload,
)
from kvsim.backends.interface import Ints
from kvsim.backends.numba_backend import compiled
from kvsim.errors import BackendUnavailableError, UnknownNameError

Serve = Callable[[Settings, StepLaw, Contexts, Workload, Plan, Fleet, Timeline], "tuple[Served, Ints]"]
"""Serves a workload; returns the columns of rows and the totals of replicas, shape (replicas, REPLICA_TOTALS)."""

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

    def run(*inputs: Any) -> tuple[Served, Ints]:
        columns, totals = _core.simulate(*inputs)
        return Served(*columns), np.array(totals, np.int64)

    return run


def _from_text(text: ModuleType) -> Serve:
    def run(
        settings: Settings,
        law: StepLaw,
        contexts: Contexts,
        workload: Workload,
        plan: Plan,
        fleet: Fleet,
        timeline: Timeline,
    ) -> tuple[Served, Ints]:
        rows = len(contexts.prompt)
        served = text.Served(*(np.empty(rows, np.int64) for _ in Served._fields))
        totals = np.zeros((fleet.replicas, len(REPLICA_TOTALS)), np.int64)
        groups = {"full": text.GroupLaw(*law.full), "windowed": text.GroupLaw(*law.windowed)}
        own_law = text.StepLaw(**{**law._asdict(), **groups})
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
        )
        return Served(*served), totals

    return run


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
