"""The Numba fallback: kernels.py loaded once more with its ``jit`` bound to Numba's."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from kvsim.backends import kernels
from kvsim.backends.arrays import ArrayBackend
from kvsim.errors import BackendUnavailableError


def load() -> ArrayBackend:
    """The backend, with all kernels compiled on first use and cached on disk."""
    try:
        import numba
    except ImportError as error:
        raise BackendUnavailableError(f"numba cannot be imported ({error}): pip install 'kvsim[numba]'") from error
    name = "kvsim.backends._numba_kernels"
    spec = importlib.util.spec_from_file_location(name, kernels.__file__)
    if spec is None or spec.loader is None:
        raise BackendUnavailableError(f"numba: {kernels.__file__} cannot be loaded again")
    module = importlib.util.module_from_spec(spec)
    # No fastmath: it changes results. The numpy error model drops checks for zero divisors, which do not occur.
    # The kernels allocate nothing, so reference counts, which would cost a third of the time, are left out (_nrt).
    options: dict[str, Any] = {"cache": True, "error_model": "numpy", "nogil": True, "forceinline": True, "_nrt": False}
    module.__dict__["jit"] = numba.njit(**options)
    sys.modules[name] = module  # Numba's cache unpickles named tuples by module name
    spec.loader.exec_module(module)
    return ArrayBackend("numba", module)
