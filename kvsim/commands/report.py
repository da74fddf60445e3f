"""``kvsim report``: one HTML page about what trajectories cost, where the time went, and what it rests on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kvsim.commands import _options as options
from kvsim.commands._engine_options import ALL, with_engine_options
from kvsim.commands._traffic import Traffic
from kvsim.commands._traffic_options import with_traffic_options


@with_engine_options(*ALL)
@with_traffic_options(alone=True)
def report(
    files: options.Files,
    model: options.Model,
    gpu: Annotated[str, typer.Option("--gpu", "-g", metavar="NAME", help="GPU id or TOML file.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="HTML", help="The page.")],
    load: options.Load = None,
    cliff: Annotated[
        bool | None,
        typer.Option(
            "--cliff/--no-cliff",
            help="Find the eviction cliff by simulating more and more trajectories in flight. Unless told, for up to "
            "100,000 turns.",
            show_default=False,
        ),
    ] = None,
    try_gpu: options.TryGpu = None,
    try_model: options.TryModel = None,
    format: options.Format = "auto",
    tokenizer: options.Tokenizer = None,
    lenient: options.Lenient = False,
    strict: options.Strict = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the page.")] = False,
    usd_per_hour: options.UsdPerHour = None,
    calibration: options.Calibration = None,
    backend: options.Backend = "auto",
    *,
    traffic: Traffic,
    engine_arguments: dict[str, Any],
) -> None:
    """Write one HTML page that shows what trajectories cost and why: complete in itself, opened from the disk.

    [bold]kvsim report runs/ -m Qwen/Qwen3-8B -g h100-sxm -o report.html[/bold]: each trajectory alone

    [bold]kvsim report runs/ -m Qwen/Qwen3-8B -g h100-sxm --arrivals closed:16 -o report.html[/bold]: all on one engine
    """
    from kvsim.commands import _report
    from kvsim.commands._console import print_facts, results, warn
    from kvsim.commands._inputs import read_text
    from kvsim.commands._outputs import require_free, write_text
    from kvsim.engine import EngineConfig
    from kvsim.report.page import render, require_packages

    require_free([output], force=force)
    require_packages()  # before a long read, not after it
    asked = _report.AskedPage(
        model=model,
        gpu=gpu,
        engine=EngineConfig(**engine_arguments),
        load=load,
        traffic=traffic,
        cliff=cliff,
        gpus=tuple(try_gpu or ()),
        models=tuple(try_model or ()),
        calibration=calibration,
        usd_per_hour=usd_per_hour,
        backend=backend,
        strict=strict,
    )
    asked.require_names()
    said = read_text(files, format=format, lenient=lenient, tokenizer=tokenizer)
    page = _report.page_of(said.batch, asked, said if len(said) else None)
    write_text(output, render(page))
    print_facts(results(), [("Wrote", [output])])
    warn(page.warnings)
