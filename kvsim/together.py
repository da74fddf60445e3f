"""Many simulations of one batch on a device: groups of them, one there while the next is prepared here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any

from kvsim.backends.serving import require_no_log, serve_together
from kvsim.simulated import BYTES_PER_TURN

if TYPE_CHECKING:
    from kvsim.simulated import Simulation
    from kvsim.simulation import Stages, Wanted

MOST = 2048
"""So many simulations fill the largest devices: 16 on each of 132 multiprocessors."""

_GROUP_BYTES = 2 << 30


def group_size(turns: int) -> int:
    """How many simulations of so many turns are served together; those of two groups are in memory at once."""
    return max(min(MOST, _GROUP_BYTES // (BYTES_PER_TURN * max(turns, 1))), 1)


def served_together(begun: Iterable[Callable[[], Stages]], size: int) -> Iterator[Simulation]:
    """What the simulations come to, in their order.

    One that cannot be begun, or whose result is refused, raises when its turn comes; what the device cannot do, as soon
    as the first of its group is asked for.
    """
    serve = serve_together()
    rest = iter(begun)
    with ThreadPoolExecutor(1) as device:
        there = _Group(islice(rest, size))
        under_way = device.submit(serve, there.wanted)
        while there.members:
            following = _Group(islice(rest, size))  # prepared while the other is served
            served = under_way.result()
            while there.advance(served):  # those with a timeline are served twice
                served = device.submit(serve, there.wanted).result()
            del served  # it would stay in memory while results leave the group
            under_way = device.submit(serve, following.wanted)
            yield from there.results()
            there = following


class _Group:
    """Simulations under way, and what they wait for."""

    def __init__(self, begun: Iterable[Callable[[], Stages]]) -> None:
        self.members = deque(_Member(begin) for begin in begun)

    @property
    def wanted(self) -> list[tuple[Any, ...]]:
        """What those that wait for something want served."""
        return [member.wanted.inputs for member in self.members if member.wanted is not None]

    def advance(self, served: list[Any]) -> bool:
        """Hands out what was served; whether any wants something more."""
        waiting = (member for member in self.members if member.wanted is not None)
        for member, one in zip(waiting, served, strict=True):
            member.advance(one)
        return any(member.wanted is not None for member in self.members)

    def results(self) -> Iterator[Simulation]:
        """What they came to; each leaves the group."""
        while self.members:
            member = self.members.popleft()
            if member.failure is not None:
                raise member.failure
            yield member.result


class _Member:
    """A simulation under way: what it wants, or what it came to."""

    result: Simulation
    _stages: Stages | None = None

    def __init__(self, begin: Callable[[], Stages]) -> None:
        self.wanted: Wanted | None = None
        self.failure: Exception | None = None
        self._begin = begin
        self.advance(None)

    def advance(self, served: Any) -> None:
        """Goes on with what was served, up to what it wants next."""
        self.wanted = None
        try:
            if self._stages is None:
                self._stages = self._begin()
            wanted = self._stages.send(served)
            require_no_log(wanted.log)
        except StopIteration as end:
            self.result = end.value
        except Exception as error:  # whatever it is, it comes when its turn does
            self.failure = error
        else:
            self.wanted = wanted
