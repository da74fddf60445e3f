"""``kvsim validate``: the simulated engine against logs of the real one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

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
    backend: Annotated[str, typer.Option(help="Where kvsim runs: native or reference.")] = "native",
) -> None:
    """Compare with logged runs of vLLM.

    --vllm-steps replays them step by step and compares every decision: who ran, how many tokens, cached tokens,
    evictions, preemptions, free blocks, queue lengths. The last line is the count; exit status 1 if any differs.

    --closed-loop fits step times to the sweeps of each folder alone, simulates the runs beside them from their plans,
    and reports the errors of cached tokens, TTFT and E2E next to the spread of the real engine's repeats. The last
    line is the number of runs within the bar. With --correlation: how tokens, their price, PTE and kvsim correlate
    with E2E on these runs, per request, turn index and trajectory, beside repeats of the real engine.
    """
    if vllm_steps is not None and closed_loop is None:
        from kvsim.validate_steps import report

        raise typer.Exit(report(vllm_steps, sys.stdout, backend=backend))
    if closed_loop is not None and vllm_steps is None:
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
    raise InputError("give either --vllm-steps or --closed-loop", remedy="Each takes a folder of logs")
