"""Raw measurements of a running engine: CSV, one row an observation, facts about the engine in lines ``# key = value``.

    # kvsim observations 1
    # model = "Qwen/Qwen3-8B"
    # gpu = "h100-sxm"
    # engine_version = "vllm 0.32.0"
    # dtype = "bfloat16"
    # engine = {"tensor_parallel_size": 1, "block_size": 16, "num_gpu_blocks_override": 27000}
    kind,probe,repeat,at_s,new_tokens,cached_tokens,batch,...

Values in the header are JSON. A cell that does not bear on a kind is empty; a column that no row needs may be absent.
Times are seconds. :data:`KINDS` says which columns a kind needs and which it may have:

``ttft``     one request alone: ``new_tokens`` computed after ``cached_tokens``, ``seconds`` to its first token.
``decode``   ``batch`` sequences decode over ``context_tokens`` each (their mean, where it grows): ``seconds`` a step,
             the median over ``steps`` steps.
``mixed``    one step with a chunk of ``new_tokens`` over ``cached_tokens`` beside ``batch`` sequences that decode over
             ``context_tokens`` each.
``step``     one step of the engine's own log: ``chunks`` of prompts and ``decodes``, as :func:`pack_chunks` and
             :func:`pack_decodes` write them; or the median over ``steps`` alike.
``turn``     one turn of a trajectory under load: lengths, the pause before it, when it was sent, what its client saw.
``point``    a serving point: ``requests`` of ``prompt_tokens`` and ``output_tokens`` each at a ``concurrency``, or at a
             ``request_rate`` a second; mean ``ttft_s`` and ``tpot_s``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a kind: all of ``needed``, at least one of ``times``, maybe ``optional`` ones."""

    needed: tuple[str, ...]
    times: tuple[str, ...] = ("seconds",)
    optional: tuple[str, ...] = ()


ALWAYS = ("probe", "repeat", "at_s", "cpu_wait_s", "flag")
"""Columns that every kind may have."""

KINDS: Mapping[str, Columns] = {
    "ttft": Columns(("new_tokens", "cached_tokens"), optional=("engine_s",)),
    "decode": Columns(("batch", "context_tokens"), optional=("steps",)),
    "mixed": Columns(("new_tokens", "cached_tokens", "batch", "context_tokens"), optional=("steps",)),
    "step": Columns((), optional=("chunks", "decodes", "steps")),
    "turn": Columns(
        ("trajectory", "turn", "prompt_tokens", "output_tokens"),
        ("ttft_s", "e2e_s"),
        ("kept_tokens", "cached_tokens", "pause_s", "arrival_s", "engine_s"),
    ),
    "point": Columns(
        ("prompt_tokens", "output_tokens"),
        ("ttft_s", "tpot_s", "e2e_s"),
        ("concurrency", "request_rate", "requests", "cached_tokens"),
    ),
}


@dataclass(frozen=True, slots=True)
class Observation:
    """One row. None and "" are empty cells; which fields a kind needs is in :data:`KINDS`.

    probe: what was measured, the same for repeats of it; steps of one busy period share it. repeat: which repeat.
    engine_s: the time to the first token on the engine's own clock, without the client's way to it and back.
    at_s: when, on the measuring process' clock. cpu_wait_s: for how much of the time the engine's worker was ready to
    run but had no CPU; the fit takes it off. flag: why the row is doubtful ("background traffic", "throttled"); such
    rows are not fitted.
    """

    kind: str
    seconds: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    engine_s: float | None = None
    new_tokens: int | None = None
    cached_tokens: int | None = None
    kept_tokens: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    batch: int | None = None
    context_tokens: float | None = None
    steps: int | None = None
    chunks: str = ""
    decodes: str = ""
    trajectory: str = ""
    turn: int | None = None
    pause_s: float | None = None
    arrival_s: float | None = None
    concurrency: int | None = None
    request_rate: float | None = None
    requests: int | None = None
    probe: str = ""
    repeat: int | None = None
    at_s: float | None = None
    cpu_wait_s: float | None = None
    flag: str = ""
    line: int | None = field(default=None, compare=False)
    """Where it was read; not written."""


@dataclass(frozen=True, slots=True)
class Header:
    """What was measured, and on what.

    model: hub name or path of a config.json. gpu: kvsim's id, an alias, or a path. engine: vLLM's own argument names
    (:class:`kvsim.EngineConfig`), those that are known. engine_version: "vllm 0.32.0". client: how the engine was
    reached, "http" or "in-process". Only model and gpu are needed, and both may be given to the fit instead.
    """

    model: str = ""
    gpu: str = ""
    engine_version: str = ""
    dtype: str = ""
    engine: Mapping[str, Any] = field(default_factory=dict)
    client: str = ""
    date: str = ""
    source: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Observations:
    """A file's header and rows. ``left_out`` counts broken rows by what was wrong with them; a last line that was cut
    off while it was written is always left out, and is not wrong (``cut_off``)."""

    file: str
    header: Header
    rows: tuple[Observation, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    cut_off: bool = False

    def warnings(self) -> list[str]:
        """One sentence for each way in which rows were left out."""
        found = [f"{self.file}: {count} rows left out: {problem}" for problem, count in self.left_out.items()]
        if self.cut_off:
            found.append(f"{self.file}: the last line was cut off while it was written, and is left out")
        return found


def pack_chunks(chunks: Iterable[tuple[int, int]]) -> str:
    """Chunks of prompts as (new, cached) tokens: ``"512@0 128@1024"``."""
    return " ".join(f"{new}@{cached}" for new, cached in chunks)


def unpack_chunks(text: str) -> list[tuple[int, int]]:
    """Chunks from their text; ValueError if it is none."""
    pairs = [part.split("@") for part in text.split()]
    found = [(int(new), int(cached)) for new, cached in pairs]
    if any(new < 1 or cached < 0 for new, cached in found):
        raise ValueError(text)
    return found


def pack_decodes(contexts: Iterable[int]) -> str:
    """Contexts of decoding sequences (the token fed in included), equal ones counted: ``"812 1024x3"``."""
    return " ".join(
        f"{context}x{count}" if count > 1 else str(context) for context, count in sorted(Counter(contexts).items())
    )


def unpack_decodes(text: str) -> list[int]:
    """Contexts from their text; ValueError if it is none."""
    found: list[int] = []
    for part in text.split():
        context, _, count = part.partition("x")
        found += [int(context)] * int(count or 1)
    if any(context < 1 for context in found):
        raise ValueError(text)
    return found
