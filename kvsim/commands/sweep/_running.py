"""Runs a sweep: follows its plans, a point at a time."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from kvsim.commands._progress import Progress
from kvsim.commands.sweep import _plans
from kvsim.commands.sweep._ahead import Ahead
from kvsim.commands.sweep._break_even import break_even_of
from kvsim.commands.sweep._cliff import cliff_of, in_flight
from kvsim.commands.sweep._found import Found
from kvsim.errors import InputError

if TYPE_CHECKING:
    from kvsim.commands.sweep._ahead import Serve
    from kvsim.commands.sweep._journal import Journal
    from kvsim.commands.sweep._points import Grid, Point
    from kvsim.commands.sweep._rows import Row
    from kvsim.commands.sweep._serving import Server


def run(
    grid: Grid, server: Server, journal: Journal, *, cliff: bool, break_even: bool, threads: int, serve: Serve
) -> Found:
    """Rows of all points, and what the preset found on each deployment.

    Points are served ahead, so many at once; rows are taken, written down and counted in their order.
    """
    found = Found()
    if break_even:
        _require_pauses(server)
    with ExitStack() as stack:
        progress = Progress(stack, "points", None if cliff else len(grid))
        ahead = Ahead(lambda point: journal.known(point, serve), stack, threads)

        def row(point: Point) -> Row:
            made = journal.row(point, ahead)
            progress.advance()
            return made

        if cliff:
            ahead.begin(plan for _, plan in _plans.cliffs(grid, len(server.batch)))
            for base, plan in _plans.cliffs(grid, len(server.batch)):
                rows = sorted(_plans.follow(plan, row), key=in_flight)
                found.rows += rows
                found.cliffs += filter(None, [cliff_of(base, rows)])
        elif break_even:
            ahead.begin_all(point for _, plan in _plans.break_evens(grid, server) for point in plan)
            for base, plan in _plans.break_evens(grid, server):
                rows = _plans.follow(plan, row)
                found.rows += rows
                found.break_evens += filter(None, [break_even_of(base, grid.retention, rows)])
        else:
            ahead.begin_all(grid.points())
            found.rows = _plans.follow(_plans.of_grid(grid), row)
    return found


def _require_pauses(server: Server) -> None:
    if not (server.batch.pause_ns[server.batch.after >= 0] > 0).any():
        raise InputError("the trajectories have no pauses", field="pause_s", remedy="Give logs with tool times")
