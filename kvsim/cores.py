"""How many cores there are to work on, what ``threads=`` means, and work in order on several of them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from kvsim.errors import InputError

Item = TypeVar("Item")
Made = TypeVar("Made")

_AHEAD = 4
"""So many items a thread are begun or done before the first of them is asked for."""


def cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_bytes() -> int:
    """The memory that could be had without swapping; where the system does not say, as much as anyone could ask for."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 1 << 62


def threads_of(threads: int | str) -> int:
    """The number that ``threads`` asks for: itself, or with ``"auto"`` one a core. Raises :class:`InputError`."""
    if threads == "auto":
        return cores()
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"{threads!r} threads", field="threads", remedy='Use a whole number from 1, or "auto"')
    return threads


def in_order(work: Callable[[Item], Made], items: Iterable[Item], threads: int) -> Iterator[Made]:
    """What ``work`` makes of each item, in their order, made on so many threads.

    Whoever asks for the next one is one of them: a thread that only waited would be one more than there are cores.
    Work that fails raises when its turn comes; what has not begun by then is not begun any more.
    """
    if threads == 1:
        yield from map(work, items)
        return
    begun: deque[_Job[Item, Made]] = deque()
    with ThreadPoolExecutor(threads - 1) as pool:
        try:
            for item in items:
                begun.append(_Job(item, pool.submit(work, item)))
                if len(begun) >= _AHEAD * threads:
                    yield _first(begun, work)
            while begun:
                yield _first(begun, work)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class _Job(Generic[Item, Made]):
    """An item, and who makes something of it: a thread of the pool, or whoever could cancel that."""

    item: Item
    made: Future[Made]


def _first(begun: deque[_Job[Item, Made]], work: Callable[[Item], Made]) -> Made:
    """What the first job makes. While another thread is at it, this one does those that none has begun."""
    for job in begun:
        if begun[0].made.done() and not begun[0].made.cancelled():
            break
        if job.made.cancel():
            job.made = Future()
            try:
                job.made.set_result(work(job.item))
            except Exception as error:
                job.made.set_exception(error)
    return begun.popleft().made.result()
