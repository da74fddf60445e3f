"""Options that several commands share, and their way into kvsim's objects. Engine options go by vLLM's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from kvsim.engine import EngineConfig

_ENGINE = "Engine (vLLM's names and defaults)"
_TRAFFIC = "Traffic"

Files = Annotated[list[str], typer.Argument(metavar="FILES...", help="Log files, globs or folders, plain or gzipped.")]
Format = Annotated[
    str, typer.Option("--format", metavar="NAME", help="Log format; 'auto' recognises each file by its content.")
]
Lenient = Annotated[bool, typer.Option("--lenient", help="Leave broken records out, counted, instead of stopping.")]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="What counts text that has no logged counts: qwen3, llama3, o200k, cl100k, auto, or a tokenizer.json. "
        "Without it: characters / 3.5.",
    ),
]
Model = Annotated[str, typer.Option("--model", "-m", metavar="NAME|FILE", help="Hub name, or path of a config.json.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout (docs/json.md), nothing else.")]

Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Stop at turns beyond the longest context or the KV cache, and at prices beyond the evidence."
    ),
]
UsdPerHour = Annotated[float | None, typer.Option(min=0, metavar="X", help="Your price of one GPU, in US dollars.")]
Calibration = Annotated[
    str | None, typer.Option(metavar="FILE", help="Coefficients in place of those that ship for the GPU.")
]
Backend = Annotated[str, typer.Option(metavar="NAME", help="See 'kvsim backends'; all give the same bits.")]

Threads = Annotated[
    str,
    typer.Option(metavar="N|auto", help="Points at once; auto: one a core, as far as there is memory. Same results."),
]

Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Work on a Ray cluster (kvsim[scale]): host:6379, auto for the one that this machine belongs to, local "
        "for one of its own cores. Same results.",
    ),
]

Duration = Annotated[
    list[str] | None,
    typer.Option(
        "--duration", metavar="TOOL=SECONDS", help="A tool's time where none was logged; '*' is any. Repeat it."
    ),
]
Load = Annotated[
    str | None,
    typer.Option(metavar="K=V,...", help="As in 'kvsim estimate': each trajectory alone, beside this load."),
]
Sharing = Annotated[
    str | None,
    typer.Option(
        "--arrivals",
        metavar="PATTERN",
        help="As in 'kvsim simulate': all on shared engines, coming so. Without it each trajectory is estimated alone.",
        rich_help_panel=_TRAFFIC,
    ),
]
Arrivals = Annotated[
    str,
    typer.Option(
        metavar="PATTERN",
        help="How turns come: logged, poisson:R (trajectory starts a second), closed:N (trajectories in flight), "
        "batch:N (so many at a time: a synchronous rollout).",
        rich_help_panel=_TRAFFIC,
    ),
]
Retention = Annotated[
    str,
    typer.Option(
        metavar="POLICY",
        help="What stays in the KV cache while nobody uses it: lru (vLLM's), drop (nothing), ...; "
        "an unknown name lists the known ones.",
        rich_help_panel=_TRAFFIC,
    ),
]
Replicas = Annotated[int, typer.Option(min=1, metavar="N", help="Engines behind a router.", rich_help_panel=_TRAFFIC)]
Router = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Which replica a turn goes to: round-robin, least-loaded, sticky, prefix-aware.",
        rich_help_panel=_TRAFFIC,
    ),
]
Speedup = Annotated[
    float, typer.Option(metavar="X", help="Logged arrivals come so many times as fast.", rich_help_panel=_TRAFFIC)
]
Stagger = Annotated[
    float,
    typer.Option(
        "--stagger", metavar="SECONDS", help="Between the first starts of closed:N, batch:N.", rich_help_panel=_TRAFFIC
    ),
]
Seed = Annotated[int, typer.Option(min=0, metavar="S", help="Of random arrivals.", rich_help_panel=_TRAFFIC)]

TryGpu = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Another GPU to ask about. Repeat it.")]
TryModel = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Another model to ask about. Repeat it.")]

TensorParallelSize = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="GPUs that share one model.", rich_help_panel=_ENGINE)
]
Dtype = Annotated[str | None, typer.Option(metavar="NAME", help="Of weights and arithmetic.", rich_help_panel=_ENGINE)]
Quantization = Annotated[
    str | None, typer.Option(metavar="NAME", help="fp8, awq, gptq, mxfp4, ...", rich_help_panel=_ENGINE)
]
KvCacheDtype = Annotated[str | None, typer.Option(metavar="NAME", help="auto, fp8, ...", rich_help_panel=_ENGINE)]
GpuMemoryUtilization = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Of the GPU's memory, 0 to 1.", rich_help_panel=_ENGINE)
]
MaxModelLen = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Longest context in tokens.", rich_help_panel=_ENGINE)
]
BlockSize = Annotated[int | None, typer.Option(min=1, metavar="N", help="Tokens a block.", rich_help_panel=_ENGINE)]
NumGpuBlocksOverride = Annotated[
    int | None, typer.Option(min=2, metavar="N", help="KV blocks, as your server logs.", rich_help_panel=_ENGINE)
]
MaxNumBatchedTokens = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Most tokens in a step.", rich_help_panel=_ENGINE)
]
MaxNumSeqs = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Most sequences in a step.", rich_help_panel=_ENGINE)
]
LongPrefillTokenThreshold = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Most tokens of one prompt in a shared step.", rich_help_panel=_ENGINE),
]
SchedulingPolicy = Annotated[
    str | None, typer.Option(metavar="fcfs|priority", help="Who is served first.", rich_help_panel=_ENGINE)
]
NoAsyncScheduling = Annotated[
    bool,
    typer.Option(
        "--no-async-scheduling", help="Decide on a step when the one before has ended.", rich_help_panel=_ENGINE
    ),
]
NoEnablePrefixCaching = Annotated[
    bool,
    typer.Option(
        "--no-enable-prefix-caching", help="No turn finds its predecessor's KV blocks.", rich_help_panel=_ENGINE
    ),
]


def engine_config(given: Mapping[str, Any]) -> EngineConfig:
    """The engine of a command's options, by name; None leaves vLLM's default, ``no_x`` switches x off."""
    from kvsim.engine import EngineConfig

    return EngineConfig(**engine_arguments(given))


def engine_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those engine arguments that were given, by name."""
    from kvsim.engine import EngineConfig

    names = [field.name for field in fields(EngineConfig)]
    chosen: dict[str, Any] = {name: given[name] for name in names if given.get(name) is not None}
    return chosen | {name: False for name in names if given.get(f"no_{name}")}
