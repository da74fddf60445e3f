"""The neutral trace file: JSON lines, one trajectory a line; read and written without loss.

    {"id": "a", "arrival_s": 1.5, "turns": [{"prompt_tokens": 900, "output_tokens": 120},
     {"parent": 0, "kept_tokens": 1020, "prompt_tokens": 1500, "output_tokens": 80, "pause_s": 2.0, "tool": "bash"}]}

(on one line). Trajectory keys: ``id``, ``arrival_s``, ``prefix``, ``turns``. Turn keys and their defaults: ``parent``
null (an index within the line, or "other-id/3"), ``after`` the parent, ``kept_tokens`` 0, ``prompt_tokens`` and
``output_tokens`` (required), ``pause_s`` 0, ``arrival_s`` (the trajectory's where ``after`` is null, else 0),
``waits_for`` [], ``tool`` null, ``priority`` 0, ``segments`` [] of {"kind", "tool", "tokens"}, ``cached_tokens``,
``ttft_s``, ``e2e_s`` absent, ``prefix`` (of a root, where it differs from the trajectory's), ``estimated_tokens`` 0.

Canonical form: keys in this order, defaults left out, the separators of ``json.dumps``, times as the shortest decimals
with a point and no exponent. Reading and writing a canonical file gives the same bytes. Times are read exactly: more
than nine decimals are an error, never rounded. References to other lines stay within their file.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType

from kvsim._door import MAX_NS
from kvsim.builder import UNUSABLE
from kvsim.errors import InputError
from kvsim.logs.reading import REMEDY, Format, Reading, decode
from kvsim.logs.source import Source, Text
from kvsim.logs.times import canonical_seconds, exact_ns
from kvsim.tokens import token_counter
from kvsim.trajectory import SEGMENT_KINDS, Batch

Tokens = Annotated[int, Meta(ge=0, le=1 << 30)]
Reference = int | str | None


_ABSENT = msgspec.Raw()

_MAX_S = MAX_NS // 10**9

_REFER = 'null, an index within the line, or "other-id/3"'

#: What to do, in the terms of the file.
_REMEDIES = {
    "parent": f"Give {_REFER}; no turn can wait for itself, not even through others",
    "after": f"Give {_REFER}; no turn can wait for itself, not even through others",
    "waits_for": 'Give indexes within the line or "other-id/3"; no turn can wait for itself, not even through others',
    "kept_tokens": "At most the prompt, and at most the parent's prompt + output, can be kept; a turn without parent "
    "keeps something only of a named prefix",
    "pause_ns": f"Give pause_s as seconds from 0 to {_MAX_S}",
    "arrival_ns": f"Give arrival_s as seconds from 0 to {_MAX_S}",
    "prefix": "Only a turn whose parent is null has a prefix; leave it out elsewhere",
    "cached_tokens": "At most the prompt can be cached; leave it out where it was not logged",
    "ttft_ns": "Leave ttft_s out where it was not logged",
    "e2e_ns": "Leave e2e_s out where it was not logged",
}


class _Segment(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    tokens: Tokens
    tool: str | None = None


class _Turn(msgspec.Struct, forbid_unknown_fields=True):
    prompt_tokens: Tokens
    output_tokens: Tokens
    parent: Reference = None
    after: Reference | UnsetType = UNSET
    kept_tokens: Tokens = 0
    pause_s: msgspec.Raw = _ABSENT
    arrival_s: msgspec.Raw = _ABSENT
    waits_for: list[int | str] = []
    tool: str | None = None
    priority: Annotated[int, Meta(ge=-(1 << 31), lt=1 << 31)] = 0
    segments: list[_Segment] = []
    cached_tokens: Tokens | None = None
    ttft_s: msgspec.Raw = _ABSENT
    e2e_s: msgspec.Raw = _ABSENT
    prefix: str | UnsetType | None = UNSET
    estimated_tokens: Tokens = 0


class _Trajectory(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    turns: Annotated[list[_Turn], Meta(min_length=1)]
    arrival_s: msgspec.Raw = _ABSENT
    prefix: str | None = None


class _Pending(NamedTuple):
    """A reference into another line, resolved when the file has been read."""

    row: int
    column: str
    place: int
    """Where in ``waits_for``; 0 else."""
    target: str
    line: int
    trajectory: int


class _Reader:
    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._decoder = msgspec.json.Decoder(_Trajectory)

    def read(self, source: Source) -> None:
        self.read_texts(self._reading.texts(source), source)

    def read_texts(self, texts: Iterable[Text], source: Source) -> None:
        """Read lines that refer to each other only; ``source`` is named in errors."""
        self._reading.builder.remedies(source.name, _REMEDIES)
        first_rows: dict[str, tuple[int, int]] = {}
        pending: list[_Pending] = []
        for text in texts:
            with self._reading.attempt():
                found = decode(self._decoder, text, source)
                if found.id in first_rows:
                    raise InputError(
                        f"a second trajectory {found.id!r}",
                        file=source.name,
                        line=text.line,
                        field="id",
                        remedy="Ids are unique within a file: references go by them",
                    )
                row = self._reading.builder.rows
                later = self._add(found, source, text.line)
                first_rows[found.id] = row, len(found.turns)
                pending += later
        self._resolve(pending, first_rows, source)

    def finish(self) -> None:
        pass

    def _add(self, found: _Trajectory, source: Source, line: int) -> list[_Pending]:
        """Add a trajectory's turns; returns the references that wait for other lines."""
        builder = self._reading.builder
        number = self._reading.trajectory(found.id, source, line, 1)
        base, pending = builder.rows, list[_Pending]()

        def fail(turn: int, name: str, problem: str, remedy: str = REMEDY) -> InputError:
            return InputError(problem, file=source.name, line=line, field=f"turns[{turn}].{name}", remedy=remedy)

        def reference(turn: int, name: str, value: Reference, place: int = 0) -> int:
            if value is None:
                return -1
            if isinstance(value, str):
                pending.append(_Pending(base + turn, name, place, value, line, number))
                return -1
            if not 0 <= value < len(found.turns):
                last = len(found.turns) - 1
                raise fail(turn, name, f"{value} is not a turn of this line (0 to {last})", _REMEDIES[name])
            return base + value

        def time(turn: int, name: str, value: msgspec.Raw, default: int) -> int:
            if value is _ABSENT:
                return default
            text = bytes(value).decode()
            if text in ("", "null"):
                return default
            if not (text[0] == "-" or text[0].isdigit()):
                raise fail(turn, name, f"{text[:40]} is no number", "Give seconds as a number, without quotes")
            try:
                seconds = Decimal(text)
            except InvalidOperation:
                seconds = Decimal("Infinity")
            if not 0 <= seconds <= _MAX_S:
                raise fail(turn, name, f"{text[:40]} s is outside 0 to {_MAX_S} s", "Check units and clock")
            ns = exact_ns(seconds)
            if ns is None:
                remedy = f"Give seconds rounded to nanoseconds: {canonical_seconds(round(seconds * 10**9))}"
                raise fail(turn, name, f"{text[:40]} s has more than nine decimals", remedy)
            return ns

        def logged_time(turn: int, name: str, value: msgspec.Raw) -> int:
            try:
                return time(turn, name, value, -1)
            except InputError:
                if not self._reading.lenient:
                    raise
                self._reading.report.flag(f"{name} {UNUSABLE}")
                return -1

        try:
            arrival = time(0, "arrival_s", found.arrival_s, 0)
        except InputError as error:
            error = InputError(error.problem, file=source.name, line=line, field="arrival_s", remedy=error.remedy)
            raise error from None
        for index, turn in enumerate(found.turns):
            parent = reference(index, "parent", turn.parent)
            after = parent
            if turn.after is not UNSET:
                after = reference(index, "after", turn.after)
            elif isinstance(turn.parent, str):
                reference(index, "after", turn.parent)
            at_own_time = (turn.parent if turn.after is UNSET else turn.after) is None
            for segment in turn.segments:
                if segment.kind not in SEGMENT_KINDS:
                    kinds = ", ".join(SEGMENT_KINDS)
                    raise fail(index, "segments", f"unknown kind {segment.kind!r}", f"Kinds are {kinds}")
            is_root = turn.parent is None
            builder.turn(
                prompt_tokens=turn.prompt_tokens,
                output_tokens=turn.output_tokens,
                parent=parent,
                after=after,
                kept_tokens=turn.kept_tokens,
                pause_ns=time(index, "pause_s", turn.pause_s, 0),
                arrival_ns=time(index, "arrival_s", turn.arrival_s, arrival if at_own_time else 0),
                waits_for=[reference(index, "waits_for", row, place) for place, row in enumerate(turn.waits_for)],
                prefix=(found.prefix if is_root else None) if turn.prefix is UNSET else turn.prefix,
                tool=turn.tool,
                priority=turn.priority,
                segments=[(segment.kind, segment.tool, segment.tokens) for segment in turn.segments],
                cached_tokens=-1 if turn.cached_tokens is None else turn.cached_tokens,
                ttft_ns=logged_time(index, "ttft_s", turn.ttft_s),
                e2e_ns=logged_time(index, "e2e_s", turn.e2e_s),
                estimated_tokens=turn.estimated_tokens,
            )
        return pending

    def _resolve(self, pending: list[_Pending], first_rows: dict[str, tuple[int, int]], source: Source) -> None:
        """Turn "other-id/3" into rows; forward references are welcome."""
        lost: dict[int, InputError] = {}
        for reference in pending:
            id, _, turn = reference.target.rpartition("/")
            first, count = first_rows.get(id, (0, 0))
            if turn.isascii() and turn.isdigit() and len(turn) < 10 and int(turn) < count:
                self._reading.builder.refer(reference.row, reference.column, reference.place, first + int(turn))
                continue
            error = InputError(
                f"{reference.target!r} names no turn of this file",
                file=source.name,
                line=reference.line,
                field=reference.column,
                remedy='Write "id/index" of a turn in the same file',
            )
            if not self._reading.lenient:
                raise error
            lost.setdefault(reference.trajectory, error)
        if lost:
            self._reading.drop_trajectories(lost)


