"""The CUDA module: so far it says which devices there are and why pricing does not run on them."""

from __future__ import annotations

from typing import Any, NoReturn

from kvsim.errors import BackendUnavailableError


def devices() -> dict[str, Any]:
    """Devices with name, compute capability and memory in bytes, and the reason where there are none."""
    try:
        from kvsim import _cuda
    except ImportError as error:
        raise BackendUnavailableError(
            f"cuda: the CUDA module is not built ({error}); reinstall kvsim where nvcc is on PATH, with KVSIM_CUDA=on"
        ) from error
    found: dict[str, Any] = _cuda.devices()
    return found


def load() -> NoReturn:
    """Raises: this version prices on the CPU only."""
    found = devices()
    if not found["devices"]:
        raise BackendUnavailableError(f"cuda: no usable device ({found['reason']})")
    names = ", ".join(device["name"] for device in found["devices"])
    raise BackendUnavailableError(f"cuda: {names} found, but this version has no pricing kernels for it; use native")
