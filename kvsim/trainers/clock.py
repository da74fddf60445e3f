"""Measures how long tools take while a trainer runs them."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any

Key = tuple[str, str, str]


class ToolClock:
    """Wraps tools so that the time of every call is kept until someone asks for it.

    A trainer runs the calls of many rollouts mixed and does not say which call a tool was run for. A call is therefore
    known by its name, arguments and answer; calls alike in all three may exchange their times. Calls that are never
    asked for (their rollout was cut) are forgotten by :meth:`forget`. Threads may share a clock.
    """

    def __init__(self) -> None:
        self._seconds: dict[Key, deque[float]] = defaultdict(deque)
        self._together: dict[str, bool] = {}
        self._lock = threading.Lock()

    def wrap(self, tools: Iterable[Callable[..., Any]]) -> list[Callable[..., Any]]:
        """The tools, timed; their names, signatures and docstrings are kept."""
        return [self._timed(tool) for tool in tools]

    def pause_s(self, calls: Iterable[tuple[str, Any, str]]) -> float | None:
        """How long the calls that one turn made took, each (name, arguments, answer) of the tool.

        Coroutines run beside each other, other tools one after the other. A name that is no wrapped tool's was never
        run. None where a call of a wrapped tool is not known.
        """
        one_by_one, together = 0.0, 0.0
        for name, arguments, answer in calls:
            if name not in self._together:
                continue
            seconds = self._take(_key(name, arguments, answer))
            if seconds is None:
                return None
            if self._together[name]:
                together = max(together, seconds)
            else:
                one_by_one += seconds
        return one_by_one + together

    def _take(self, key: Key) -> float | None:
        with self._lock:
            known = self._seconds.get(key)
            return known.popleft() if known else None

    def forget(self) -> None:
        """Let go of all calls not asked for."""
        with self._lock:
            self._seconds.clear()

    def _timed(self, tool: Callable[..., Any]) -> Callable[..., Any]:
        self._together[tool.__name__] = inspect.iscoroutinefunction(tool)
        if self._together[tool.__name__]:

            @functools.wraps(tool)
            async def timed_async(*args: Any, **kwargs: Any) -> Any:
                begun = time.perf_counter()
                try:
                    answer = await tool(*args, **kwargs)
                except (Exception, asyncio.CancelledError) as error:
                    self._keep(tool, args, kwargs, str({"error": str(error)}), begun)
                    raise
                self._keep(tool, args, kwargs, str(answer), begun)
                return answer

            return timed_async

        @functools.wraps(tool)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                answer = tool(*args, **kwargs)
            except Exception as error:
                self._keep(tool, args, kwargs, str({"error": str(error)}), begun)
                raise
            self._keep(tool, args, kwargs, str(answer), begun)
            return answer

        return timed

    def _keep(self, tool: Any, args: Any, kwargs: dict[str, Any], answer: str, begun: float) -> None:
        seconds = time.perf_counter() - begun
        named = dict(zip(inspect.signature(tool).parameters, args, strict=False)) | kwargs
        with self._lock:
            self._seconds[_key(tool.__name__, named, answer)].append(seconds)


def _key(name: str, arguments: Any, answer: str) -> Key:
    return name, json.dumps(arguments, sort_keys=True, default=str), answer
