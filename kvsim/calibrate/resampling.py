"""Where fits to evidence drawn anew run: one after the other here, or wherever a map of another kind puts them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Draw = TypeVar("Draw")
Values = TypeVar("Values")
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""As Python's ``map`` with one iterable: results in order."""

_map: ContextVar[Map] = ContextVar("map", default=map)


def fits_to(draws: Iterable[Draw], fit: Callable[[Draw], Values]) -> list[Values]:
    """What ``fit`` makes of each draw, in order. Draws are made before, so that no fit bears on another."""
    return list(_map.get()(fit, list(draws)))


@contextmanager
def mapping(how: Map) -> Iterator[None]:
    """Inside, fits to draws run as that map runs them."""
    before = _map.set(how)
    try:
        yield
    finally:
        _map.reset(before)
