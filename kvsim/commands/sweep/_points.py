"""The points of a sweep: every combination of the values of its axes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import product
from typing import TYPE_CHECKING, Any

from kvsim.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@dataclass(frozen=True)
class Point:
    """One simulation of a sweep, by what sets it apart; the coordinates that CSV and JSON carry."""

    model: str
    gpu: str
    num_gpu_blocks_override: int | None
    replicas: int
    router: str
    retention: str
    pause_scale: float
    arrivals: str


AXES = tuple(field.name for field in fields(Point))


@dataclass(frozen=True)
class Grid:
    """The values of each axis, in the order asked for."""

    model: Sequence[str]
    gpu: Sequence[str]
    num_gpu_blocks_override: Sequence[int | None]
    replicas: Sequence[int]
    router: Sequence[str]
    retention: Sequence[str]
    pause_scale: Sequence[float]
    arrivals: Sequence[str]

    def points(self) -> Iterator[Point]:
        """All combinations; the last axis varies fastest."""
        for values in product(*(getattr(self, axis) for axis in AXES)):
            yield Point(*values)

    def __len__(self) -> int:
        total = 1
        for axis in AXES:
            total *= len(getattr(self, axis))
        return total


def values_of(texts: Sequence[str], kind: Callable[[str], Any], field: str, remedy: str) -> list[Any]:
    """The values of repeated or comma-separated texts, each once; InputError naming the option and the remedy."""
    found = []
    for text in (part.strip() for whole in texts for part in whole.split(",")):
        try:
            found.append(kind(text))
        except ValueError:
            raise InputError(f"{text!r} is no value of it", field=field, remedy=remedy) from None
    return list(dict.fromkeys(found))


def count_of(least: int) -> Callable[[str], int]:
    """Reads whole numbers of at least that much."""

    def read(text: str) -> int:
        if (value := int(text)) < least:
            raise ValueError
        return value

    return read


def factor(text: str) -> float:
    """A finite number above 0."""
    if not 0 < (value := float(text)) < float("inf"):
        raise ValueError
    return value


def word(text: str) -> str:
    """Anything but nothing."""
    if not text:
        raise ValueError
    return text
