"""``kvsim export``: priced or simulated trajectories as traces for other viewers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kvsim.commands import _options as options
from kvsim.commands._engine_options import ALL, with_engine_options
from kvsim.commands._traffic import Traffic
from kvsim.commands._traffic_options import with_traffic_options


@with_engine_options(*ALL)
@with_traffic_options(alone=True)
def export(
    files: options.Files,
    model: options.Model,
    gpu: Annotated[str, typer.Option("--gpu", "-g", metavar="NAME", help="GPU id or TOML file.")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to write; gzipped where it ends in .gz.")
    ],
    perfetto: Annotated[
        bool, typer.Option("--perfetto", help="A trace for ui.perfetto.dev and chrome://tracing.")
    ] = False,
    otlp: Annotated[
        bool, typer.Option("--otlp", help="OpenTelemetry spans with gen_ai attributes, OTLP/JSON lines.")
    ] = False,
    begins: Annotated[
        str,
        typer.Option(metavar="TIME", help="When the first trajectory starts in --otlp, as ISO 8601; UTC unless told."),
    ] = "2000-01-01T00:00:00",
    load: options.Load = None,
    bins: Annotated[int, typer.Option(min=1, metavar="N", help="Of the simulation's counters over time.")] = 1_000,
    format: options.Format = "auto",
    tokenizer: options.Tokenizer = None,
    lenient: options.Lenient = False,
    strict: options.Strict = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    usd_per_hour: options.UsdPerHour = None,
    calibration: options.Calibration = None,
    backend: options.Backend = "auto",
    *,
    traffic: Traffic,
    engine_arguments: dict[str, Any],
) -> None:
    """Write a trace of what trajectories do on a GPU: turns, prefill, recompute, decode, tool pauses.

    [bold]kvsim export --perfetto runs/ -m Qwen/Qwen3-8B -g h100-sxm -o trace.json.gz[/bold]: each trajectory alone

    [bold]kvsim export --perfetto runs/ -m Qwen/Qwen3-8B -g h100-sxm --arrivals closed:16 -o trace.json.gz[/bold]

    [bold]kvsim export --otlp runs/ -m Qwen/Qwen3-8B -g h100-sxm -o spans.jsonl[/bold]
    """
    from pathlib import Path

    from kvsim.commands._asked import Asked
    from kvsim.commands._console import print_facts, results, warn
    from kvsim.commands._inputs import read_logs
    from kvsim.commands._outputs import require_free
    from kvsim.commands._reading_facts import read_facts
    from kvsim.engine import EngineConfig
    from kvsim.errors import InputError
    from kvsim.report.otlp import instant_ns, write_otlp
    from kvsim.report.perfetto import write_perfetto

    if perfetto == otlp:
        raise InputError("one file has one form", field="perfetto", remedy="Give --perfetto or --otlp")
    require_free([output], force=force)
    begins_ns = instant_ns(begins)
    engine = EngineConfig(**engine_arguments)
    asked = Asked(model, gpu, engine, load, traffic, calibration, usd_per_hour, backend, strict)
    asked.require_names()
    batch = read_logs(files, format=format, lenient=lenient, tokenizer=tokenizer)
    counters = {"timeline_bins": bins} if perfetto and asked.simulated else {}
    result = asked.priced(batch, strict=strict, **counters)
    if perfetto:
        write_perfetto(result, output)
    else:
        write_otlp(result, output, begins_ns=begins_ns)
    size = Path(output).stat().st_size
    print_facts(
        results(),
        [("Read", read_facts(batch)), ("Load", [asked.fact(result)]), ("Wrote", [f"{output}, {size:,} bytes"])],
    )
    warn(asked.warnings(result))
