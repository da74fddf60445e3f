"""``kvsim sweep``: many simulations of the same trajectories, side by side."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kvsim.commands import _options as options
from kvsim.commands._engine_options import ALL, with_engine_options

_AXES = "Axes: every combination of their values is a point"


@with_engine_options(*(name for name in ALL if name != "num_gpu_blocks_override"))
def sweep(
    files: options.Files,
    model: Annotated[
        list[str],
        typer.Option(
            "--model", "-m", metavar="NAME|FILE", help="Hub name or config.json; repeat it.", rich_help_panel=_AXES
        ),
    ],
    gpu: Annotated[
        list[str],
        typer.Option("--gpu", "-g", metavar="NAME", help="GPU id or TOML file; repeat it.", rich_help_panel=_AXES),
    ],
    concurrency: Annotated[
        list[str] | None,
        typer.Option(metavar="N,...", help="Trajectories in flight: closed:N.", rich_help_panel=_AXES),
    ] = None,
    arrivals: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN,...", help="As kvsim simulate has them.", rich_help_panel=_AXES),
    ] = None,
    retention: Annotated[
        list[str] | None,
        typer.Option(metavar="POLICY,...", help="As kvsim simulate has them.", rich_help_panel=_AXES),
    ] = None,
    blocks: Annotated[
        list[str] | None,
        typer.Option(
            "--blocks",
            "--num-gpu-blocks-override",
            metavar="N,...",
            help="KV blocks in place of what the GPU has room for.",
            rich_help_panel=_AXES,
        ),
    ] = None,
    kv_tokens: Annotated[
        list[str] | None,
        typer.Option(metavar="N,...", help="The same in tokens.", rich_help_panel=_AXES),
    ] = None,
    replicas: Annotated[
        list[str] | None, typer.Option(metavar="N,...", help="Engines behind a router.", rich_help_panel=_AXES)
    ] = None,
    router: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME,...", help="As kvsim simulate has them.", rich_help_panel=_AXES),
    ] = None,
    pause_scale: Annotated[
        list[str] | None,
        typer.Option(metavar="X,...", help="Every tool pause times that.", rich_help_panel=_AXES),
    ] = None,
    cliff: Annotated[
        bool,
        typer.Option(
            "--cliff",
            help="At how many in flight reuse collapses: less than half of the tokens that had been cached are still "
            "there when they are needed. Tries 1, 2, 4, ... up to all trajectories or until less than a tenth is "
            "left, then halves to the exact number.",
            rich_help_panel="Presets",
        ),
    ] = False,
    break_even: Annotated[
        bool,
        typer.Option(
            "--break-even",
            help="From which mean pause on recomputing beats keeping. Keeping a context of L tokens through a pause "
            "of P seconds takes L x P token-seconds of a cache that other turns then wait for; dropping it costs one "
            "prefill of L tokens. Simulates these trajectories with pauses times 0.1 to 100, every context kept "
            "(pin) or dropped (drop), lru beside them: the break-even is the mean pause from which on drop has the "
            "shorter mean time in the model, queue included. --retention compares others, the first against the last. "
            "Unless told, as many are in flight as want twice the KV cache.",
            rich_help_panel="Presets",
        ),
    ] = False,
    csv: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write all columns of each point there as soon as it is known; a rerun skips points that are there.",
        ),
    ] = None,
    parquet: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="The same as Parquet files, one a point (kvsim[scale])."),
    ] = None,
    threads: options.Threads = "auto",
    ray: options.Ray = None,
    speedup: options.Speedup = 1.0,
    stagger: options.Stagger = 0.0,
    seed: options.Seed = 0,
    format: options.Format = "auto",
    tokenizer: options.Tokenizer = None,
    lenient: options.Lenient = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at points that cannot be, and at turns that cannot be served.")
    ] = False,
    json: options.Json = False,
    usd_per_hour: options.UsdPerHour = None,
    calibration: options.Calibration = None,
    backend: options.Backend = "auto",
    *,
    engine_arguments: dict[str, Any],
) -> None:
    """Simulate the same trajectories at many points: GPUs, models, concurrency, KV cache, policies.

    [bold]kvsim sweep runs/ -m Qwen/Qwen3-8B -g h100-sxm -g l40s --concurrency 1,8,64 --csv points.csv[/bold]

    [bold]kvsim sweep runs/ -m Qwen/Qwen3-8B -g h100-sxm --cliff[/bold]: when contexts push each other out

    [bold]kvsim sweep runs/ -m Qwen/Qwen3-8B -g h100-sxm --break-even[/bold]: when keeping them does not pay
    """
    from kvsim.commands._console import results, warn
    from kvsim.commands._inputs import read_logs
    from kvsim.commands.sweep import _asked, _found, _json, _text
    from kvsim.commands.sweep._journal import Journal
    from kvsim.commands.sweep._running import run
    from kvsim.commands.sweep._serving import Conditions, Server, where_served
    from kvsim.commands.sweep._tables import table_of
    from kvsim.engine import EngineConfig
    from kvsim.pricing import require_price

    require_price(usd_per_hour)
    engine = EngineConfig(**engine_arguments)
    models, gpus = _asked.models_of(model), _asked.gpus_of(gpu)
    grid = _asked.grid_of(
        models,
        gpus,
        engine,
        concurrency=concurrency,
        arrivals=arrivals,
        retention=retention,
        blocks=blocks,
        kv_tokens=kv_tokens,
        replicas=replicas,
        router=router,
        pause_scale=pause_scale,
        cliff=cliff,
        break_even=break_even,
    )
    conditions = Conditions(
        models=models,
        gpus=gpus,
        engine=engine,
        calibration=_asked.calibration_of(calibration, gpus),
        usd_per_hour=usd_per_hour,
        speedup=speedup,
        stagger_s=stagger,
        seed=seed,
        backend=backend,
        strict=strict,
    )
    conditions.require_names(grid)  # before a long read, not after it
    server = Server(read_logs(files, format=format, lenient=lenient, tokenizer=tokenizer), conditions)
    with where_served(server, ray, threads) as (serve, at_once):
        journal = Journal(table_of(csv, parquet, server.fingerprint()))
        found = run(grid, server, journal, cliff=cliff, break_even=break_even, threads=at_once, serve=serve)
        journal.close()
    pricings = _found.pricings(server, found.rows)
    said = _found.warnings(server, found.rows, pricings)
    if json:
        _json.write_json(server.batch, found, pricings, said)
    else:
        _text.show(results(), server.batch, found, pricings)
    warn(said)
