"""Calls of several threads, made as one: for devices, which do much at once as fast as little."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Any


class Gathered:
    """A function of one item, made of one that takes a list of them.

    Whoever comes while no call is under way makes one; those who come meanwhile are the next one's, all together.
    What that raises, each of them gets.
    """

    def __init__(self, together: Callable[[list[Any]], list[Any]]) -> None:
        self._together = together
        self._waiting: list[tuple[Any, Future[Any]]] = []
        self._adds, self._calls = Lock(), Lock()

    def __call__(self, item: Any) -> Any:
        mine: Future[Any] = Future()
        with self._adds:
            self._waiting.append((item, mine))
        with self._calls:
            if not mine.done():
                self._call()
        return mine.result()

    def _call(self) -> None:
        with self._adds:
            taken, self._waiting = self._waiting, []
        try:
            made = self._together([item for item, _ in taken])
        except BaseException as error:
            for _, future in taken:
                future.set_exception(error)
            return
        for (_, future), one in zip(taken, made, strict=True):
            future.set_result(one)
