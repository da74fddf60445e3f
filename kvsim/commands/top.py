"""``kvsim top``: the heaviest trajectories, tools and tool calls."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kvsim.commands import _options as options
from kvsim.commands._engine_options import ALL, with_engine_options
from kvsim.commands._traffic import Traffic
from kvsim.commands._traffic_options import with_traffic_options


@with_engine_options(*ALL)
@with_traffic_options(alone=True)
def top(
    files: options.Files,
    model: Annotated[
        list[str], typer.Option("--model", "-m", metavar="NAME|FILE", help="Repeat it to compare models.")
    ],
    gpu: Annotated[str, typer.Option("--gpu", "-g", metavar="NAME", help="GPU id or TOML file.")],
    load: options.Load = None,
    count: Annotated[int, typer.Option("--top", min=1, metavar="N", help="How many of each to list.")] = 10,
    format: options.Format = "auto",
    tokenizer: options.Tokenizer = None,
    lenient: options.Lenient = False,
    json: options.Json = False,
    usd_per_hour: options.UsdPerHour = None,
    calibration: options.Calibration = None,
    backend: options.Backend = "auto",
    *,
    traffic: Traffic,
    engine_arguments: dict[str, Any],
) -> None:
    """List the heaviest trajectories, tools, tool calls and models.

    [bold]kvsim top runs/ -m Qwen/Qwen3-8B -g h100-sxm[/bold]: each trajectory alone

    [bold]kvsim top runs/ -m Qwen/Qwen3-8B -g h100-sxm --arrivals closed:16[/bold]: all on one engine
    """
    from kvsim.commands import _heaviest
    from kvsim.commands._asked import Asked
    from kvsim.commands._console import results, warn
    from kvsim.commands._inputs import read_logs
    from kvsim.engine import EngineConfig

    engine = EngineConfig(**engine_arguments)
    asked = [
        Asked(name, gpu, engine, load, traffic, calibration, usd_per_hour, backend, strict=False)
        for name in dict.fromkeys(model)
    ]
    for one in asked:  # names and fit fail before a long read, not after it
        one.require_names()
    batch = read_logs(files, format=format, lenient=lenient, tokenizer=tokenizer)
    heaviest = _heaviest.heaviest(batch, asked, count)
    said = list(dict.fromkeys(line for run in heaviest.runs for line in Asked.warnings(run)))
    said += _heaviest.blame_warnings(heaviest)
    if json:
        _heaviest.write_json(heaviest, said)
    else:
        _heaviest.show(results(), heaviest)
    warn(said)
