"""When what happened to each turn, in whole nanoseconds: what every picture of a result over time is drawn from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from kvsim.backends.kernels import OK
from kvsim.estimation import Estimate
from kvsim.result import STATUSES

if TYPE_CHECKING:
    from kvsim.backends.interface import Ints
    from kvsim.simulated import Simulation

PHASES = ("queue", "recompute", "fresh prefill", "decode")
"""What a turn goes through. What was evicted stands before what is new in a prompt, so it is prefilled first."""


class Spans(NamedTuple):
    """One value a turn, rows as in the batch; instants in nanoseconds from the result's origin of time.

    The instants of a turn never fall: the pause of the tool lies between ``paused`` and ``released`` (equal where the
    turn waited for nobody), each of :data:`PHASES` between the next two. Those of a turn that was not priced or served
    are all its release.
    """

    paused: Ints
    released: Ints
    scheduled: Ints
    recomputed: Ints
    prefilled: Ints
    finished: Ints
    ok: npt.NDArray[np.bool_]
    """Whether the turn was priced or served."""
    status: npt.NDArray[np.str_]
    """``ok``, or why it was not."""
    replica: Ints
    """The engine that served it; 0 in an estimate, and where it was not served."""
    number: Ints
    """Its place among the turns of its trajectory, from 0, in the order of rows."""


def spans_of(result: Estimate | Simulation) -> Spans:
    """The spans of an estimate (each trajectory alone) or of a simulation (all on shared engines)."""
    batch = result.batch
    if isinstance(result, Estimate):
        columns = result.columns
        ok, released = columns.status == OK, columns.release_ns
        scheduled = released
        recomputed = scheduled + columns.recompute_ns
        prefilled = recomputed + columns.fresh_ns
        finished = prefilled + columns.decode_ns
        replica = np.zeros(batch.turns, np.int64)
        status = np.array(STATUSES)[columns.status]
    else:
        served, ok = result.served, result.ok
        released = served.release_ns
        scheduled, prefilled, finished = (
            np.where(ok, instant, released)
            for instant in (served.scheduled_ns, served.first_token_ns, served.finish_ns)
        )
        recomputed = scheduled + np.where(ok, served.recompute_ns, 0)
        replica = np.where(ok, served.replica, 0)
        status = result.turns.status
    paused = released - np.where(batch.waits, batch.pause_ns, 0)
    number = numbers_within(batch.trajectory)
    return Spans(paused, released, scheduled, recomputed, prefilled, finished, ok, status, replica, number)


def numbers_within(groups: Ints) -> Ints:
    """0, 1, 2, ... within each group, in the order of rows, shape (rows,)."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    numbers = np.empty(len(groups), np.int64)
    numbers[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
    return numbers
