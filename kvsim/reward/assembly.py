"""From turns in rollout order to rollouts: what is kept, how long tools took, which turns and prompts are shared."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kvsim._door import MAX_NS, MAX_TOKENS, MAX_TOTAL_NS, SEGMENT_KINDS, sealed
from kvsim._numbering import numbers_of
from kvsim.errors import InputError
from kvsim.reward.rollouts import Rollouts, offsets_of
from kvsim.reward.trees import merged
from kvsim.trajectory import Batch, Ints, Numbered, Segments

#: Kinds of assumptions, for :attr:`kvsim.reward.Costs.assumptions`.
NO_OUTPUT = "turn that wrote nothing: priced as 1 output token"
NO_PROMPT = "turn without a prompt: priced with one of 1 token"

_TOOL = SEGMENT_KINDS.index("tool")

#: The tools that answered after a turn: a name, several at once, or None.
ToolNames = str | Sequence[str] | None


@dataclass(frozen=True)
class Turns:
    """The turns of rollouts, in order: ``counts`` (rollouts,) says how many each has, at least one.

    ``prompt`` and ``output`` (rows,) count tokens. ``segments`` are the tool responses read in each turn where they
    are known (``tool_names`` names them).
    """

    counts: Ints
    prompt: Ints
    output: Ints
    segments: Segments | None = None
    tool_names: Sequence[str] = ()
    assumptions: dict[str, int] = field(default_factory=dict)


def assemble(
    turns: Turns,
    *,
    tool_s: Sequence[Sequence[float | None]] | None = None,
    tools: Sequence[Sequence[ToolNames]] | None = None,
    steps: Sequence[Sequence[Hashable]] | None = None,
    groups: Sequence[Hashable] | npt.ArrayLike | None = None,
    equal_prompts: Callable[[], Ints] | None = None,
) -> Rollouts:
    """Rollouts of these turns, each extending the one before it.

    ``tool_s``: for each rollout the seconds that tools took after each of its turns, None or NaN where unknown; a
    list may be shorter than the turns. ``tools``: likewise their names. ``steps``: for each rollout a name for each
    of its turns; equal names are one and the same turn of a tree. ``groups``: one value a rollout; those of one
    group begin with one prompt. ``equal_prompts``: numbers the rollouts by their prompts where no groups are given.
    """
    offsets = offsets_of(turns.counts)
    rows = int(offsets[-1])
    first = np.zeros(rows, bool)
    first[offsets[:-1]] = True
    parent = np.arange(-1, rows - 1)
    parent[first] = -1
    prompt = np.maximum(turns.prompt, 1)
    assumptions = dict(turns.assumptions)
    if empty := int(np.count_nonzero(turns.prompt < 1)):
        assumptions[NO_PROMPT] = empty
    segments, names = turns.segments, turns.tool_names
    if tools is not None:
        if segments is not None:
            raise InputError("is given beside messages", field="tools", remedy="Messages name their tools themselves")
        segments, names = _named(tools, offsets)
    waited = ~first
    if segments is not None:
        waited = waited & (np.diff(segments.offsets) > 0)
    pause_ns, missing = _pauses(tool_s, offsets, waited)
    columns: dict[str, Any] = {
        "parent": parent,
        "kept_tokens": _kept(first, prompt, turns.output),
        "prompt_tokens": prompt,
        "output_tokens": turns.output,
        "pause_ns": pause_ns,
        "arrival_ns": np.zeros(rows, np.int64),
        "trajectory": np.repeat(np.arange(len(turns.counts)), turns.counts),
        "segments": segments,
        "tool_names": names,
    }
    if rows and not _plausible(prompt, turns.output, pause_ns):
        Batch.from_columns(**columns)  # says what is wrong
    batch = sealed(Batch(**columns, after=parent, ids=Numbered(len(turns.counts))))
    whole = Rollouts(batch, missing=missing if missing.any() else None, prefixes=None, assumptions=assumptions)
    rollouts = whole if steps is None else merged(whole, _names(steps, offsets))
    if groups is not None:
        numbers = numbers_of("groups", groups, len(turns.counts))
        return replace(rollouts, prefixes=lambda: _first_prompts(rollouts, numbers))
    if equal_prompts is not None:
        return replace(rollouts, prefixes=lambda: _first_prompts(rollouts, equal_prompts()))
    return rollouts


def _plausible(prompt: Ints, output: Ints, pause_ns: Ints) -> bool:
    """Whether counts and pauses are what the door asks for; all else is, as it is made here."""
    return bool(
        prompt.max() <= MAX_TOKENS
        and output.min() >= 0
        and output.max() <= MAX_TOKENS
        and pause_ns.sum(dtype=float) <= MAX_TOTAL_NS
    )


def _first_prompts(rollouts: Rollouts, groups: Ints) -> tuple[Ints, Ints]:
    """The prefixes of the first turns of groups of more than one."""
    roots = rollouts.entries.values[rollouts.entries.offsets[:-1]]
    prefix = np.full(rollouts.batch.turns, -1)
    prefix[roots] = groups
    prefix[np.bincount(groups, minlength=1)[prefix] < 2] = -1
    return prefix, rollouts.batch.prompt_tokens


def _names(steps: Sequence[Sequence[Hashable]], offsets: Ints) -> list[Hashable]:
    """A name for every turn; those without one get a name that no other has."""
    rows, values = _placed("steps", steps, offsets)
    names: list[Hashable] = [_Unnamed() for _ in range(int(offsets[-1]))]
    for row, value in zip(rows.tolist(), values, strict=True):
        names[row] = value
    return names


class _Unnamed:
    """A step that is equal to none but itself."""


def _kept(first: npt.NDArray[np.bool_], prompt: Ints, output: Ints) -> Ints:
    """As :func:`kvsim.logs.kept.by_lengths` says where nothing is known of the cache."""
    before = np.zeros_like(prompt)
    before[1:] = prompt[:-1]
    whole = np.zeros_like(prompt)
    whole[1:] = before[1:] + output[:-1]
    kept = np.where(prompt >= whole, whole, np.where(prompt >= before, before, 0))
    kept[first] = 0
    return kept


def _pauses(
    tool_s: Sequence[Sequence[float | None]] | None, offsets: Ints, waited: npt.NDArray[np.bool_]
) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Nanoseconds before each turn, and where nobody measured them although a tool was waited for."""
    rows = len(waited)
    if tool_s is None:
        return np.zeros(rows, np.int64), waited
    after, values = _placed("tool_s", tool_s, offsets)
    try:
        given = np.array([np.nan if value is None else value for value in values], np.float64)
    except (TypeError, ValueError):
        raise InputError("holds what is no number", field="tool_s", remedy="Give seconds, or None") from None
    if (np.nan_to_num(given) < 0).any() or (np.nan_to_num(given) * 1e9 > MAX_NS).any():
        worst = given[(np.nan_to_num(given) < 0) | (np.nan_to_num(given) * 1e9 > MAX_NS)][0]
        raise InputError(f"a tool cannot take {worst} seconds", field="tool_s", remedy="Give seconds, None if unknown")
    seconds = np.full(rows + 1, np.nan)
    seconds[after + 1] = given
    starts = offsets[:-1]
    seconds[starts] = np.nan  # what comes after a rollout's last turn is before no turn
    known = ~np.isnan(seconds[:rows])
    return np.rint(np.where(known, seconds[:rows], 0.0) * 1e9).astype(np.int64), waited & ~known


