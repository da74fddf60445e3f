"""``kvsim validate``: the simulated engine against logs of the real one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def validate(
    vllm_steps: Annotated[
        Path, typer.Option("--vllm-steps", help="Folder with steps_*.jsonl[.gz], their plans and turns.")
    ],
    backend: Annotated[str, typer.Option(help="native or reference; both must agree with the log.")] = "native",
) -> None:
    """Replay logged runs of vLLM step by step and compare every decision; exit status 1 if any differs.

    Compared: who ran, how many tokens, cached tokens, evictions, preemptions, free blocks, queue lengths. The last
    line is the count.
    """
    from kvsim.validate_steps import report

    raise typer.Exit(report(vllm_steps, sys.stdout, backend=backend))
