"""``kvsim explain``: where the time went, and which changes would save most."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kvsim.commands import _options as options
from kvsim.commands._engine_options import ALL, with_engine_options
from kvsim.commands._traffic import Traffic
from kvsim.commands._traffic_options import with_traffic_options


@with_engine_options(*ALL)
@with_traffic_options(alone=True)
def explain(
    files: options.Files,
    model: options.Model,
    gpu: Annotated[str, typer.Option("--gpu", "-g", metavar="NAME", help="GPU id or TOML file.")],
    load: options.Load = None,
    trajectory: Annotated[
        str | None, typer.Option("--trajectory", "-t", metavar="ID", help="Only this one of those read.")
    ] = None,
    by: Annotated[
        str, typer.Option(metavar="UNIT", help="Rank by model_s (time in the model) or latency_s (with tool pauses).")
    ] = "model_s",
    top: Annotated[int, typer.Option(min=1, metavar="N", help="How many changes to list.")] = 10,
    truncate_to: Annotated[
        int, typer.Option(min=0, metavar="TOKENS", help="What long tool responses might be cut to.")
    ] = 1000,
    summary_tokens: Annotated[
        int, typer.Option(min=0, metavar="TOKENS", help="What a compacted context might come to.")
    ] = 1000,
    parallel: Annotated[
        list[str] | None,
        typer.Option(metavar="TOOL", help="A tool whose neighbouring calls do not need each other. Repeat it."),
    ] = None,
    try_gpu: options.TryGpu = None,
    try_model: options.TryModel = None,
    format: options.Format = "auto",
    tokenizer: options.Tokenizer = None,
    lenient: options.Lenient = False,
    strict: options.Strict = False,
    json: options.Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="One row a change on stdout.")] = False,
    usd_per_hour: options.UsdPerHour = None,
    calibration: options.Calibration = None,
    backend: options.Backend = "auto",
    *,
    traffic: Traffic,
    engine_arguments: dict[str, Any],
) -> None:
    """Say where the time went, and rank the changes that would save most, each priced again.

    [bold]kvsim explain runs/ -m Qwen/Qwen3-8B -g h100-sxm[/bold]

    [bold]kvsim explain runs/ -m Qwen/Qwen3-8B -g h100-sxm --arrivals closed:16 --try-gpu h200-sxm[/bold]
    """
    from kvsim.commands import _explain
    from kvsim.commands._asked import Asked
    from kvsim.commands._console import results, warn
    from kvsim.commands._inputs import read_text
    from kvsim.engine import EngineConfig
    from kvsim.errors import InputError

    if json and csv:
        raise InputError("--json and --csv both want stdout", remedy="Choose one")
    asked = Asked(
        model=model,
        gpu=gpu,
        engine=EngineConfig(**engine_arguments),
        load=load,
        traffic=traffic,
        calibration=calibration,
        usd_per_hour=usd_per_hour,
        backend=backend,
        strict=strict,
    )
    asked.require_names()
    wishes = {
        "by": by,
        "top": top,
        "truncate_to": truncate_to,
        "summary_tokens": summary_tokens,
        "parallel": parallel or (),
        "gpus": try_gpu or (),
        "models": try_model or (),
    }
    read = read_text(files, format=format, lenient=lenient, tokenizer=tokenizer)
    explained = _explain.explained(_explain.chosen(read, trajectory), asked, wishes)
    said = asked.warnings(explained.advice.result)
    if json:
        _explain.write_json(explained, said, top=top)
    elif csv:
        _explain.write_csv(explained)
    else:
        _explain.show(results(), explained, top=top)
    warn(said)
