"""The command line: one file a command; numbers on stdout, warnings and errors on stderr.

A command's module imports only typer, so that ``kvsim --help`` is quick; the rest is imported when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from kvsim import __version__
from kvsim.commands import (
    backends,
    calibrate,
    compare,
    convert,
    demo,
    estimate,
    explain,
    export,
    profiles,
    report,
    rewards,
    simulate,
    sweep,
    top,
    validate,
)
from kvsim.commands._group import Group


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"kvsim {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="kvsim",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(
    epilog="Start with [bold]kvsim demo[/bold], then "
    "[bold]kvsim estimate runs/ --model Qwen/Qwen3-8B --gpu h100-sxm[/bold]."
)
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What tool-calling LLM trajectories cost on real GPUs: seconds, KV cache, recomputation, money."""


app.command("estimate", no_args_is_help=True)(estimate.estimate)
app.command("simulate", no_args_is_help=True)(simulate.simulate)
app.command("sweep", no_args_is_help=True)(sweep.sweep)
app.command("explain", no_args_is_help=True)(explain.explain)
app.command("top", no_args_is_help=True)(top.top)
app.command("report", no_args_is_help=True)(report.report)
app.command("rewards", no_args_is_help=True)(rewards.rewards)
app.command("compare", no_args_is_help=True)(compare.compare)
app.command("export", no_args_is_help=True)(export.export)
app.command("demo")(demo.demo)
app.command("convert", no_args_is_help=True)(convert.convert)
app.add_typer(profiles.app, name="profiles")
app.command("backends")(backends.backends)
app.command("calibrate", no_args_is_help=True)(calibrate.calibrate)
app.command("validate")(validate.validate)


def main() -> None:
    """Run the command line; the entry point of the ``kvsim`` script."""
    app(prog_name="kvsim")
