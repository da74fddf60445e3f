"""Where pricing runs: one registry of backends, all of which give the same bits.

``native`` is the C++ core, ``numba`` compiles :mod:`kvsim.backends.kernels`, ``reference`` runs that text uncompiled
(slow: for checking), ``cuda`` is the CUDA module. A backend asked for by name that cannot run is an error with the
reason; only ``auto`` looks further, in the order native, numba.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import TYPE_CHECKING

from kvsim.errors import BackendUnavailableError, UnknownNameError

if TYPE_CHECKING:
    from kvsim.backends.interface import Backend

#: Backend names and the modules that implement them, each with a function ``load() -> Backend``.
MODULES = {
    "native": "kvsim.backends.native",
    "numba": "kvsim.backends.numba_backend",
    "reference": "kvsim.backends.arrays",
    "cuda": "kvsim.backends.cuda",
}

#: What ``auto`` tries, in order.
AUTOMATIC = ("native", "numba")


@lru_cache
def get(name: str) -> Backend:
    """The backend of that name; raises :class:`BackendUnavailableError` saying why it cannot run here."""
    if name == "auto":
        return auto()
    if name not in MODULES:
        raise UnknownNameError("backend", name, [*MODULES, "auto"])
    backend: Backend = importlib.import_module(MODULES[name]).load()
    return backend


def auto() -> Backend:
    """The fastest backend that runs here."""
    reasons = []
    for name in AUTOMATIC:
        try:
            return get(name)
        except BackendUnavailableError as error:
            reasons.append(str(error))
    raise BackendUnavailableError("no backend can run: " + "; ".join(reasons))


def unavailable_reason(name: str) -> str | None:
    """Why the backend cannot run here, or None where it can."""
    try:
        get(name)
    except BackendUnavailableError as error:
        return str(error)
    return None
