"""The options of a sweep as what they ask for: a grid, and what its points have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kvsim.commands.sweep._break_even import PAUSE_SCALES, POLICIES
from kvsim.commands.sweep._cliff import closed
from kvsim.commands.sweep._points import Grid, count_of, factor, values_of, word
from kvsim.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvsim.architecture import Architecture
    from kvsim.calibration import Calibration
    from kvsim.engine import EngineConfig
    from kvsim.hardware import Gpu

Texts = Sequence[str] | None
Part = TypeVar("Part")


def models_of(names: Sequence[str]) -> dict[str, Architecture]:
    """The models by their own names, in the order asked for; the same one twice is one."""
    from kvsim.architecture import Architecture

    return _by_name([(found.name, found) for found in map(Architecture.load, names)], "model")


def gpus_of(names: Sequence[str]) -> dict[str, Gpu]:
    """The GPUs by id."""
    from kvsim.hardware import gpu

    return _by_name([(found.id, found) for found in map(gpu, names)], "gpu")


def calibration_of(path: str | None, gpus: Mapping[str, Gpu]) -> Calibration | None:
    """The calibration in the file, for the one GPU it is of."""
    from kvsim.calibration import load_calibration

    if path is None:
        return None
    if len(gpus) > 1:
        raise InputError("a calibration is of one GPU", field="calibration", remedy="Give --gpu once")
    return load_calibration(Path(path))


_ON_A_DEVICE = 256
"""Points that wait for a device, each on a thread of its own; those that wait at one time go there together."""


def threads_of(text: str, turns: int, backend: str) -> int:
    """How many points of so many turns are simulated at once; ``auto`` leaves half of the free memory alone."""
    from kvsim.cores import cores, free_bytes, threads_of
    from kvsim.simulated import BYTES_PER_TURN

    if text != "auto":
        return threads_of(int(text) if text.isdigit() else text)
    most = _ON_A_DEVICE if backend == "cuda" else cores()
    return max(min(most, free_bytes() // 2 // (BYTES_PER_TURN * max(turns, 1))), 1)


def grid_of(
    models: Mapping[str, Architecture],
    gpus: Mapping[str, Gpu],
    engine: EngineConfig,
    *,
    concurrency: Texts,
    arrivals: Texts,
    retention: Texts,
    blocks: Texts,
    kv_tokens: Texts,
    replicas: Texts,
    router: Texts,
    pause_scale: Texts,
    cliff: bool,
    break_even: bool,
) -> Grid:
    """The grid that was asked for; without arrivals where a preset is to choose them."""
    if cliff and break_even:
        raise InputError("--cliff and --break-even are two sweeps", remedy="Choose one")
    if cliff and arrivals:
        raise InputError("the cliff is over trajectories in flight", field="arrivals", remedy="Use --concurrency")
    if blocks and kv_tokens:
        raise InputError("--blocks and --kv-tokens are the same", field="kv_tokens", remedy="Choose one")
    in_flight = values_of(concurrency or [], count_of(1), "concurrency", "Give whole numbers from 1, say 1,2,4,8")
    patterns = values_of(arrivals or [], word, "arrivals", 'Give patterns, say "logged" or "poisson:2.0"')
    patterns = list(dict.fromkeys([*map(closed, in_flight), *patterns]))
    tokens = values_of(
        kv_tokens or [],
        count_of(2 * engine.block_size),
        "kv_tokens",
        f"Give whole numbers from {2 * engine.block_size}, two blocks",
    )
    policies = values_of(retention or [], word, "retention", "Give names of policies")
    if break_even and len(policies) == 1:
        raise InputError("a break-even is between two policies", field="retention", remedy="Give another, say drop")
    counts = values_of(blocks or [], count_of(2), "blocks", "Give whole numbers from 2; one is the null block")
    return Grid(
        model=list(models),
        gpu=list(gpus),
        num_gpu_blocks_override=list(dict.fromkeys([*counts, *(size // engine.block_size for size in tokens)]))
        or [None],
        replicas=values_of(replicas or ["1"], count_of(1), "replicas", "Give whole numbers from 1"),
        router=values_of(router or ["round-robin"], word, "router", "Give names of routers"),
        retention=policies or list(POLICIES if break_even else ("lru",)),
        pause_scale=values_of(pause_scale or [], factor, "pause_scale", "Give numbers above 0, say 0.1,1,10")
        or list(PAUSE_SCALES if break_even else (1.0,)),
        arrivals=patterns or ([] if cliff or break_even else ["logged"]),
    )


def _by_name(found: Sequence[tuple[str, Part]], field: str) -> dict[str, Part]:
    named: dict[str, Part] = {}
    for name, part in found:
        if named.setdefault(name, part) != part:
            raise InputError(f"two that differ are called {name!r}", field=field, remedy="Rename one")
    return named
