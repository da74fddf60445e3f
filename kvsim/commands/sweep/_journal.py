"""The journal of a sweep: each row in a table as soon as it is known, so that a rerun goes on where another ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kvsim.commands.sweep._points import Point
    from kvsim.commands.sweep._rows import Row


class Table(Protocol):
    """A file or folder that rows are written to."""

    def rows(self) -> Mapping[Point, Row]:
        """The rows that were there already."""
        ...

    def append(self, point: Point, row: Row) -> None:
        """Write a row so that it is there whole or not at all."""
        ...

    def close(self, points: list[Point]) -> None:
        """All rows of a sweep are there, those of these points, in their order."""
        ...


class Journal:
    """Rows by point, those of the table included, if there is one."""

    def __init__(self, table: Table | None) -> None:
        self._table = table
        self._rows = dict(table.rows()) if table is not None else {}
        self._order: dict[Point, None] = {}

    def known(self, point: Point, serve: Callable[[Point], Row]) -> Row:
        """The point's row as it stands here, else as it is served."""
        row = self._rows.get(point)
        return serve(point) if row is None else row

    def row(self, point: Point, serve: Callable[[Point], Row]) -> Row:
        """The point's row, served and written down if it is not there yet."""
        if point not in self._rows:
            row = serve(point)
            if self._table is not None:
                self._table.append(point, row)
            self._rows[point] = row
        self._order.setdefault(point)
        return self._rows[point]

    def close(self) -> None:
        """The sweep is over."""
        if self._table is not None:
            self._table.close(list(self._order))
