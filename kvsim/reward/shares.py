"""Who pays for what rollouts share: turns of a tree, and prompts that are prefilled once for a group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvsim._door import sealed
from kvsim.backends import get
from kvsim.estimation import Estimate
from kvsim.reward.per_turn import PerTurn
from kvsim.trajectory import Numbered

if TYPE_CHECKING:
    from kvsim.reward.rollouts import Rollouts
    from kvsim.reward.units import Floats, Unit
    from kvsim.trajectory import Ints


@dataclass(frozen=True)
class Shares:
    """What everything costs together, what is shared paid once, and each rollout's share of it.

    ``parts`` (rollouts,) are whole numbers that sum to ``total_parts`` exactly: nanoseconds in the model (latency:
    nanoseconds), KV blocks times nanoseconds, or millionths of a PTE. ``values`` (rollouts,) and ``total`` are the
    same in the unit of the costs; ``turns`` has each rollout's share of each of its turns.

    The rule: a turn that several rollouts went through is paid in equal parts by them. What is saved where prompts of
    a group are prefilled once is given back to its members in proportion to the tokens that each shares (equal
    prompts: in equal parts). Parts that do not divide evenly go to the first rollouts. A latency is shared by nobody:
    everyone waits for it in full, and the total is the sum.
    """

    parts: Ints
    total_parts: int
    values: Floats
    total: float
    turns: PerTurn


def shares_of(rollouts: Rollouts, estimate: Estimate, unit: Unit, own: Floats) -> Shares:
    """The shares of rollouts; ``own`` (rollouts,) is what each costs by itself."""
    paths = rollouts.entries
    amounts = unit.amount(estimate)
    alone = _parts(amounts, unit)
    if unit.name == "latency_s":
        parts = np.rint(own * 1e9).astype(np.int64)
        turns = PerTurn(paths.offsets, unit.value(estimate, alone[paths.values]))
        total_parts = int(parts.sum())
    else:
        paid = alone if rollouts.prefixes is None else _with_shared_prompts(rollouts, estimate, unit, alone)
        of_entry = _split(paid, paths.values)
        parts = np.add.reduceat(of_entry, paths.offsets[:-1]) if len(rollouts) else np.zeros(0, np.int64)
        turns = PerTurn(paths.offsets, unit.value(estimate, of_entry * unit.grain))
        total_parts = int(paid[np.unique(paths.values)].sum())
    values = unit.value(estimate, parts * unit.grain)
    total = float(unit.value(estimate, np.array([total_parts * unit.grain]))[0])
    return Shares(parts, total_parts, values, total, turns)


def _parts(amounts: npt.NDArray[Any], unit: Unit) -> Ints:
    """Amounts in whole grains."""
    return amounts if amounts.dtype == np.int64 else np.rint(amounts / unit.grain).astype(np.int64)


def _with_shared_prompts(rollouts: Rollouts, estimate: Estimate, unit: Unit, alone: Ints) -> Ints:
    """What each turn pays where named prefixes are prefilled once: what that saves is divided among the roots."""
    assert rollouts.prefixes is not None
    prefix, kept = rollouts.prefixes()
    batch = estimate.batch
    root = prefix >= 0
    kept = np.where(root, np.minimum(kept, batch.prompt_tokens), batch.kept_tokens)
    names = Numbered(int(prefix.max(initial=-1)) + 1)
    together = sealed(replace(batch, prefix=prefix, kept_tokens=kept, prefix_names=names))
    priced = Estimate(together, estimate.pricing, get(estimate.backend), estimate.usd_per_hour)
    paid = _parts(unit.amount(priced), unit)
    roots = np.flatnonzero(root)
    roots = roots[np.argsort(prefix[roots], kind="stable")]
    for members in np.split(roots, np.flatnonzero(np.diff(prefix[roots])) + 1):
        saved, weights = int((alone[members] - paid[members]).sum()), kept[members].tolist()
        whole = max(sum(weights), 1)
        given = [saved * weight // whole for weight in weights]
        rest = saved - sum(given)
        paid[members] = alone[members] - np.array(given, np.int64)
        paid[members[:rest]] -= 1
    return paid


def _split(paid: Ints, rows: Ints) -> Ints:
    """Each entry's part of what its row pays, in equal parts, what is left over to the first entries of the row."""
    users = np.bincount(rows, minlength=len(paid))
    if (users <= 1).all():
        return paid[rows]
    by_row = np.argsort(rows, kind="stable")
    starts = np.cumsum(users) - users
    rank = np.empty(len(rows), np.int64)
    rank[by_row] = np.arange(len(rows)) - starts[rows[by_row]]
    each, rest = paid[rows] // users[rows], paid[rows] % users[rows]
    return each + (rank < rest)
