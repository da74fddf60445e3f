"""``kvsim compare``: runs or models beside each other, by what they cost and what they achieve."""

from __future__ import annotations

from typing import Annotated

import typer

from kvsim.commands import _options as options


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUNS...", help="A run each: a log, a folder, or a glob in quotes. One for several models."
        ),
    ],
    model: Annotated[
        list[str],
        typer.Option("--model", "-m", metavar="NAME|FILE", help="Of all runs; repeat it for one of each run."),
    ],
    gpu: Annotated[
        list[str], typer.Option("--gpu", "-g", metavar="NAME", help="Of all runs; repeat it for one of each run.")
    ],
    unit: Annotated[
        str, typer.Option(metavar="UNIT", help="latency_s, model_s, gpu_s, kv_byte_s, pte, usd or joules.")
    ] = "gpu_s",
    scores: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="CSV or JSON lines with id, score and maybe task: of all runs, or repeated one of each.",
        ),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD", help="The field of a record that is its score; without: reward, score, resolved, ..."
        ),
    ] = None,
    correct_above: Annotated[
        float | None, typer.Option(metavar="X", help="A score above counts 1, others 0; without: as it is.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, metavar="N", help="How many tasks that differ most to list.")] = 5,
    seed: Annotated[int, typer.Option(min=0, metavar="S", help="Of the bootstrap.")] = 0,
    duration: options.Duration = None,
    load: options.Load = None,
    format: options.Format = "auto",
    tokenizer: options.Tokenizer = None,
    json: options.Json = False,
    usd_per_hour: options.UsdPerHour = None,
    calibration: options.Calibration = None,
    backend: options.Backend = "auto",
) -> None:
    """Set runs beside each other: cost against success, the Pareto front, tasks that differ, and how sure that is.

    [bold]kvsim compare before.json after.json -m Qwen/Qwen3-8B -g h100-sxm[/bold]

    [bold]kvsim compare runs/ -m Qwen/Qwen3-8B -m Qwen/Qwen3-32B -g h100-sxm --unit usd[/bold]: one log, two models

    [bold]kvsim compare a/ b/ -m Qwen/Qwen3-8B -g h100-sxm --scores scores.csv[/bold]
    """
    from kvsim.commands import _compared, _comparison_text, _json, _reward_runs
    from kvsim.commands._console import results, warn
    from kvsim.insight.comparison import compare as compare_runs
    from kvsim.insight.comparison import flagged
    from kvsim.load import Load

    found = _compared.compared(
        _compared.settings_of(runs, model, gpu),
        scores or [],
        reward,
        correct_above,
        format=format,
        tokenizer=tokenizer,
        unit=unit,
        load=Load.parse(load or ""),
        calibration=calibration,
        usd_per_hour=usd_per_hour,
        durations=_reward_runs.declared(duration or []),
        backend=backend,
    )
    comparison = compare_runs(found.runs, seed=seed)
    said = [*flagged(comparison), *(f"{what} ({times} times)" for what, times in found.assumptions.items())]
    if json:
        _json.write(_comparison_text.document(comparison, found, unit, seed, said))
    else:
        _comparison_text.show(results(), comparison, found, unit, seed, top)
    warn(said)
