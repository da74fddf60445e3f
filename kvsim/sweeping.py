"""``sweep``: a batch simulated at many points, on as many threads as are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from kvsim.cores import in_order, threads_of
from kvsim.errors import InputError
from kvsim.simulation import begin, simulate
from kvsim.together import group_size, served_together

if TYPE_CHECKING:
    from kvsim.simulated import Simulation
    from kvsim.simulation import Stages
    from kvsim.trajectory import Batch

Kept = TypeVar("Kept")


@overload
def sweep(
    batch: Batch, points: Iterable[Mapping[str, Any]], *, threads: int | str = 1, keep: None = None, **common: Any
) -> Iterator[Simulation]: ...
@overload
def sweep(
    batch: Batch,
    points: Iterable[Mapping[str, Any]],
    *,
    threads: int | str = 1,
    keep: Callable[[Simulation], Kept],
    **common: Any,
) -> Iterator[Kept]: ...
def sweep(
    batch: Batch,
    points: Iterable[Mapping[str, Any]],
    *,
    threads: int | str = 1,
    keep: Callable[[Simulation], Any] | None = None,
    **common: Any,
) -> Iterator[Any]:
    """Simulate a batch at many points; yields the simulations in the order of the points.

        points = [{"arrivals": f"closed:{n}"} for n in range(1, 65)]
        hit_rates = list(kvsim.sweep(batch, points, model="Qwen/Qwen3-8B", gpu="h100-sxm", threads="auto",
                                     keep=lambda run: run.engine.hit_rate))

    points: for each, arguments of :func:`kvsim.simulate` by name; ``common`` are those of all points.
    threads: how many points are simulated at once, or ``"auto"``: one a core. The core runs without the GIL; what a
        point takes in Python, about an eighth of a millisecond whatever the batch, goes one at a time. With
        ``backend="cuda"`` for all points, up to 2,048 of them are on the device at once while this thread prepares as
        many more, whatever ``threads`` is.
    keep: what is kept of a simulation, made on the thread that ran it (on a device: on the caller's). Without, whole
        simulations are, a few a thread (on a device: as many as are there) ahead of the one that is yielded. A column
        of turns keeps its run's other columns in memory: keep a copy, or sums.

    The results do not depend on ``threads``. Raises :class:`kvsim.errors.InputError` for points that are no mappings
    or give what ``common`` gives too, and what ``simulate`` raises when the point's turn comes.
    """
    wanted = threads_of(threads)
    if common.get("backend") == "cuda":
        begun = (partial(_begun_at, batch, one, common) for one in enumerate(points))
        there = served_together(begun, group_size(batch.turns))
        return there if keep is None else map(keep, there)

    def run(numbered: tuple[int, Mapping[str, Any]]) -> Any:
        made = simulated_at(batch, numbered, common)
        return made if keep is None else keep(made)

    return in_order(run, enumerate(points), wanted)


def simulated_at(batch: Batch, numbered: tuple[int, Mapping[str, Any]], common: Mapping[str, Any]) -> Simulation:
    """The simulation at a point; its number is for errors."""
    return simulate(batch, **_asked_at(numbered, common))


def _begun_at(batch: Batch, numbered: tuple[int, Mapping[str, Any]], common: Mapping[str, Any]) -> Stages:
    return begin(batch, **_asked_at(numbered, common))


def _asked_at(numbered: tuple[int, Mapping[str, Any]], common: Mapping[str, Any]) -> dict[str, Any]:
    number, point = numbered
    if not isinstance(point, Mapping) or (twice := sorted(set(point) & set(common))):
        problem = f"gives {twice} as all points do" if isinstance(point, Mapping) else f"is a {type(point).__name__}"
        raise InputError(
            f"point {number} {problem}", field="points", remedy="Give mappings of what differs between the points"
        )
    return {**common, **point}
