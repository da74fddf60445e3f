"""What was measured: a model under an engine's settings on a GPU, priced with trial values of the coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..architecture import Architecture
from ..backends.contexts import contexts_of, settings_of, step_law
from ..backends.engine_kernels import NO_PLAN, Served
from ..backends.kernels import OK
from ..backends.serving import ALONE, serve, timeline_of
from ..backends.workload import Starts, workload_of
from ..costs import Costs
from ..engine import Engine, EngineConfig, resolve
from ..errors import InputError
from ..hardware import Gpu
from ..law import Law, costs_of, law_of
from ..simulation import require_kv_groups, status_of
from ..trajectory import Batch
from .observations import Header

ENGINE_ARGUMENTS = {part.name for part in fields(EngineConfig)}
OTHER_NAMES = {"num_gpu_blocks": "num_gpu_blocks_override"}
"""What a server reports under another name than it is set by."""


@dataclass(frozen=True)
class Deployment:
    """A model on a GPU under settled engine arguments."""

    architecture: Architecture
    gpu: Gpu
    engine: Engine

    @classmethod
    def of(cls, model: str | Path | Architecture, gpu: Gpu, config: EngineConfig | None = None) -> Deployment:
        """From a model's name or path. Raises :class:`~kvsim.errors.KvsimError` as :func:`kvsim.engine.resolve`."""
        architecture = model if isinstance(model, Architecture) else Architecture.load(model)
        return cls(architecture, gpu, resolve(config or EngineConfig(), architecture, gpu))

    def costs(self, values: Mapping[str, float]) -> Costs:
        """The law's terms with these coefficients."""
        return costs_of(self.architecture, self.engine, self.gpu, values)

    def window(self) -> int:
        """Tokens of the windowed layers' window, 0 without any."""
        groups = self.architecture.attention_groups(self.engine.tensor_parallel_size)
        return max((group.window for group in groups if group.kind == "window"), default=0)

    def law(self, values: Mapping[str, float]) -> Law:
        """The same as integer tables."""
        return law_of(self.costs(values), self.engine)

    def serve(self, batch: Batch, starts: Starts, values: Mapping[str, float]) -> Served:
        """What the simulated engine does with a batch; turns that it cannot hold are refused. Raises InputError for a
        model that it cannot be simulated with."""
        require_kv_groups(self.architecture, self.engine)
        refused = (status_of(batch, self.engine) != OK).astype(np.int64)
        served, _ = serve("auto")(
            settings_of(self.engine),
            step_law(self.law(values)),
            contexts_of(batch, self.engine.block_size),
            workload_of(batch, starts, refused),
            NO_PLAN,
            ALONE,
            timeline_of(1),
        )
        return served


def engine_config(header: Header, file: str, given: EngineConfig | None = None) -> EngineConfig:
    """The engine arguments of a header; those ``given`` by hand count where they are not the defaults.

    vLLM's arguments that do not bear on kvsim are ignored. Raises InputError naming file and argument.
    """
    known: dict[str, Any] = {}
    for name, value in header.engine.items():
        name = OTHER_NAMES.get(name, name)
        if name in ENGINE_ARGUMENTS and value is not None:
            known[name] = value
    if header.dtype and "dtype" not in known:
        known["dtype"] = header.dtype
    plain = EngineConfig()
    for name in ENGINE_ARGUMENTS if given is not None else ():
        if getattr(given, name) != getattr(plain, name):
            known[name] = getattr(given, name)
    try:
        return EngineConfig(**known)
    except InputError as error:
        raise InputError(error.problem, remedy=error.remedy, file=file, field=f"engine.{error.field}") from None
