"""``kvsim validate``: predictions against measured serving points, and the simulated engine against logs of vLLM."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kvsim.commands import _options as options
from kvsim.errors import InputError


def validate(
    vllm_steps: Annotated[
        Path | None, typer.Option("--vllm-steps", help="Folder with steps_*.jsonl[.gz], their plans and turns.")
    ] = None,
    closed_loop: Annotated[
        Path | None, typer.Option("--closed-loop", help="Folder with such logs, sweeps among them, and manifest.json.")
    ] = None,
    correlation: Annotated[
        bool, typer.Option("--correlation", help="With --closed-loop: what goes with E2E, tokens, PTE or kvsim.")
    ] = False,
    gpu: Annotated[
        list[str] | None, typer.Option("--gpu", "-g", metavar="NAME", help="Only points of this GPU; repeat for more.")
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            metavar="COLUMN,...",
            help="Group points by gpu, model, engine, generation, regime, measure, source, quantization or path.",
        ),
    ] = "gpu,regime",
    apart: Annotated[
        bool, typer.Option("--apart", help="Only the points of deployments that go another way than the law prices.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Write the scatter plot there (needs plotly).")
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="CSV", help="Write single points there.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    json: options.Json = False,
    backend: Annotated[str, typer.Option(help="Where kvsim runs on logs: native or reference.")] = "native",
) -> None:
    """Compare with what was measured.

    Without a folder: predictions of the shipped calibrations against published serving points of vLLM, by the law
    fitted on them and by one that had not seen their model: error, bias and how many of the measured times lie within
    the 90 % interval.

    --vllm-steps replays logged runs of vLLM step by step and compares every decision: who ran, how many tokens, cached
    tokens, evictions, preemptions, free blocks, queue lengths. The last line is the count; exit status 1 if any
    differs.

    --closed-loop fits step times to the sweeps of each folder alone, simulates the runs beside them from their plans,
    and reports the errors of cached tokens, TTFT and E2E next to the spread of the real engine's repeats. The last
    line is the number of runs within the bar. With --correlation: how tokens, their price, PTE and kvsim correlate
    with E2E on these runs, per request, turn index and trajectory, beside repeats of the real engine.
    """
    if vllm_steps is not None and closed_loop is not None:
        raise InputError("give either --vllm-steps or --closed-loop", remedy="Each takes a folder of logs")
    if vllm_steps is not None:
        from kvsim.validate_steps import report

        raise typer.Exit(report(vllm_steps, sys.stdout, backend=backend))
    if closed_loop is not None:
        from kvsim.validate_closed_loop import predict_runs

        found = predict_runs(closed_loop, backend=backend)
        if correlation:
            from kvsim.commands._correlation import print_correlations
            from kvsim.validate_correlation import correlate

            print_correlations(correlate(found), sys.stdout)
        else:
            from kvsim.commands._closed_loop import print_report

            print_report(found, sys.stdout)
        return
    if correlation:
        raise InputError("correlation of what?", field="correlation", remedy="Give --closed-loop FOLDER")
    from kvsim.commands import _accuracy
    from kvsim.commands._console import results
    from kvsim.commands._json import write
    from kvsim.commands._outputs import require_free, write_columns
    from kvsim.hardware import gpu as find_gpu
    from kvsim.validation import COLUMNS, shipped_points, summary

    require_free([None if file is None else str(file) for file in (plot, csv)], force=force)
    names = {find_gpu(name).id for name in gpu or ()}
    points = [
        point
        for point in shipped_points()
        if bool(point["path"]) == apart and (not names or str(point["gpu"]) in names)
    ]
    if not points:
        raise InputError("there are no such points", remedy="Without --gpu and --apart all are shown")
    groups = [name.strip() for name in by.split(",")]
    lines = summary(points, groups)
    if csv is not None:
        write_columns(str(csv), {name: [point[name] for point in points] for name in COLUMNS})
    if plot is not None:
        _accuracy.plot(points, plot)
    if json:
        write(_accuracy.accuracy_object(groups, lines))
    else:
        _accuracy.show(results(), groups, lines)
