"""Rollouts that verl dumps (``trainer.rollout_data_dir``, ``validation_data_dir``): one rollout a line.

    {"input": "...", "output": "...", "gts": "...", "score": 1.0, "step": 5, ...}

``input`` and ``output`` are decoded without special tokens, so that turns are found by what is left of the template
(:mod:`kvsim.logs.rollout_text`), and tokens are counted from the text; the times of tools are not logged. Where the
rollouts were scored by :mod:`kvsim.trainers.verl`, the line carries exact counts and times (``kvsim_turns``).
"""

from __future__ import annotations

from typing import Any

import msgspec

from kvsim.logs.reading import Format, Reading
from kvsim.logs.records import reader_of
from kvsim.logs.rollout_text import cut, said_in, turns_of
from kvsim.logs.source import Source
from kvsim.logs.turns import add_turns, load


class _Rollout(msgspec.Struct):
    input: str
    output: str
    step: int | None = None
    uid: str | None = None
    request_id: str | None = None
    kvsim_turns: Any = None


def _add(reading: Reading, rollout: _Rollout, source: Source, line: int) -> None:
    exact = rollout.kvsim_turns is not None
    pieces = cut(rollout.output)
    turns = (
        load(rollout.kvsim_turns, file=source.name, line=line)
        if exact
        else turns_of(rollout.input, pieces, reading.count)
    )
    add_turns(
        reading,
        turns,
        id=rollout.uid or rollout.request_id or f"{source.stem}:{line}",
        source=source,
        line=line,
        estimated=not exact,
        said=said_in(rollout.input, pieces) if reading.keep_text else (),
    )


FORMAT = Format(
    name="verl",
    looks_for="rollouts of verl with 'input', 'output', 'score' and 'step'",
    matches=lambda paths: {"input", "output", "score", "step"} <= paths,
    reader=reader_of(_Rollout, _add),
)
