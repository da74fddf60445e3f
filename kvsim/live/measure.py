"""Measuring an engine for a calibration: from who it is to the file of what was observed."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kvsim.architecture import Architecture
from kvsim.calibrate.observations import Header
from kvsim.engine import Engine, EngineConfig, resolve
from kvsim.errors import InputError, UnknownNameError
from kvsim.hardware import gpu as gpu_of
from kvsim.live.campaign import Campaign, Outcome
from kvsim.live.engine import EngineError, Identity, LiveEngine
from kvsim.live.plan import Limits

LEAST_MINUTES = 0.05

_ARGUMENTS = frozenset(part.name for part in fields(EngineConfig))


@dataclass(frozen=True)
class Target:
    """The engine to measure in kvsim's terms."""

    model: str
    architecture: Architecture
    config: EngineConfig
    settled: Engine
    header: Header

    @property
    def limits(self) -> Limits:
        """What it can take."""
        engine = self.settled
        return Limits(
            max_model_len=engine.max_model_len,
            max_num_seqs=engine.max_num_seqs,
            step_tokens=engine.max_num_batched_tokens,
            kv_tokens=(engine.num_gpu_blocks - 1) * engine.block_size,
            block_size=engine.block_size,
            prefix_caching=engine.enable_prefix_caching,
            synchronous=not engine.async_scheduling,
        )


async def measure(
    engine: LiveEngine,
    file: str | Path,
    *,
    gpu: str,
    model: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    minutes: float = 10.0,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Target, Outcome]:
    """Measure an engine that nobody else uses for so many minutes into a file of observations.

    A file that is there is gone on with: what it holds is not measured again, and the time it took counts.

    model: hub name or path of a ``config.json``; what the engine says it loaded by default. arguments: engine
    arguments by vLLM's names, for those that the engine does not tell; one that contradicts it is an error.
    Raises :class:`~kvsim.live.engine.EngineError` where the engine fails (what was measured is in the file), and
    :class:`~kvsim.errors.InputError` for a file of something else.
    """
    if not minutes >= LEAST_MINUTES:
        raise InputError(f"{minutes!r} minutes", field="minutes", remedy=f"Use at least {LEAST_MINUTES:g}")
    look = await engine.look()
    target = target_of(look.identity, client=engine.client, gpu=gpu, model=model, arguments=arguments or {})
    campaign = Campaign(
        engine,
        look,
        target.header,
        target.limits,
        vocabulary=target.architecture.vocab_size,
        file=Path(file),
        budget_s=60 * minutes,
        say=say,
    )
    outcome = await campaign.run()
    assumed = [name for name in ("max_num_batched_tokens", "max_num_seqs") if name not in target.header.engine]
    if assumed:
        values = ", ".join(f"{name} {getattr(target.settled, name)}" for name in assumed)
        outcome.notes.append(f"the engine does not tell its {values}: vLLM's default is assumed; give it if it differs")
    return target, outcome


def target_of(identity: Identity, *, client: str, gpu: str, model: str | None, arguments: Mapping[str, Any]) -> Target:
    """The engine in kvsim's terms: its own word, then ``arguments``, then vLLM's defaults on the GPU."""
    card = gpu_of(gpu)
    name, architecture = _architecture(identity, model)
    told = {key: value for key, value in identity.engine.items() if key in _ARGUMENTS}
    for key, value in arguments.items():
        if key in told and told[key] != value:
            raise InputError(f"{value!r}, but the engine says {told[key]!r}", field=key, remedy="Leave the option out")
    known = {**arguments, **told}
    config = EngineConfig(**known)
    header = Header(
        model=name,
        gpu=card.id if gpu in (card.id, card.name) else gpu,
        engine_version=identity.version,
        dtype=str(known.get("dtype", "")),
        engine=dict(sorted(known.items())),
        client=client,
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        source="kvsim calibrate",
    )
    return Target(name, architecture, config, resolve(config, architecture, card), header)


def _architecture(identity: Identity, model: str | None) -> tuple[str, Architecture]:
    """The model's name or config file, and its architecture."""
    if model is not None:
        return model, Architecture.load(model)
    for name in (identity.root, identity.name):
        config = Path(name) / "config.json"
        if config.is_file():
            return str(config), Architecture.load(config)
        try:
            return name, Architecture.load(name)
        except UnknownNameError:
            continue
    raise EngineError(
        f"the engine serves {identity.name!r} from {identity.root!r}, which is no model that kvsim knows: "
        "give --model, a hub name or the path of a config.json"
    )
