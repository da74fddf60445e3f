"""Points of a sweep served on several threads before they are asked for, each once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from threading import Lock
from typing import TYPE_CHECKING

from kvsim.commands.sweep._plans import Plan, follow, one

if TYPE_CHECKING:
    from kvsim.commands.sweep._points import Point
    from kvsim.commands.sweep._rows import Row

Serve = Callable[["Point"], "Row"]


class Ahead:
    """Serves points; whoever asks first makes the row, all others wait for it.

    Plans given to :meth:`begin` are followed by so many threads from then on, until ``stack`` is closed. Who asks in
    their order thus gets what one thread would have made, in the same order, only sooner. With one thread nothing is
    made before it is asked for.
    """

    def __init__(self, serve: Serve, stack: ExitStack, threads: int) -> None:
        self._serve = serve
        self._made: dict[Point, Future[Row]] = {}
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        if self._pool is not None:
            stack.callback(self._pool.shutdown, cancel_futures=True)

    def __call__(self, point: Point) -> Row:
        """The point's row; raises what serving it raised."""
        with self._lock:
            future = self._made.get(point)
            if mine := future is None:
                future = self._made[point] = Future()
        if mine:
            try:
                future.set_result(self._serve(point))
            except BaseException as error:
                future.set_exception(error)
        return future.result()

    def begin(self, plans: Iterable[Plan]) -> None:
        """Follow plans that do not depend on each other; within one, points may depend on what came before."""
        if self._pool is not None:
            for plan in plans:
                self._pool.submit(follow, plan, self)

    def begin_all(self, points: Iterable[Point]) -> None:
        """Serve points that do not depend on each other."""
        self.begin(map(one, points))
