"""Options of the traffic that a simulation serves, and their way into a Traffic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from kvsim.commands import _options as options
from kvsim.commands._shared_options import Command, options_of, with_options
from kvsim.commands._traffic import ALONE, Traffic


def _options(
    arrivals: Annotated[
        str,
        typer.Option(
            metavar="PATTERN",
            help="How turns come: logged, poisson:R (trajectory starts a second), closed:N (trajectories in flight), "
            "batch:N (so many at a time: a synchronous rollout).",
            rich_help_panel=options.TRAFFIC,
        ),
    ] = "logged",
    retention: Annotated[
        str,
        typer.Option(
            metavar="POLICY",
            help="What stays in the KV cache while nobody uses it: lru (vLLM's), drop (nothing), ...; "
            "an unknown name lists the known ones.",
            rich_help_panel=options.TRAFFIC,
        ),
    ] = "lru",
    replicas: Annotated[
        int, typer.Option(min=1, metavar="N", help="Engines behind a router.", rich_help_panel=options.TRAFFIC)
    ] = 1,
    router: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Which replica a turn goes to: round-robin, least-loaded, sticky, prefix-aware.",
            rich_help_panel=options.TRAFFIC,
        ),
    ] = "round-robin",
    speedup: options.Speedup = 1.0,
    stagger: options.Stagger = 0.0,
    seed: options.Seed = 0,
) -> None:
    """All of them, in their order: as ``--help`` shows them."""


def _sharing(
    arrivals: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="As in 'kvsim simulate': all on shared engines, coming so. Without it each trajectory is estimated "
            "alone.",
            rich_help_panel=options.TRAFFIC,
        ),
    ] = None,
) -> None:
    """``--arrivals`` of commands that simulate only if it is given."""


def with_traffic_options(*, alone: bool) -> Callable[[Command], Command]:
    """Decorates a command with these options; it takes what was given as ``traffic``.

    alone: without ``--arrivals`` trajectories are estimated alone.
    """
    known = dict(options_of(_options)) | (dict(options_of(_sharing)) if alone else {})
    return with_options(list(known.values()), "traffic", _traffic)


def _traffic(given: dict[str, Any]) -> Traffic:
    return Traffic(given.pop("arrivals") or ALONE, stagger_s=given.pop("stagger"), **given)
