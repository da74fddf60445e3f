"""kvsim: what tool-calling LLM trajectories cost on real GPUs.

Public names are loaded on first use, so that ``import kvsim`` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvsim._lazy import lazy

if TYPE_CHECKING:
    from kvsim.architecture import models
    from kvsim.calibration import load_calibration
    from kvsim.device import DeviceBatch, DeviceEstimate
    from kvsim.engine import EngineConfig
    from kvsim.errors import InputError, KvsimError
    from kvsim.estimation import Estimate, estimate
    from kvsim.hardware import gpus
    from kvsim.load import Load
    from kvsim.logs import read
    from kvsim.metrics.pte import pte
    from kvsim.reward import CostTerm
    from kvsim.simulation import Simulation, simulate
    from kvsim.step import step_time
    from kvsim.sweeping import sweep
    from kvsim.trajectory import Batch

__version__ = "0.1.0"

_HOME = {
    "Batch": "trajectory",
    "CostTerm": "reward",
    "DeviceBatch": "device",
    "DeviceEstimate": "device",
    "EngineConfig": "engine",
    "Estimate": "estimation",
    "InputError": "errors",
    "KvsimError": "errors",
    "Load": "load",
    "Simulation": "simulation",
    "estimate": "estimation",
    "gpus": "hardware",
    "load_calibration": "calibration",
    "models": "architecture",
    "pte": "metrics.pte",
    "read": "logs",
    "simulate": "simulation",
    "step_time": "step",
    "sweep": "sweeping",
}

__all__ = [
    "Batch",
    "CostTerm",
    "DeviceBatch",
    "DeviceEstimate",
    "EngineConfig",
    "Estimate",
    "InputError",
    "KvsimError",
    "Load",
    "Simulation",
    "__version__",
    "estimate",
    "gpus",
    "load_calibration",
    "models",
    "pte",
    "read",
    "simulate",
    "step_time",
    "sweep",
]

__getattr__, __dir__ = lazy(__name__, _HOME)
