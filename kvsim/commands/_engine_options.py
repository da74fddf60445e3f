"""Options of the engine, by vLLM's names, which many commands take alike, and their way into an EngineConfig."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from kvsim.commands._shared_options import Command, options_of, with_options

_ENGINE = "Engine (vLLM's names and defaults)"


def _options(
    tensor_parallel_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="GPUs that share one model.", rich_help_panel=_ENGINE)
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of weights and arithmetic.", rich_help_panel=_ENGINE)
    ] = None,
    quantization: Annotated[
        str | None, typer.Option(metavar="NAME", help="fp8, awq, gptq, mxfp4, ...", rich_help_panel=_ENGINE)
    ] = None,
    kv_cache_dtype: Annotated[
        str | None, typer.Option(metavar="NAME", help="auto, fp8, ...", rich_help_panel=_ENGINE)
    ] = None,
    gpu_memory_utilization: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of the GPU's memory, 0 to 1.", rich_help_panel=_ENGINE)
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Longest context in tokens.", rich_help_panel=_ENGINE)
    ] = None,
    block_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Tokens a block.", rich_help_panel=_ENGINE)
    ] = None,
    num_gpu_blocks_override: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="KV blocks, as your server logs.", rich_help_panel=_ENGINE)
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Most tokens in a step.", rich_help_panel=_ENGINE)
    ] = None,
    max_num_seqs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Most sequences in a step.", rich_help_panel=_ENGINE)
    ] = None,
    long_prefill_token_threshold: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Most tokens of one prompt in a shared step.", rich_help_panel=_ENGINE),
    ] = None,
    scheduling_policy: Annotated[
        str | None, typer.Option(metavar="fcfs|priority", help="Who is served first.", rich_help_panel=_ENGINE)
    ] = None,
    no_async_scheduling: Annotated[
        bool,
        typer.Option(
            "--no-async-scheduling", help="Decide on a step when the one before has ended.", rich_help_panel=_ENGINE
        ),
    ] = False,
    no_enable_prefix_caching: Annotated[
        bool,
        typer.Option(
            "--no-enable-prefix-caching", help="No turn finds its predecessor's KV blocks.", rich_help_panel=_ENGINE
        ),
    ] = False,
) -> None:
    """All of them, in their order: as ``--help`` shows them."""


ALL = tuple(options_of(_options))
ESTIMATED = tuple(name for name in ALL if name != "scheduling_policy")
"""Those that bear on an estimate: there is no queue in it."""


def with_engine_options(*names: str) -> Callable[[Command], Command]:
    """Decorates a command with these options, after its own; it takes what was given as ``engine_arguments``."""
    known = options_of(_options)
    return with_options([known[name] for name in names], "engine_arguments", _arguments)


def _arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, by the names of EngineConfig: None leaves vLLM's default, ``no_x`` switches x off."""
    switched_off = {
        name.removeprefix("no_"): False for name, value in given.items() if name.startswith("no_") and value
    }
    return switched_off | {
        name: value for name, value in given.items() if not name.startswith("no_") and value is not None
    }
