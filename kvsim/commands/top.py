"""``kvsim top``: the heaviest trajectories, tools and tool calls."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kvsim.commands import _options as options
from kvsim.commands._engine_options import ESTIMATED, with_engine_options


@with_engine_options(*ESTIMATED)
def top(
    files: options.Files,
    model: Annotated[
        list[str], typer.Option("--model", "-m", metavar="NAME|FILE", help="Repeat it to compare models.")
    ],
    gpu: Annotated[str, typer.Option("--gpu", "-g", metavar="NAME", help="GPU id or TOML file.")],
    load: Annotated[str, typer.Option(metavar="K=V,...", help="As in 'kvsim estimate'.")] = "concurrent=1",
    count: Annotated[int, typer.Option("--top", min=1, metavar="N", help="How many of each to list.")] = 10,
    format: options.Format = "auto",
    tokenizer: options.Tokenizer = None,
    lenient: options.Lenient = False,
    json: options.Json = False,
    usd_per_hour: options.UsdPerHour = None,
    calibration: options.Calibration = None,
    backend: options.Backend = "auto",
    *,
    engine_arguments: dict[str, Any],
) -> None:
    """List the heaviest trajectories, tools, tool calls and models.

    [bold]kvsim top runs/ -m Qwen/Qwen3-8B -g h100-sxm[/bold]
    """
    from kvsim.commands import _heaviest
    from kvsim.commands._console import results, warn
    from kvsim.commands._inputs import read_logs
    from kvsim.commands._pricing_facts import price_warnings
    from kvsim.commands._reading_facts import read_warnings
    from kvsim.engine import EngineConfig
    from kvsim.insight.what_if.deployment import Deployment
    from kvsim.load import Load

    declared = Load.parse(load)
    engine = EngineConfig(**engine_arguments)
    deployments = [
        Deployment(name, gpu, engine, declared, calibration, usd_per_hour, backend) for name in dict.fromkeys(model)
    ]
    for deployment in deployments:  # names and fit fail before a long read, not after it
        _ = deployment.pricing
    batch = read_logs(files, format=format, lenient=lenient, tokenizer=tokenizer)
    heaviest = _heaviest.heaviest(batch, deployments, count)
    said = [*read_warnings(batch), *(line for run in heaviest.runs for line in price_warnings(run))]
    if json:
        _heaviest.write_json(heaviest, said)
    else:
        _heaviest.show(results(), heaviest)
    warn(said)
