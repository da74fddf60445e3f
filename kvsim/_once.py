"""Functions whose results are kept: ``functools.lru_cache`` that also takes what cannot be hashed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

Made = TypeVar("Made")


def once(maxsize: int) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    """Call a function once for equal arguments, and anew for such as have no hash (a profile made by hand of lists)."""

    def kept(make: Callable[..., Made]) -> Callable[..., Made]:
        known = lru_cache(maxsize)(make)

        @wraps(make)
        def made(*arguments: object, **named: object) -> Made:
            try:
                return known(*arguments, **named)
            except TypeError:
                if _have_hashes((*arguments, *named.values())):
                    raise
            return make(*arguments, **named)

        made.cache_clear = known.cache_clear  # type: ignore[attr-defined]
        return made

    return kept


def _have_hashes(arguments: tuple[object, ...]) -> bool:
    try:
        hash(arguments)
    except TypeError:
        return False
    return True
