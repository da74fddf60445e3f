"""Rollouts with one turn left out, as readable text; ``csrc/without.hpp`` is the fast text of the same function.

A turn is a request with the tool calls it ends in. Leaving it out, the next one reads what this one read, when this
one would have come; what it wrote, what its tools answered and the pause in which they did are gone, from all later
contexts too. A later turn that no longer held the whole of that stretch (a rewritten context) keeps its prompt, and
keeps of its parent's context only what stood before the stretch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
F = TypeVar("F", bound=Callable[..., object])

if TYPE_CHECKING or "jit" not in globals():

    def jit(function: F) -> F:
        """Leaves the function as it is: the reference is uncompiled Python."""
        return function


class Given(NamedTuple):
    """The columns of a batch that matter here; without joins the last two have length 0."""

    parent: Ints
    after: Ints
    kept: Ints
    prompt: Ints
    pause_ns: Ints
    arrival_ns: Ints
    waits_offsets: Ints
    waits_rows: Ints


class Left(NamedTuple):
    """The turns that are left, those of one removal after the other; the last two have length 0 without joins.

    ``source``: the row that each is a copy of. ``waits_offsets`` (rows + 1,).
    """

    parent: Ints
    after: Ints
    kept: Ints
    prompt: Ints
    pause_ns: Ints
    arrival_ns: Ints
    source: Ints
    waits_offsets: Ints
    waits_rows: Ints


@jit
def without(
    given: Given,
    offsets: Ints,
    entries: Ints,
    rollouts: Ints,
    positions: Ints,
    base: int,
    local: Ints,
    shifts: Ints,
    left: Left,
) -> int:
    """Writes for each removal r the turns of rollout ``rollouts[r]`` but that at ``positions[r]``.

    Rollout i goes through ``entries[offsets[i]:offsets[i + 1]]``, rows of the batch in dependency order. Rows of the
    result are numbered from ``base``; a turn that needs one that its rollout does not go through refers to that row of
    the batch. ``local`` (rows of the batch,) and ``shifts`` (longest rollout,) are scratch, the first zeroed. Returns
    how many rows are waited for; they are written where ``waits_rows`` has room.
    """
    parents, afters, kepts, prompts, pauses, arrivals, waits, waited_rows = given
    parent_out, after_out, kept_out, prompt_out, pause_out, arrival_out, source_out, waits_out, waited_out = left
    joins = len(waits) > 0
    waited = 0
    number = 0
    numbered = -1
    for removal in range(len(rollouts)):
        begin = offsets[rollouts[removal]]
        size = offsets[rollouts[removal] + 1] - begin
        if rollouts[removal] != numbered:
            numbered = rollouts[removal]
            for place in range(size):
                local[entries[begin + place]] = place
        position = positions[removal]
        gone = entries[begin + position]
        cut = prompts[gone]
        start = base + number
        for place in range(size):
            if place == position:
                continue
            row = entries[begin + place]
            parent = parents[row]
            kept = kepts[row]
            prompt = prompts[row]
            shift = 0
            if parent == gone:
                parent = parents[gone]
                if kept >= cut:
                    shift = prompt - cut
                    prompt = cut
                kept = min(kept, kepts[gone])
            elif parent >= 0 and place > position:
                above = place_of(entries, begin, size, local, parent)
                shift = shifts[above] if above > position else 0
                if kept >= cut + shift:
                    kept -= shift
                    prompt -= shift
                else:
                    kept = min(kept, cut)
                    shift = 0
            shifts[place] = shift
            after = afters[row]
            pause_ns = pauses[row]
            arrival_ns = arrivals[row]
            follows = after == gone
            if follows:
                after = afters[gone]
                pause_ns = pauses[gone]
                arrival_ns = arrivals[gone]
            parent_out[number] = renumbered(entries, begin, size, local, position, start, parent)
            after_out[number] = renumbered(entries, begin, size, local, position, start, after)
            kept_out[number] = kept
            prompt_out[number] = prompt
            pause_out[number] = pause_ns
            arrival_out[number] = arrival_ns
            source_out[number] = row
            if joins:
                waits_out[number] = waited
                for wait in range(waits[row], waits[row + 1]):
                    needed = waited_rows[wait]
                    if needed != gone:
                        if len(waited_out) > 0:
                            waited_out[waited] = renumbered(entries, begin, size, local, position, start, needed)
                        waited += 1
                        continue
                    follows = True
                    if afters[gone] >= 0:
                        if len(waited_out) > 0:
                            waited_out[waited] = renumbered(entries, begin, size, local, position, start, afters[gone])
                        waited += 1
                if follows:
                    for wait in range(waits[gone], waits[gone + 1]):
                        if len(waited_out) > 0:
                            waited_out[waited] = renumbered(
                                entries, begin, size, local, position, start, waited_rows[wait]
                            )
                        waited += 1
            number += 1
    if joins:
        waits_out[number] = waited
    return waited


@jit
def place_of(entries: Ints, begin: int, size: int, local: Ints, row: int) -> int:
    """Where in the rollout at hand a row stands, -1 if nowhere."""
    place: int = local[row]
    return place if place < size and entries[begin + place] == row else -1


@jit
def renumbered(entries: Ints, begin: int, size: int, local: Ints, position: int, start: int, row: int) -> int:
    """The number of a row's copy, that of the row itself where the rollout does not go through it, -1 for none."""
    if row < 0:
        return -1
    place = place_of(entries, begin, size, local, row)
    if place < 0:
        return row
    return start + place - (1 if place > position else 0)
