"""How many cores there are to work on, and what ``threads=`` means."""

from __future__ import annotations

import os

from kvsim.errors import InputError


def cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_of(threads: int | str) -> int:
    """The number that ``threads`` asks for: itself, or with ``"auto"`` one a core. Raises :class:`InputError`."""
    if threads == "auto":
        return cores()
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"{threads!r} threads", field="threads", remedy='Use a whole number from 1, or "auto"')
    return threads
