"""``kvsim calibrate``: a calibration of one's own, from a live engine or from measurements."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any

import typer

from kvsim.commands import _options as options
from kvsim.commands._engine_options import ALL, with_engine_options

_LIVE = "A live engine"
_FILES = "Measurements"


@with_engine_options(*ALL)
def calibrate(
    more: Annotated[list[str] | None, typer.Argument(metavar="FILES...", help="More files of --measurements.")] = None,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Measure the vLLM server there, http://host:8000.", rich_help_panel=_LIVE),
    ] = None,
    in_process: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Start vLLM in this process with that model and measure it.", rich_help_panel=_LIVE
        ),
    ] = None,
    measurements: Annotated[
        list[str] | None,
        typer.Option(metavar="FILES", help="Fit what was measured before.", rich_help_panel=_FILES),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="TOML", help="The calibration; measurements go beside it (.csv).")
    ] = "calibration.toml",
    gpu: Annotated[str | None, typer.Option("--gpu", "-g", metavar="NAME", help="GPU id or TOML file.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME|FILE", help="Hub name or config.json, where not known."),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.05, metavar="M", help="How long to measure in all.", rich_help_panel=_LIVE)
    ] = 10.0,
    served_model_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which of the server's models.", rich_help_panel=_LIVE)
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", envvar="VLLM_API_KEY", help="The server's key.", rich_help_panel=_LIVE),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(min=1.0, metavar="SECONDS", help="Silence after which it counts as hung.", rich_help_panel=_LIVE),
    ] = 120.0,
    vllm_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Argument of --in-process's vllm.LLM, repeatable.", rich_help_panel=_LIVE
        ),
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Start from this calibration instead of the GPU's; or: datasheet."),
    ] = None,
    only_overheads: Annotated[
        bool, typer.Option("--only-overheads", help="Keep the GPU's rates, fit the engine's overheads.")
    ] = False,
    format: Annotated[
        str, typer.Option(metavar="NAME", help="Format of logs among the files.", rich_help_panel=_FILES)
    ] = "auto",
    lenient: options.Lenient = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the calibration file.")] = False,
    ray: options.Ray = None,
    *,
    engine_arguments: dict[str, Any],
) -> None:
    """Fit the law of step times to your own engine.

    [bold]kvsim calibrate --url http://localhost:8000 --gpu l40s --minutes 5 -o my.toml[/bold]

    [bold]kvsim calibrate --measurements my.csv -o my.toml[/bold]

    The engine must serve nobody else meanwhile. Measurements are on the disk as soon as they are taken: after an
    interruption the same command goes on.
    """
    from kvsim.commands import _calibrate
    from kvsim.errors import InputError

    ways = [way for way in (url, in_process, measurements) if way]
    if len(ways) != 1:
        raise InputError(
            "give one of --url, --in-process and --measurements" if not ways else "more than one source",
            remedy="An engine is measured, or files are fitted",
        )
    if more and not measurements:
        raise InputError(f"{more[0]!r} is no option", remedy="Files follow --measurements")
    how = _calibrate.How(gpu, model, engine_arguments, prior, only_overheads, output, force)
    with ExitStack() as stack:
        if ray is not None:
            from kvsim.scale import resampling

            stack.enter_context(resampling(ray))
        if measurements:
            _calibrate.from_files([*measurements, *(more or [])], how, format=format, lenient=lenient)
        elif url:
            _calibrate.from_server(url, how, minutes, served_model_name, api_key, timeout)
        elif in_process:
            _calibrate.from_process(in_process, how, minutes, vllm_arg or [])
