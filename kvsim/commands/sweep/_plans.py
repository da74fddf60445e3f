"""Which points a sweep visits: a grid, or a preset's on each deployment of the grid."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from kvsim.commands.sweep import _break_even, _cliff
from kvsim.commands.sweep._points import Grid, Point
from kvsim.errors import KvsimError

if TYPE_CHECKING:
    from kvsim.commands.sweep._rows import Row
    from kvsim.commands.sweep._serving import Server

Plan = Generator[Point, "Row", None]
"""Yields points and is sent their rows."""


def of_grid(grid: Grid) -> Plan:
    """Every point."""
    for point in grid.points():  # noqa: UP028 - a plan is sent rows, which an iterator does not take
        yield point


def one(point: Point) -> Plan:
    """That point alone."""
    yield point


def cliffs(grid: Grid, trajectories: int) -> Iterator[tuple[Point, Plan]]:
    """A search on each deployment, or its numbers in flight where the grid has some."""
    for base in replace(grid, arrivals=[_cliff.closed(1)]).points():
        plan = of_grid(_around(base, arrivals=grid.arrivals)) if grid.arrivals else _cliff.search(base, trajectories)
        yield base, plan


def break_evens(grid: Grid, server: Server) -> Iterator[tuple[Point, Plan]]:
    """Each pause under each policy on each deployment, by default with as many in flight as press for the cache."""
    wanted: Sequence[str | None] = grid.arrivals or [None]
    for base in replace(grid, retention=grid.retention[:1], pause_scale=[1.0], arrivals=[_cliff.closed(1)]).points():
        for arrivals in wanted:
            point = replace(base, arrivals=_pressing(server, base) if arrivals is None else arrivals)
            yield point, of_grid(_around(point, pause_scale=grid.pause_scale, retention=grid.retention))


def follow(plan: Plan, serve: Callable[[Point], Row]) -> list[Row]:
    """The rows of a plan's points, in its order."""
    rows: list[Row] = []
    try:
        point = next(plan)
        while True:
            rows.append(serve(point))
            point = plan.send(rows[-1])
    except StopIteration:
        return rows


def _around(point: Point, **axes: Any) -> Grid:
    """The grid of one point but for some axes."""
    return Grid(**{axis: [value] for axis, value in asdict(point).items()} | axes)


def _pressing(server: Server, point: Point) -> str:
    try:
        engine = server.conditions.pricing(point).engine
    except KvsimError:  # the point's row will say so
        return _cliff.closed(len(server.batch))
    return _cliff.closed(_break_even.pressing(server.batch, engine, point.replicas))
