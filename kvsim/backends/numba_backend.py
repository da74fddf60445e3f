"""The Numba fallback: a module of kernels loaded once more with its ``jit`` bound to Numba's."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

from kvsim.backends import kernels, without_kernels
from kvsim.backends.arrays import ArrayBackend
from kvsim.errors import BackendUnavailableError


def compiled(text: ModuleType, **options: Any) -> ModuleType:
    """A second copy of a kernel module whose functions Numba compiles on first use and caches on disk.

    ``options`` go to ``numba.njit``. Raises :class:`BackendUnavailableError` where Numba is not installed.
    """
    try:
        import numba
    except ImportError as error:
        raise BackendUnavailableError(f"numba cannot be imported ({error}): pip install 'kvsim[numba]'") from error
    name = f"{text.__name__}_compiled"
    spec = importlib.util.spec_from_file_location(name, text.__file__)
    if spec is None or spec.loader is None:
        raise BackendUnavailableError(f"numba: {text.__file__} cannot be loaded again")
    module = importlib.util.module_from_spec(spec)
    # No fastmath: it changes results. The numpy error model drops checks for zero divisors, which do not occur.
    module.__dict__["jit"] = numba.njit(cache=True, error_model="numpy", nogil=True, **options)
    sys.modules[name] = module  # Numba's cache unpickles named tuples by module name
    spec.loader.exec_module(module)
    return module


def load() -> ArrayBackend:
    """The backend for estimates."""
    # These kernels allocate nothing: reference counts, which would cost a third of the time, are left out (_nrt).
    options = {"forceinline": True, "_nrt": False}
    return ArrayBackend("numba", compiled(kernels, **options), compiled(without_kernels, **options))