def from_objects(trajectories: Iterable[Mapping[str, Any]]) -> Batch:
    """A batch of trajectories given as mappings with the keys of the neutral file (:meth:`Batch.from_trajectories`).

    Numbers may be numpy's; times given as floats are rounded to nanoseconds.
    """
    reading = Reading(lenient=False, count=token_counter(None))
    source = Source("trajectories")

    def texts() -> Iterator[Text]:
        for number, trajectory in enumerate(trajectories):
            try:
                yield Text(number, json.dumps(_plain(trajectory), allow_nan=False).encode())
            except (TypeError, ValueError) as error:
                raise InputError(
                    str(error), file=source.name, line=number, remedy="Give plain, finite JSON values"
                ) from None

    _Reader(reading).read_texts(texts(), source)
    return reading.build()


def _plain(value: Any) -> Any:
    """A Python object as JSON knows it: numpy's numbers as Python's, floats (always times) rounded to nanoseconds."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return round(value, 9)
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def write(batch: Batch, path: str | os.PathLike[str]) -> None:
    """Write a batch in canonical form, replacing the file at ``path`` in one step."""
    temporary = f"{os.fspath(path)}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(lines(batch))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def lines(batch: Batch) -> Iterator[str]:
    """The batch's lines in canonical form, in the order of its trajectories."""
    rows = np.argsort(batch.trajectory, kind="stable")
    ends = np.cumsum(np.bincount(batch.trajectory, minlength=len(batch)))
    index = np.empty(batch.turns, np.int64)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    index[rows] = np.arange(batch.turns) - starts[batch.trajectory[rows]]
    for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        yield _line(batch, number, rows[start:end].tolist(), index)


