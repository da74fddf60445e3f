"""The time of one engine step, for people: from the same integer tables that the backends use, with an
interval and a list of what lies outside the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ._inheritance import calibration_of, own
from .architecture import Architecture
from .calibration import Calibration
from .engine import Engine, EngineConfig, resolve
from .errors import InputError
from .hardware import Gpu
from .hardware import gpu as find_gpu
from .law import AttentionTable, Law, build_law
from .uncertainty import Reach, uncertainty_of


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step, its 90 % interval, its parts and what is extrapolated.

    ``terms`` sum to ``seconds``: "layers" (products, experts, all-reduce, fixed overheads), "sequences"
    (head, sampler, a sequence's own work), "prefill_attention", "decode_attention". ``extrapolated`` holds
    one sentence for each way in which the step lies outside what the calibration rests on.
    """

    seconds: float
    low: float
    high: float
    terms: dict[str, float]
    extrapolated: tuple[str, ...]


def step_time(
    *,
    model: str | Architecture,
    gpu: str | Gpu,
    engine: EngineConfig | None = None,
    prefill_new: Sequence[int] = (),
    prefill_cached: Sequence[int] = (),
    decode_context: Sequence[int] = (),
    calibration: Calibration | None = None,
) -> StepTime:
    """Time of one step that computes chunks of ``prefill_new`` tokens over ``prefill_cached`` ones already
    in the KV cache and decodes one token for each ``decode_context`` (tokens in the cache, the new one
    included).

    The interval is that of :mod:`kvsim.uncertainty`: of prefill and of decoding by their shares of the step. Raises
    InputError for an empty step, lists that do not match, counts out of range or a step beyond the engine's
    limits.
    """
    architecture = model if isinstance(model, Architecture) else Architecture.load(model)
    card = gpu if isinstance(gpu, Gpu) else find_gpu(gpu)
    fitted = calibration_of(card) if calibration is None else own(calibration, card)
    settled, law = _law(architecture, card, engine or EngineConfig(), fitted)
    new, cached, contexts = _checked(settled, prefill_new, prefill_cached, decode_context)

    decode_only = _units(law, [], [], contexts) if contexts else dict.fromkeys(_units(law, [], [], [1]), 0)
    units = _units(law, new, cached, contexts)
    total = sum(units.values())
    prefill_share = 1 - sum(decode_only.values()) / total
    reach = Reach(
        step_tokens=sum(new) + len(contexts),
        sequences=len(new) + len(contexts),
        context_tokens=max([*map(sum, zip(new, cached, strict=True)), *contexts]),
    )
    sure = uncertainty_of(architecture, settled, card, fitted, reach)
    seconds = law.seconds(total)
    return StepTime(
        seconds=seconds,
        low=seconds * (prefill_share * sure.prefill.low + (1 - prefill_share) * sure.decode.low),
        high=seconds * (prefill_share * sure.prefill.high + (1 - prefill_share) * sure.decode.high),
        terms={name: law.seconds(part) for name, part in units.items()},
        extrapolated=sure.sentences,
    )


@lru_cache(maxsize=16)
def _law(architecture: Architecture, gpu: Gpu, config: EngineConfig, calibration: Calibration) -> tuple[Engine, Law]:
    engine = resolve(config, architecture, gpu)
    return engine, build_law(architecture, engine, gpu, calibration)


def _checked(
    engine: Engine, new: Sequence[int], cached: Sequence[int], contexts: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    lists = {"prefill_new": (new, 1), "prefill_cached": (cached, 0), "decode_context": (contexts, 1)}
    plain: list[list[int]] = []
    for name, (values, least) in lists.items():
        plain.append([_count(given, least, field=name) for given in values])
    if not cached:
        plain[1] = [0] * len(plain[0])
    if len(plain[0]) != len(plain[1]):
        raise InputError(
            f"{len(plain[1])} values for {len(plain[0])} chunks",
            remedy="Give one for each.",
            field="prefill_cached",
        )
    tokens, sequences = sum(plain[0]) + len(plain[2]), len(plain[0]) + len(plain[2])
    if not sequences:
        raise InputError("a step needs at least one sequence", remedy="Give prefill_new or decode_context.")
    for what, count, name, most in (
        ("tokens", tokens, "max_num_batched_tokens", engine.max_num_batched_tokens),
        ("sequences", sequences, "max_num_seqs", engine.max_num_seqs),
    ):
        if count > most:
            raise InputError(f"{count} {what} in a step of at most {most}", remedy=f"Raise {name}.", field=name)
    return plain[0], plain[1], plain[2]


def _count(given: object, least: int, *, field: str) -> int:
    try:
        value = int(given)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        value = None
    if value is None or value != given or value < least:
        raise InputError(f"{given!r} is no count of at least {least}", remedy="Give whole tokens", field=field)
    return int(value)


def _units(law: Law, new: list[int], cached: list[int], contexts: list[int]) -> dict[str, int]:
    """The formula of docs/architecture.md, in the law's units."""
    prefill = decode = 0
    for group, window in ((law.full, 0), (law.windowed, law.window)):
        prefill += sum(_chunk(group, window, n, c) for n, c in zip(new, cached, strict=True))
        seen = sum(min(context, window) if window else context for context in contexts)
        if new:
            decode += int(group.mixed[len(contexts)]) * (seen + law.tile_keys * len(contexts))
        else:
            decode += int(group.decode[len(contexts)]) * seen
    return {
        "layers": int(law.step[sum(new) + len(contexts)]),
        "sequences": int(law.sequences[len(new) + len(contexts)]),
        "prefill_attention": prefill,
        "decode_attention": decode,
    }


def _chunk(group: AttentionTable, window: int, new: int, cached: int) -> int:
    """Attention of a chunk: pairs, each query limited to its window, and the context read."""
    pairs, context = new * cached + new * (new + 1) // 2, cached + new
    if window:
        free = max(0, min(new, window - cached))  # queries that see everything before them
        pairs = free * cached + free * (free + 1) // 2 + (new - free) * window
        context = min(context, window + new)
    return group.pair * pairs + group.context * context
