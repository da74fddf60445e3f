"""Everything that a price rests on, resolved from names once and kept: model, GPU, engine, calibration, law, load."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvsim._inheritance import calibration_of, own
from kvsim._once import once
from kvsim.architecture import Architecture
from kvsim.backends.rates import rates
from kvsim.calibration import Calibration, load_calibration
from kvsim.engine import Engine, EngineConfig, resolve
from kvsim.errors import InputError
from kvsim.hardware import Gpu, gpu
from kvsim.law import Law, build_law
from kvsim.load import Load
from kvsim.uncertainty import Reach, Uncertainty, scaled_law, uncertainty_of

if TYPE_CHECKING:
    from kvsim.backends.interface import Backend


@dataclass(frozen=True, eq=False)
class Pricing:
    """One way to price: what was asked for, resolved, and the backends' handles for it."""

    architecture: Architecture
    gpu: Gpu
    engine: Engine
    calibration: Calibration
    law: Law
    load: Load
    _handles: dict[str, Any] = field(default_factory=dict, repr=False, init=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}  # handles belong to this process

    def handle(self, backend: Backend) -> Any:
        """The backend's handle for this pricing, made on first use."""
        if backend.name not in self._handles:
            self._handles[backend.name] = backend.prepare(*rates(self.law, self.engine, self.load))
        return self._handles[backend.name]

    def uncertainty(self, *, prefilled_tokens: int, sequences: int, context_tokens: int) -> Uncertainty:
        """How sure its times are for turns that prefill so much, and steps and contexts so large, at most."""
        step_tokens = min(prefilled_tokens + max(sequences - 1, 0), self.engine.max_num_batched_tokens)
        reach = Reach(step_tokens, sequences, context_tokens)
        return uncertainty_of(self.architecture, self.engine, self.gpu, self.calibration, reach)

    def scaled(self, prefill: float, decode: float) -> Pricing:
        """The pricing of a machine whose chunks take ``prefill`` times as long, and other steps ``decode`` times."""
        law = scaled_law(
            self.architecture,
            self.engine,
            self.gpu,
            self.calibration,
            prefill=prefill,
            decode=decode,
            held_tokens=_held_tokens(self.engine, self.load),
        )
        return replace(self, law=law)

    @property
    def gpus_per_second(self) -> float:
        """GPU-seconds of a second in the model: all GPUs, shared by the load's sequences."""
        return self.engine.tensor_parallel_size / self.load.concurrent

    @property
    def kv_bytes_per_block(self) -> int:
        """Cache bytes of one block of context on all ranks together."""
        return self.engine.kv_bytes_per_block * self.engine.tensor_parallel_size

    @property
    def pool_block_bytes(self) -> int:
        """Cache bytes of one block of the pool on all ranks together."""
        return self.engine.pool_block_bytes * self.engine.tensor_parallel_size


def resolve_pricing(
    model: str | Architecture,
    gpu: str | Gpu,
    engine: EngineConfig | None = None,
    load: Load | None = None,
    calibration: str | Path | Calibration | None = None,
) -> Pricing:
    """The pricing for names, files or objects.

    Known names and equal objects are resolved once in a process; files are read anew each time, since they may
    have changed. A GPU that no calibration ships for takes over that of the nearest measured one.
    Raises :class:`kvsim.errors.KvsimError` for what is unknown, contradictory or does not fit.
    """
    engine = engine if engine is not None else _DEFAULT_ENGINE
    load = load if load is not None else _DEFAULT_LOAD
    if isinstance(calibration, (str, Path)):
        calibration = load_calibration(calibration)
    elif not _is_file(model) and not _is_file(gpu):
        return _resolve_once(model, gpu, engine, load, calibration)
    return _resolve(model, gpu, engine, load, calibration)


_DEFAULT_ENGINE = EngineConfig()
_DEFAULT_LOAD = Load()


def _is_file(name: object) -> bool:
    if isinstance(name, str):
        return name.endswith((".json", ".toml")) or name.startswith((".", "/", "~"))
    return isinstance(name, Path)


@once(maxsize=256)
def _resolve_once(
    model: str | Architecture, gpu: str | Gpu, engine: EngineConfig, load: Load, calibration: Calibration | None
) -> Pricing:
    return _resolve(model, gpu, engine, load, calibration)


def _resolve(
    model: str | Architecture, card: str | Gpu, config: EngineConfig, load: Load, calibration: Calibration | None
) -> Pricing:
    architecture = model if isinstance(model, Architecture) else Architecture.load(model)
    found = card if isinstance(card, Gpu) else gpu(card)
    engine = resolve(config, architecture, found)
    calibration = calibration_of(found) if calibration is None else own(calibration, found)
    law = build_law(architecture, engine, found, calibration, held_tokens=_held_tokens(engine, load))
    return Pricing(architecture, found, engine, calibration, law, load)


def _held_tokens(engine: Engine, load: Load) -> int:
    """The most context tokens that the sequences of one step are taken to hold together."""
    context = engine.max_model_len if load.mean_context is None else load.mean_context
    return max(engine.kv_capacity_tokens, engine.max_model_len + (load.concurrent - 1) * context)


def require_price(usd_per_hour: float | None) -> None:
    """Refuse what cannot be a price of one GPU in US dollars an hour; None stands for the marketplace price."""
    known = usd_per_hour is None or isinstance(usd_per_hour, (int, float))
    if not known or (usd_per_hour is not None and not 0 <= usd_per_hour < float("inf")):
        raise InputError(f"{usd_per_hour!r} is no price", field="usd_per_hour", remedy="Give US dollars an hour")