def _line(batch: Batch, number: int, rows: list[int], index: Any) -> str:
    at_own_time = next((row for row in rows if batch.after[row] < 0), None)
    arrival = int(batch.arrival_ns[at_own_time]) if at_own_time is not None else 0
    root = next((row for row in rows if batch.parent[row] < 0), None)
    prefix = int(batch.prefix[root]) if root is not None and batch.prefix is not None else -1
    keys = [f'"id": {_text(batch.ids[number])}']
    if arrival:
        keys.append(f'"arrival_s": {canonical_seconds(arrival)}')
    if prefix >= 0:
        keys.append(f'"prefix": {_text(batch.prefix_names[prefix])}')
    turns = ", ".join(_turn(batch, row, number, arrival, prefix, index) for row in rows)
    return "{" + ", ".join(keys) + f', "turns": [{turns}]' + "}\n"


def _turn(batch: Batch, row: int, trajectory: int, arrival: int, prefix: int, index: Any) -> str:
    def reference(target: int) -> str:
        if target < 0:
            return "null"
        owner = int(batch.trajectory[target])
        inside = int(index[target])
        return str(inside) if owner == trajectory else _text(f"{batch.ids[owner]}/{inside}")

    def logged(name: str) -> int:
        column = getattr(batch, name)
        return -1 if column is None else int(column[row])

    parent, after = int(batch.parent[row]), int(batch.after[row])
    keys = []
    if parent >= 0:
        keys.append(f'"parent": {reference(parent)}')
    if after != parent:
        keys.append(f'"after": {reference(after)}')
    if kept := int(batch.kept_tokens[row]):
        keys.append(f'"kept_tokens": {kept}')
    keys.append(f'"prompt_tokens": {batch.prompt_tokens[row]}')
    keys.append(f'"output_tokens": {batch.output_tokens[row]}')
    if pause := int(batch.pause_ns[row]):
        keys.append(f'"pause_s": {canonical_seconds(pause)}')
    if (own := int(batch.arrival_ns[row])) != (arrival if after < 0 else 0):
        keys.append(f'"arrival_s": {canonical_seconds(own)}')
    if batch.waits_for is not None and (waits := batch.waits_for[row]):
        keys.append(f'"waits_for": [{", ".join(map(reference, waits))}]')
    if (tool := logged("tool")) >= 0:
        keys.append(f'"tool": {_text(batch.tool_names[tool])}')
    if batch.priority is not None and (priority := int(batch.priority[row])):
        keys.append(f'"priority": {priority}')
    if segments := _segments(batch, row):
        keys.append(f'"segments": [{segments}]')
    if (cached := logged("cached_tokens")) >= 0:
        keys.append(f'"cached_tokens": {cached}')
    for name, column in (("ttft_s", "ttft_ns"), ("e2e_s", "e2e_ns")):
        if (ns := logged(column)) >= 0:
            keys.append(f'"{name}": {canonical_seconds(ns)}')
    if parent < 0 and (own_prefix := logged("prefix")) != prefix:
        keys.append(f'"prefix": {_text(batch.prefix_names[own_prefix]) if own_prefix >= 0 else "null"}')
    if (estimated := logged("estimated_tokens")) > 0:
        keys.append(f'"estimated_tokens": {estimated}')
    return "{" + ", ".join(keys) + "}"


def _segments(batch: Batch, row: int) -> str:
    if batch.segments is None:
        return ""
    parts = []
    for place in range(int(batch.segments.offsets[row]), int(batch.segments.offsets[row + 1])):
        tool = int(batch.segments.tool[place])
        of = f', "tool": {_text(batch.tool_names[tool])}' if tool >= 0 else ""
        kind = SEGMENT_KINDS[batch.segments.kind[place]]
        parts.append(f'{{"kind": "{kind}"{of}, "tokens": {batch.segments.tokens[place]}}}')
    return ", ".join(parts)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


FORMAT = Format(
    name="neutral",
    looks_for="lines with 'id' and 'turns', whose turns have 'prompt_tokens'",
    matches=lambda paths: {"turns", "turns[].prompt_tokens"} <= paths,
    reader=_Reader,
)