def _placed(name: str, lists: Sequence[Iterable[Any]], offsets: Ints) -> tuple[Ints, list[Any]]:
    """The rows that the values of lists (one a rollout, one value a turn) belong to, and the values."""
    if len(lists) != len(offsets) - 1:
        problem = f"has {len(lists)} lists for {len(offsets) - 1} rollouts"
        raise InputError(problem, field=name, remedy="Give one list a rollout")
    packed = [list(values) for values in lists]
    counts = np.array([len(values) for values in packed], np.int64)
    turns = np.diff(offsets)
    if (counts > turns).any():
        at = int(np.flatnonzero(counts > turns)[0])
        raise InputError(
            f"rollout {at} has {counts[at]} values for {turns[at]} turns", field=name, remedy="Give one value a turn"
        )
    ends = np.cumsum(counts)
    rows = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(offsets[:-1] - (ends - counts), counts)
    return rows, [value for values in packed for value in values]


def _named(tools: Sequence[Sequence[ToolNames]], offsets: Ints) -> tuple[Segments, list[str]]:
    """Tool responses of unknown length, read in the turn after the one that called."""
    after, values = _placed("tools", tools, offsets)
    called = [list(value or ()) if isinstance(value, (list, tuple, type(None))) else [value] for value in values]
    numbers: dict[str, int] = {}
    for names in called:
        for name in names:
            if not isinstance(name, str):
                raise InputError(f"{name!r} names no tool", field="tools", remedy="Give names, lists of names, or None")
            numbers.setdefault(name, len(numbers))
    last = np.zeros(int(offsets[-1]) + 1, bool)
    last[offsets[1:]] = True
    read = [(int(row) + 1, names) for row, names in zip(after, called, strict=True) if names and not last[row + 1]]
    counts = np.zeros(int(offsets[-1]), np.int64)
    for row, names in read:
        counts[row] = len(names)
    ids = np.array([numbers[name] for _, names in read for name in names], np.int64)
    kind = np.full(len(ids), _TOOL, np.int64)
    return Segments(offsets_of(counts), kind, ids, np.zeros(len(ids), np.int64)), list(numbers)
