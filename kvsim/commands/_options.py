"""Options that several commands share, but for those of the engine."""

from __future__ import annotations

from typing import Annotated

import typer

TRAFFIC = "Traffic"

Files = Annotated[list[str], typer.Argument(metavar="FILES...", help="Log files, globs or folders, plain or gzipped.")]
Format = Annotated[
    str, typer.Option("--format", metavar="NAME", help="Log format; 'auto' recognises each file by its content.")
]
Lenient = Annotated[bool, typer.Option("--lenient", help="Leave broken records out, counted, instead of stopping.")]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="What counts text that has no logged counts: qwen3, llama3, o200k, cl100k, auto, or a tokenizer.json. "
        "Without it: characters / 3.5.",
    ),
]
Model = Annotated[str, typer.Option("--model", "-m", metavar="NAME|FILE", help="Hub name, or path of a config.json.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout (docs/json.md), nothing else.")]

Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Stop at turns beyond the longest context or the KV cache, and at prices beyond the evidence."
    ),
]
UsdPerHour = Annotated[float | None, typer.Option(min=0, metavar="X", help="Your price of one GPU, in US dollars.")]
Calibration = Annotated[
    str | None, typer.Option(metavar="FILE", help="Coefficients in place of those that ship for the GPU.")
]
Backend = Annotated[str, typer.Option(metavar="NAME", help="See 'kvsim backends'; all give the same bits.")]

Threads = Annotated[
    str,
    typer.Option(metavar="N|auto", help="Points at once; auto: one a core, as far as there is memory. Same results."),
]

Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Work on a Ray cluster (kvsim[scale]): host:6379, auto for the one that this machine belongs to, local "
        "for one of its own cores. Same results.",
    ),
]

Duration = Annotated[
    list[str] | None,
    typer.Option(
        "--duration", metavar="TOOL=SECONDS", help="A tool's time where none was logged; '*' is any. Repeat it."
    ),
]
Load = Annotated[
    str | None,
    typer.Option(metavar="K=V,...", help="As in 'kvsim estimate': each trajectory alone, beside this load."),
]
Speedup = Annotated[
    float, typer.Option(metavar="X", help="Logged arrivals come so many times as fast.", rich_help_panel=TRAFFIC)
]
Stagger = Annotated[
    float,
    typer.Option(
        "--stagger", metavar="SECONDS", help="Between the first starts of closed:N, batch:N.", rich_help_panel=TRAFFIC
    ),
]
Seed = Annotated[int, typer.Option(min=0, metavar="S", help="Of random arrivals.", rich_help_panel=TRAFFIC)]

TryGpu = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Another GPU to ask about. Repeat it.")]
TryModel = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Another model to ask about. Repeat it.")]
