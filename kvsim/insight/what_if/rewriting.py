"""Batches as they would be with edits: copies of the families that an edit touches, everything behind it shifted.

A context is a sequence of tokens; a row's prompt begins with the first ``kept_tokens`` of its parent's context. An edit
changes a stretch of it. A later context that kept the whole stretch is shorter or longer by as much, in its kept tokens
and in its prompt. One that kept less than its beginning is as it was. One that kept a part of it (a rewritten context)
is taken to hold the rest of what it held all the same: it keeps its prompt, and reads again what stood from the
stretch's beginning on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvsim._door import checked, sealed
from kvsim.insight.what_if.contexts import Mask, Positions
from kvsim.insight.what_if.edits import Edits
from kvsim.insight.what_if.families import Families, levels
from kvsim.trajectory import Batch, Ints, Numbered, Ragged


@dataclass(frozen=True)
class Rewritten:
    """The variants as one batch, for pricing: without names, segments and logged times.

    ``variant`` and ``original`` (trajectories of the batch,) say whose copy each trajectory is; ``source`` (rows of the
    batch,) which row each is a copy of (a summary: of the row that follows it).
    """

    batch: Batch
    variant: Ints
    original: Ints
    source: Ints
    prefixed: Ints
    """The row whose named prefix a root begins with."""
    kept: Ints
    """Kept tokens of rows, those that roots keep of a named prefix among them; in the batch these are 0."""


def touched_families(families: Families, edits: Edits) -> tuple[Ints, Ints]:
    """Pairs of a variant and a family that its edits touch, ordered by both."""
    variant, row = edits.touched
    count = max(len(families.sizes), 1)
    return np.divmod(np.unique(variant * count + families.of[families.batch.trajectory[row]]), count)


def rewritten(families: Families, edits: Edits) -> Rewritten:
    """All variants, each with the families that its edits touch."""
    return _Copies(families, edits).batch()


def apply(batch: Batch, edits: Edits) -> Batch:
    """The whole batch with the edits of one variant; what it says beside counts stays where it still holds."""
    if not edits.touched[1].size:
        return batch
    made = _Copies(Families.whole(batch), edits).batch()
    source = made.source
    columns: dict[str, Any] = {}
    for name in ("tool", "priority"):
        if getattr(batch, name) is not None:
            columns[name] = getattr(batch, name)[source]
    if batch.prefix is not None:
        columns["prefix"] = np.where(made.batch.parent < 0, batch.prefix[made.prefixed], -1)
    kept = made.kept
    if batch.estimated_tokens is not None:
        most = made.batch.prompt_tokens - kept + made.batch.output_tokens
        columns["estimated_tokens"] = np.minimum(batch.estimated_tokens[source], most)
    result = Batch(
        parent=made.batch.parent,
        after=made.batch.after,
        kept_tokens=kept,
        prompt_tokens=made.batch.prompt_tokens,
        output_tokens=made.batch.output_tokens,
        pause_ns=made.batch.pause_ns,
        arrival_ns=made.batch.arrival_ns,
        trajectory=made.original[made.batch.trajectory],
        waits_for=made.batch.waits_for,
        cached_tokens=made.batch.cached_tokens,
        ids=batch.ids,
        tool_names=batch.tool_names,
        prefix_names=batch.prefix_names,
        report=batch.report,
        **columns,
    )
    return checked(result, lambda row: (None, None))


class _Copies:
    """Rows of copied families, as columns that are changed step by step."""

    def __init__(self, families: Families, edits: Edits) -> None:
        self.families = families
        self.edits = edits
        base = families.batch
        self.block_variant, self.block_family = touched_families(families, edits)
        turns = families.turns(self.block_family)
        self.block_start = np.cumsum(turns) - turns
        copied = np.repeat(np.arange(len(turns)), turns)
        within = np.arange(int(turns.sum())) - self.block_start[copied]
        source = families.rows[families.offsets[self.block_family][copied] + within]
        before, follower = self._summaries()
        self.source = np.concatenate([source, edits.summaries.row])
        self.block = np.concatenate([copied, before])
        self.rows = len(source)
        self.summaries = self.rows + np.arange(len(follower))
        self.follower = follower
        self.parent = self._located(base.parent[self.source])
        self.after = self._located(base.after[self.source])
        self.prompt = base.prompt_tokens[self.source]
        self.kept = base.kept_tokens[self.source]
        self.output = base.output_tokens[self.source]
        self.pause_ns = base.pause_ns[self.source]
        self.arrival_ns = base.arrival_ns[self.source]

    def batch(self) -> Rewritten:
        """The edited rows as a batch."""
        base, families = self.families.batch, self.families
        kept, prompt = self._contexts()
        removed = self._mask(self.edits.removals.variant, self.edits.removals.row)
        parent = self._without_removed(removed, kept, prompt)
        output = self.output
        output[self._places(self.edits.outputs.variant, self.edits.outputs.row)] = self.edits.outputs.tokens
        output[self.summaries] = self.edits.summaries.tokens
        waits = self._waits(removed)
        self._release_without_removed(removed)
        self.pause_ns[self._places(self.edits.pauses.variant, self.edits.pauses.row)] = self.edits.pauses.pause_ns
        cached = None
        if base.cached_tokens is not None:
            logged = base.cached_tokens[self.source]
            found = np.minimum(np.maximum(logged - np.maximum(self.kept - kept, 0), 0), prompt)
            cached = np.where(logged < 0, -1, found)
            cached[self.summaries] = -1

        stays = np.flatnonzero(~removed)
        place = np.full(len(removed) + 1, -1, np.int64)
        place[stays] = np.arange(len(stays))
        first = np.cumsum(families.sizes[self.block_family]) - families.sizes[self.block_family]
        owner = first[self.block] + families.trajectory_rank[base.trajectory[self.source]]
        sizes = families.sizes[self.block_family]
        original = np.concatenate(
            [np.zeros(0, np.int64), *(families.trajectories(f) for f in self.block_family.tolist())]
        )
        made = Batch(
            parent=place[parent[stays]],
            after=place[self.after[stays]],
            kept_tokens=np.where(parent < 0, 0, kept)[stays],
            prompt_tokens=prompt[stays],
            output_tokens=output[stays],
            pause_ns=self.pause_ns[stays],
            arrival_ns=self.arrival_ns[stays],
            trajectory=owner[stays],
            waits_for=None if waits is None else _ragged(waits, place, len(stays)),
            cached_tokens=None if cached is None else cached[stays],
            ids=Numbered(len(original)),
            order=self._order(stays, place),
        )
        if base.shared_tokens is not None:  # what a root shares with those of other families stays
            shared = np.minimum(base.shared_tokens[self.prefixed], kept)
            made.__dict__["shared_tokens"] = np.where(parent < 0, shared, 0)[stays]
        variant = np.repeat(self.block_variant, sizes)
        return Rewritten(sealed(made), variant, original, self.source[stays], self.prefixed[stays], kept[stays])

    def _summaries(self) -> tuple[Ints, Ints]:
        """The block of each summary, and the place of the row that follows it."""
        table = self.edits.summaries
        follower = self._places(table.variant, table.row)
        return self._blocks(table.variant, table.row), follower

    def _blocks(self, variant: Ints, row: Ints) -> Ints:
        families = self.families
        family = families.of[families.batch.trajectory[row]]
        blocks = self.block_variant * len(families.sizes) + self.block_family
        return np.searchsorted(blocks, variant * len(families.sizes) + family)

    def _places(self, variant: Ints, row: Ints) -> Ints:
        """Where the copies of rows stand."""
        return self.block_start[self._blocks(variant, row)] + self.families.rank[row]

    def _located(self, needed: Ints) -> Ints:
        """Where the copies of needed rows stand, -1 for none; they are in the family of who needs them."""
        return np.where(needed >= 0, self.block_start[self.block] + self.families.rank[needed], -1)

    def _mask(self, variant: Ints, row: Ints) -> Mask:
        mask = np.zeros(len(self.source), bool)
        mask[self._places(variant, row)] = True
        return mask

    def _contexts(self) -> tuple[Ints, Ints]:
        """Kept and prompt tokens with all cuts, level by level from the roots down; summaries not yet."""
        kept, prompt, cuts = self.kept.copy(), self.prompt.copy(), self.edits.cuts
        owner = self._located(self.families.owner[self.source])
        positions = Positions(self.parent, owner, kept.copy(), prompt.copy())
        if len(cuts.row):
            places = self._places(cuts.variant, cuts.row)
            known = np.where(cuts.owner >= 0, cuts.owner, cuts.row)
            owner = np.where(cuts.owner >= 0, self._places(cuts.variant, known), -1)
            positions.cut(places, cuts.begin, cuts.end, cuts.inserted, owner)
            depth = self.families.depth[self.source[: self.rows]]
            for rows in levels(depth)[int(depth[places].min()) :]:
                above = self.parent[rows]
                rows = rows[positions.is_cut[rows] | ((above >= 0) & positions.touched[above])]
                kept[rows], prompt[rows] = positions.settle(rows)
        if self.summaries.size:  # a summary reads all that the row behind it kept
            before = self.kept[self.follower]
            kept[self.summaries], held = positions.found(self.parent[self.follower], before)
            prompt[self.summaries] = kept[self.summaries] + (before - held) + self.edits.summaries.asked
            self.after[self.follower] = self.summaries
            self.pause_ns[self.follower] = 0
        return kept, prompt

    def _without_removed(self, removed: Mask, kept: Ints, prompt: Ints) -> Ints:
        """Who extends whom; what extended a removed turn keeps no more than that kept."""
        parent = self.parent.copy()
        self.prefixed = self.source.copy()
        orphans = np.flatnonzero((parent >= 0) & removed[parent])
        while orphans.size:
            gone = parent[orphans]
            kept[orphans] = np.minimum(kept[orphans], kept[gone])
            parent[orphans] = parent[gone]
            self.prefixed[orphans] = self.source[gone]
            orphans = orphans[(parent[orphans] >= 0) & removed[parent[orphans]]]
        cuts = self.edits.cuts
        kept[self._places(cuts.variant, cuts.row)] += cuts.held
        return parent

    def _release_without_removed(self, removed: Mask) -> None:
        """What came after a removed turn comes when that would have."""
        followers = np.flatnonzero((self.after >= 0) & removed[self.after])
        while followers.size:
            gone = self.after[followers]
            self.pause_ns[followers] = self.pause_ns[gone]
            self.arrival_ns[followers] = self.arrival_ns[gone]
            self.after[followers] = self.after[gone]
            followers = followers[(self.after[followers] >= 0) & removed[self.after[followers]]]

    def _waits(self, removed: Mask) -> tuple[Ints, Ints] | None:
        """Pairs of who waits and for whom, in place of removed turns for what these came after and waited for."""
        waits = self.families.batch.waits_for
        if waits is None:
            return None
        counts = np.diff(waits.offsets)[self.source]
        owner = np.repeat(np.arange(len(self.source)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        needed = waits.values[waits.offsets[self.source][owner] + within]
        value = self.block_start[self.block[owner]] + self.families.rank[needed]
        stays = ~np.isin(owner, self.follower)  # the summary waits in its stead
        owner, value = owner[stays], value[stays]
        lists: dict[int, list[int]] = {}
        affected = set(owner[removed[value]].tolist())
        affected.update(
            np.flatnonzero((self.after >= 0) & removed[self.after]).tolist(), np.flatnonzero(removed).tolist()
        )
        for who, what in zip(owner.tolist(), value.tolist(), strict=True):
            if who in affected:
                lists.setdefault(who, []).append(what)

        def events(row: int, *, itself: bool) -> set[int]:
            """What a row waits for, its ``after`` among it where asked."""
            found: set[int] = set()
            for what in lists.get(row, ()):
                found |= events(what, itself=True) if removed[what] else {what}
            above = int(self.after[row])
            if above >= 0:
                if removed[above]:
                    found |= events(above, itself=itself)
                elif itself:
                    found.add(above)
            return found

        still = ~np.isin(owner, list(affected))
        more = [(who, what) for who in affected if not removed[who] for what in events(who, itself=False)]
        added = np.array(more, np.int64).reshape(-1, 2)
        return np.concatenate([owner[still], added[:, 0]]), np.concatenate([value[still], added[:, 1]])

    def _order(self, stays: Ints, place: Ints) -> Ints | None:
        """Dependency order; None where the rows stand in it."""
        base = self.families.batch
        if base.order is None and not self.summaries.size:
            return None
        turn = np.arange(base.turns)
        if base.order is not None:
            turn[base.order] = np.arange(base.turns)
        when = 2 * turn[self.source] + 1
        when[self.summaries] -= 1
        return place[stays[np.lexsort((when[stays], self.block[stays]))]]


def _ragged(pairs: tuple[Ints, Ints], place: Ints, rows: int) -> Ragged:
    owner, value = place[pairs[0]], place[pairs[1]]
    stays = owner >= 0
    owner, value = owner[stays], value[stays]
    by_owner = np.lexsort((value, owner))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=rows))]).astype(np.int64)
    return Ragged(offsets, value[by_owner])
