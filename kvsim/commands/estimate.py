"""``kvsim estimate``: what trajectories cost, for people, JSON and CSV."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvsim.commands import _options as options

if TYPE_CHECKING:
    from pathlib import Path

    from kvsim.commands._outlook import Outlook
    from kvsim.engine import EngineConfig
    from kvsim.load import Load
    from kvsim.trajectory import Batch


def estimate(
    files: options.Files,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME|FILE", help="Hub name, or path of a config.json.")
    ],
    gpu: Annotated[
        list[str], typer.Option("--gpu", "-g", metavar="NAME", help="GPU id or TOML file; repeat it to compare.")
    ],
    load: Annotated[
        str,
        typer.Option(
            metavar="K=V,...",
            help="The traffic beside a trajectory: concurrent=N (sequences in a step), mean_context=TOKENS (of the "
            "others), kv=lru|never|always|ttl:SECONDS|logged (what survives a pause), churn_blocks_per_s=R.",
        ),
    ] = "concurrent=1",
    format: options.Format = "auto",
    tokenizer: options.Tokenizer = None,
    lenient: options.Lenient = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at turns beyond the longest context or the KV cache.")
    ] = False,
    json: options.Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="One row a trajectory on stdout; with --turns, a turn.")] = False,
    turns: Annotated[bool, typer.Option("--turns", help="Show single turns too.")] = False,
    top: Annotated[int, typer.Option(min=0, metavar="N", help="How many of the most expensive to list.")] = 10,
    usd_per_hour: Annotated[
        float | None, typer.Option(min=0, metavar="X", help="Your price of one GPU, in US dollars.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(metavar="FILE", help="Coefficients in place of those that ship for the GPU.")
    ] = None,
    backend: Annotated[
        str, typer.Option(metavar="NAME", help="See 'kvsim backends'; all give the same bits.")
    ] = "auto",
    tensor_parallel_size: options.TensorParallelSize = None,
    dtype: options.Dtype = None,
    quantization: options.Quantization = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    gpu_memory_utilization: options.GpuMemoryUtilization = None,
    max_model_len: options.MaxModelLen = None,
    block_size: options.BlockSize = None,
    num_gpu_blocks_override: options.NumGpuBlocksOverride = None,
    max_num_batched_tokens: options.MaxNumBatchedTokens = None,
    max_num_seqs: options.MaxNumSeqs = None,
    enable_prefix_caching: options.EnablePrefixCaching = None,
) -> None:
    """Say what trajectories cost on a GPU, and where the time goes.

    [bold]kvsim estimate runs/ -m Qwen/Qwen3-8B -g h100-sxm[/bold]

    [bold]kvsim estimate runs/ -m Qwen/Qwen3-8B -g h100-sxm -g rtx-4090[/bold]: side by side

    [bold]kvsim estimate runs/ -m Qwen/Qwen3-8B -g l40s --load concurrent=16,kv=ttl:300 --json[/bold]
    """
    from kvsim.commands._inputs import read_logs
    from kvsim.errors import InputError
    from kvsim.load import Load

    if json and csv:
        raise InputError("--json and --csv both want stdout", remedy="Choose one")
    if calibration is not None and len(gpu) > 1:
        raise InputError("a calibration is of one GPU", field="calibration", remedy="Give --gpu once")
    engine = options.engine_config(
        tensor_parallel_size=tensor_parallel_size,
        dtype=dtype,
        quantization=quantization,
        kv_cache_dtype=kv_cache_dtype,
        gpu_memory_utilization=gpu_memory_utilization,
        max_model_len=max_model_len,
        block_size=block_size,
        num_gpu_blocks_override=num_gpu_blocks_override,
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_seqs=max_num_seqs,
        enable_prefix_caching=enable_prefix_caching,
    )
    declared = Load.parse(load)
    _resolve_early(model, gpu, engine, declared, calibration)
    batch = read_logs(files, format=format, lenient=lenient, tokenizer=tokenizer)
    outlooks = price(
        batch,
        gpus=gpu,
        load=declared,
        model=model,
        engine=engine,
        backend=backend,
        calibration=calibration,
        usd_per_hour=usd_per_hour,
        strict=strict,
    )
    if json:
        _as_json(outlooks, turns=turns)
    elif csv:
        _as_csv(outlooks, turns=turns)
    else:
        _as_text(outlooks, turns=turns, top=top)


def price(batch: Batch, *, gpus: list[str], load: Load, **how: Any) -> list[Outlook]:
    """The batch on each GPU, under the load and where every pause evicts instead."""
    from dataclasses import replace

    from kvsim.commands._outlook import Outlook
    from kvsim.estimation import estimate as ask

    evicting = replace(load, kv="always")
    return [
        Outlook(
            estimate=(as_declared := ask(batch, gpu=gpu, load=load, **how)),
            evicted=as_declared if evicting == load else ask(batch, gpu=gpu, load=evicting, **how),
        )
        for gpu in gpus
    ]


def _resolve_early(
    model: str, gpus: list[str], engine: EngineConfig, load: Load, calibration: str | Path | None
) -> None:
    """Fail on names and fit before a long read, not after it."""
    from kvsim.pricing import resolve_pricing

    for gpu in gpus:
        resolve_pricing(model, gpu, engine, load, calibration)


def _as_json(outlooks: list[Outlook], *, turns: bool) -> None:
    from kvsim import __version__
    from kvsim.commands import _columns, _json, _summary
    from kvsim.commands._console import warn

    batch = outlooks[0].estimate.batch
    warnings = _warnings(outlooks)
    estimates = []
    for outlook in outlooks:
        found = outlook.estimate
        entry: dict[str, Any] = {
            "pricing": _summary.pricing_object(found),
            "beyond_evidence": _summary.beyond_evidence(found),
            "totals": _summary.totals(found),
            "totals_if_evicted_at_every_pause": _summary.totals(outlook.evicted),
            "status_counts": found.status_counts,
            "trajectories": _columns.records(_columns.trajectory_columns(found)),
        }
        if turns:
            entry["turns"] = _columns.records(_columns.turn_columns(found))
        estimates.append(entry)
    _json.write(
        {
            "schema": "kvsim.estimate/1",
            "kvsim": __version__,
            "input": _summary.input_object(batch),
            "estimates": estimates,
            "warnings": warnings,
        }
    )
    warn(warnings)


def _as_csv(outlooks: list[Outlook], *, turns: bool) -> None:
    import csv
    import sys

    from kvsim.commands._columns import records, trajectory_columns, turn_columns
    from kvsim.commands._console import warn

    writer = None
    for outlook in outlooks:
        found = outlook.estimate
        for record in records(turn_columns(found) if turns else trajectory_columns(found)):
            row = {"gpu": found.pricing.gpu.id, **record}
            if writer is None:
                writer = csv.DictWriter(sys.stdout, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow({name: "" if value != value else value for name, value in row.items()})
    warn(_warnings(outlooks))


def _as_text(outlooks: list[Outlook], *, turns: bool, top: int) -> None:
    from kvsim.commands import _comparison, _one_gpu
    from kvsim.commands._console import results, warn

    console = results()
    if len(outlooks) == 1:
        _one_gpu.show(console, outlooks[0], turns=turns, top=top)
    else:
        _comparison.show(console, outlooks)
    warn(_warnings(outlooks))


def _warnings(outlooks: list[Outlook]) -> list[str]:
    from kvsim.commands._summary import price_warnings, read_warnings

    found = read_warnings(outlooks[0].estimate.batch)
    for outlook in outlooks:
        found += price_warnings(outlook.estimate)
    return found
