"""``kvsim estimate``: what trajectories cost, for people, JSON and CSV."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kvsim.commands import _options as options
from kvsim.commands._engine_options import ESTIMATED, with_engine_options

_SCALE = "Large logs"


@with_engine_options(*ESTIMATED)
def estimate(
    files: options.Files,
    model: options.Model,
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
    strict: options.Strict = False,
    json: options.Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="One row a trajectory on stdout; with --turns, a turn.")] = False,
    turns: Annotated[bool, typer.Option("--turns", help="Show single turns too.")] = False,
    top: Annotated[int, typer.Option(min=0, metavar="N", help="How many of the most expensive to list.")] = 10,
    parquet: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Price file by file into Parquet files there, for logs that are too large to hold (kvsim[scale]); a "
            "rerun goes on where an earlier one ended. With --turns, turns too.",
            rich_help_panel=_SCALE,
        ),
    ] = None,
    ray: options.Ray = None,
    together: Annotated[
        str,
        typer.Option(
            metavar="N|folder",
            help="With --parquet: read so many neighbouring files, or those of one folder, as one log.",
            rich_help_panel=_SCALE,
        ),
    ] = "1",
    usd_per_hour: options.UsdPerHour = None,
    calibration: options.Calibration = None,
    backend: options.Backend = "auto",
    *,
    engine_arguments: dict[str, Any],
) -> None:
    """Say what trajectories cost on a GPU, and where the time goes.

    [bold]kvsim estimate runs/ -m Qwen/Qwen3-8B -g h100-sxm[/bold]

    [bold]kvsim estimate runs/ -m Qwen/Qwen3-8B -g h100-sxm -g rtx-4090[/bold]: side by side

    [bold]kvsim estimate runs/ -m Qwen/Qwen3-8B -g l40s --load concurrent=16,kv=ttl:300 --json[/bold]
    """
    from kvsim.commands import _comparison, _for_programs, _one_gpu
    from kvsim.commands._console import results, warn
    from kvsim.commands._inputs import read_logs
    from kvsim.commands._outlook import distinct, fitting, look_out, warnings
    from kvsim.engine import EngineConfig
    from kvsim.errors import InputError
    from kvsim.load import Load

    if json and csv:
        raise InputError("--json and --csv both want stdout", remedy="Choose one")
    gpu = distinct(gpu)
    if calibration is not None and len(gpu) > 1:
        raise InputError("a calibration is of one GPU", field="calibration", remedy="Give --gpu once")
    engine = EngineConfig(**engine_arguments)
    declared = Load.parse(load)
    # Names and fit fail before a long read, not after it.
    gpu, misfits = fitting(gpu, model=model, engine=engine, load=declared, calibration=calibration)
    if parquet is not None:
        from kvsim.commands._at_scale import price_into

        if csv:
            raise InputError("--csv and --parquet both want the tables", remedy="Choose one")
        said = price_into(
            parquet,
            files,
            as_json=json,
            console=results(),
            model=model,
            gpu=gpu,
            load=declared,
            engine=engine,
            calibration=calibration,
            usd_per_hour=usd_per_hour,
            strict=strict,
            turns=turns,
            format=format,
            lenient=lenient,
            tokenizer=tokenizer,
            together=int(together) if together.isdigit() else together,
            backend=backend,
            ray=ray,
        )
        warn([*said, *(f"{misfit.gpu}: {misfit.remedy}" for misfit in misfits)])
        return
    if ray is not None:
        raise InputError("a cluster writes its prices to files", field="ray", remedy="Give a folder with --parquet")
    batch = read_logs(files, format=format, lenient=lenient, tokenizer=tokenizer)
    outlooks = look_out(
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
    said = warnings(outlooks, misfits)
    if json:
        _for_programs.write_json(outlooks, said, turns=turns)
    elif csv:
        _for_programs.write_csv(outlooks, turns=turns)
    elif len(outlooks) == 1 and not misfits:
        _one_gpu.show(results(), outlooks[0], turns=turns, top=top)
    else:
        _comparison.show(results(), outlooks, misfits)
    warn(said)
