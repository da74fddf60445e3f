"""``kvsim rewards``: finished rollouts by what they earned and what they cost."""

from __future__ import annotations

from typing import Annotated

import typer

from kvsim.commands import _options as options


def rewards(
    files: options.Files,
    model: options.Model,
    gpu: Annotated[str, typer.Option("--gpu", "-g", metavar="NAME", help="GPU id or TOML file.")],
    unit: Annotated[
        str, typer.Option(metavar="UNIT", help="latency_s, model_s, gpu_s, kv_byte_s, pte, usd or joules.")
    ] = "gpu_s",
    reward: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD", help="The field of a record that is its reward; without: reward, score, resolved, ..."
        ),
    ] = None,
    correct_above: Annotated[float, typer.Option(metavar="X", help="A rollout of more reward counts as correct.")] = 0,
    duration: options.Duration = None,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="An HTML plot.")] = None,
    load: Annotated[str, typer.Option(metavar="K=V,...", help="As in 'kvsim estimate'.")] = "concurrent=1",
    format: options.Format = "auto",
    tokenizer: options.Tokenizer = None,
    json: options.Json = False,
    usd_per_hour: options.UsdPerHour = None,
    calibration: options.Calibration = None,
    backend: options.Backend = "auto",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the plot.")] = False,
) -> None:
    """Set rewards of finished rollouts against their costs: one run a file, the Pareto front, and a plot.

    [bold]kvsim rewards rollouts/*.jsonl -m Qwen/Qwen3-8B -g h100-sxm -o rewards.html[/bold]
    """
    from kvsim.commands import _json, _reward_runs
    from kvsim.commands._console import print_facts, results, warn
    from kvsim.commands._outputs import require_free
    from kvsim.load import Load
    from kvsim.report import figures
    from kvsim.reward import CostTerm, plot
    from kvsim.reward.scored import read_scored

    require_free([output], force=force)
    if output is not None:
        figures.require_plotly()  # before a long read, not after it
    term = CostTerm(
        model,
        gpu,
        unit=unit,
        load=Load.parse(load),
        calibration=calibration,
        usd_per_hour=usd_per_hour,
        durations=_reward_runs.declared(duration or []),
        backend=backend,
    )
    scored = read_scored(files, reward, format=format, tokenizer=tokenizer)
    runs = [_reward_runs.outcome(run, term, correct_above) for run in scored]
    front = _reward_runs.front(runs)
    if output is not None:
        figures.write(plot.reward_against_cost({run.name: run.points for run in runs}, unit), output)
    warnings = _reward_runs.warnings(runs)
    if json:
        _json.write(_reward_runs.document(runs, front, unit, warnings))
    else:
        _reward_runs.show(results(), runs, front, term)
        if output is not None:
            print_facts(results(), [("Wrote", [output])])
    warn(warnings)
