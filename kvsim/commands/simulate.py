"""``kvsim simulate``: many trajectories on one engine, for people, JSON and CSV."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kvsim.commands import _options as options
from kvsim.commands._engine_options import ALL, with_engine_options
from kvsim.commands._traffic import Traffic
from kvsim.commands._traffic_options import with_traffic_options


@with_engine_options(*ALL)
@with_traffic_options(alone=False)
def simulate(
    files: options.Files,
    model: options.Model,
    gpu: Annotated[str, typer.Option("--gpu", "-g", metavar="NAME", help="GPU id or TOML file.")],
    format: options.Format = "auto",
    tokenizer: options.Tokenizer = None,
    lenient: options.Lenient = False,
    strict: options.Strict = False,
    json: options.Json = False,
    turns: Annotated[str | None, typer.Option(metavar="CSV", help="Write single turns there, one a row.")] = None,
    timeline: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Show KV use, running, waiting and hits over time, in bins this long."),
    ] = None,
    timeline_csv: Annotated[
        str | None, typer.Option(metavar="CSV", help="Write the timeline there, a bin of a replica a row.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    top: Annotated[int, typer.Option(min=0, metavar="N", help="How many of the slowest to list.")] = 10,
    usd_per_hour: options.UsdPerHour = None,
    calibration: options.Calibration = None,
    backend: options.Backend = "auto",
    *,
    traffic: Traffic,
    engine_arguments: dict[str, Any],
) -> None:
    """Serve trajectories together, with vLLM's own decisions: who waits, what is evicted, and what that costs.

    [bold]kvsim simulate runs/ -m Qwen/Qwen3-8B -g h100-sxm --arrivals closed:16[/bold]

    [bold]kvsim simulate runs/ -m Qwen/Qwen3-8B -g l40s --arrivals poisson:0.5 --retention drop --json[/bold]
    """
    from kvsim import simulation
    from kvsim.columns import turn_columns
    from kvsim.commands import _run_json, _run_text
    from kvsim.commands._console import results, warn
    from kvsim.commands._inputs import read_logs
    from kvsim.commands._outputs import require_free, write_columns
    from kvsim.commands._run_warnings import run_warnings
    from kvsim.commands._traffic import one_turn
    from kvsim.engine import EngineConfig
    from kvsim.errors import InputError

    if timeline_csv is not None and timeline is None:
        raise InputError("a timeline of what resolution?", field="timeline_csv", remedy="Give --timeline SECONDS")
    require_free([turns, timeline_csv], force=force)
    how = {
        "model": model,
        "gpu": gpu,
        "engine": EngineConfig(**engine_arguments),
        "calibration": calibration,
        "usd_per_hour": usd_per_hour,
        "backend": backend,
        **traffic.arguments,
    }
    simulation.simulate(one_turn(), **how)  # names and fit fail before a long read, not after it
    batch = read_logs(files, format=format, lenient=lenient, tokenizer=tokenizer)
    run = simulation.simulate(batch, **how, timeline_s=timeline, strict=strict)
    if turns is not None:
        write_columns(turns, turn_columns(run))
    if timeline_csv is not None:
        write_columns(timeline_csv, dict(run.timeline))
    said = run_warnings(run)
    if json:
        _run_json.write_json(run, traffic, said, timeline=timeline is not None)
    else:
        _run_text.show(results(), run, traffic, top=top, timeline=timeline is not None)
    warn(said)
