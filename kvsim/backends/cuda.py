"""The CUDA module as a backend: batches in host memory, priced on the first device that CUDA shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from kvsim.backends.gathering import Gathered
from kvsim.backends.interface import Floats, Ints, Priced
from kvsim.backends.native import made_rates, made_turns
from kvsim.errors import BackendUnavailableError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvsim.backends.kernels import PriceColumns, Rates
    from kvsim.backends.without_kernels import Left
    from kvsim.metrics.pte import Weights
    from kvsim.trajectory import Batch, Ragged


@dataclass(frozen=True)
class Packed:
    """A batch, and its units: what is priced side by side."""

    batch: Batch
    units: Any


class CudaBackend:
    """Calls into ``kvsim._cuda``; the GIL is released while the device works.

    A trajectory is priced by one thread, and so are trajectories that depend on each other together. Batches go to the
    device and prices come back in pieces that fit into its free memory, copies of one beside the kernels of another.
    What only the host can do, a CPU backend does.
    """

    name = "cuda"

    def __init__(self, module: Any) -> None:
        self._module = module
        self.simulate_one = Gathered(self.simulate)
        """One simulation's columns and totals; those that several threads ask for at once go to the device together."""

    def prepare(self, rates: Rates, step: Ints) -> Any:
        """The rates as a C++ object, and the table."""
        return made_rates(self._module, rates), step

    def pack(self, batch: Batch) -> Packed:
        """The batch, divided into units."""
        return Packed(batch, self._module.Units(made_turns(self._module, batch)))

    def estimate(self, prepared: Any, packed: Packed, columns: PriceColumns | None, threads: int = 1) -> Priced:
        """See :class:`kvsim.backends.interface.Backend`; ``threads`` of the host copy."""
        return Priced(*self.call(self._module.estimate, *prepared, packed.units, columns, threads))

    def pte(self, prepared: Any, packed: Packed, weights: Weights) -> Floats:
        """See :class:`kvsim.backends.interface.WeighsPte`."""
        turns: Floats = self.call(self._module.pte, *(prepared or self._no_law()), packed.units, weights)
        return turns

    def resident(self, **columns: Any) -> Any:
        """The columns of a batch on the device, checked; raises :class:`InputError` for arrays it cannot take."""
        try:
            return self.call(self._module.ResidentTurns, **columns)
        except ValueError as error:
            field, _, problem = str(error).partition(": ")
            raise InputError(
                problem, field=field, remedy="Give contiguous int64 arrays of one dimension on one device"
            ) from error

    def resident_pte(self, prepared: Any, turns: Any, weights: Weights) -> tuple[Any, Any]:
        """PTE of the turns and of the trajectories of a batch on the device; ``prepared`` as in :meth:`pte`."""
        both: tuple[Any, Any] = self.call(turns.pte, *(prepared or self._no_law()), weights)
        return both

    def scaled(self, *arguments: Any) -> Any:
        """Results on the device in their units; see ``scaled`` of the module."""
        return self.call(self._module.scaled, *arguments)

    def without(self, packed: Packed, paths: Ragged, rollouts: Ints, positions: Ints, base: int, left: Left) -> int:
        """See :class:`kvsim.backends.interface.Backend`."""
        from kvsim.backends import auto

        host = auto()
        return host.without(packed.batch.packed(host), paths, rollouts, positions, base, left)

    def topological_order(self, batch: Batch) -> Ints:
        """See :class:`kvsim.backends.interface.Backend`."""
        from kvsim.backends import auto

        return auto().topological_order(batch)

    def call(self, function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        """Calls something of the module; raises :class:`BackendUnavailableError` where the device fails."""
        try:
            return function(*arguments, **more)
        except self._module.DeviceError as error:
            raise BackendUnavailableError(f"cuda: {error}; backend='native' prices the same on the CPU") from error

    def simulate(self, simulations: list[Any]) -> list[Any]:
        """Columns and totals of each from its inputs (``kvsim._core.simulate``'s, as a tuple), each in a block."""
        made: list[Any] = self.call(self._module.simulate, simulations)
        return made

    def _no_law(self) -> tuple[Any, Ints]:
        """What stands for a law where tokens alone count, as in the paper's reading of PTE."""
        return self._module.Rates(), np.zeros(1, np.int64)


def devices() -> dict[str, Any]:
    """Devices with name, compute capability and memory in bytes, and the reason where there are none."""
    found: dict[str, Any] = _module().devices()
    return found


def load() -> CudaBackend:
    """The backend, or the reason why there is no module, no driver or no device."""
    module = _module()
    found = module.devices()
    if not found["devices"]:
        raise BackendUnavailableError(f"cuda: no usable device: {missing(found)}")
    return CudaBackend(module)


def chosen() -> CudaBackend:
    """The backend that goes by the name; raises as :func:`load` does."""
    from kvsim.backends import get

    return cast(CudaBackend, get("cuda"))


def missing(found: dict[str, Any]) -> str:
    """Why there is no device, from what the module says of devices and versions."""
    driver, runtime = found["driver_version"], found["runtime_version"]
    if driver == 0:
        return "no NVIDIA driver is loaded"
    if driver < runtime:
        has, needs = (f"CUDA {version // 1000}.{version % 1000 // 10}" for version in (driver, runtime))
        return f"the driver is for {has}, and this module needs {needs}: update the driver"
    return str(found["reason"])


def _module() -> Any:
    try:
        from kvsim import _cuda
    except ImportError as error:
        raise BackendUnavailableError(
            f"cuda: the CUDA module is not built ({error}); reinstall kvsim where nvcc is on PATH, with KVSIM_CUDA=on"
        ) from error
    return _cuda
