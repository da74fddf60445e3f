"""Rollouts that verl dumps (``trainer.rollout_data_dir``, ``validation_data_dir``): one rollout a line.

    {"input": "...", "output": "...", "gts": "...", "score": 1.0, "step": 5, ...}

``input`` and ``output`` are decoded without special tokens, so that turns are found by what is left of the template
(:mod:`kvsim.logs.rollout_text`), and tokens are counted from the text; the times of tools are not logged. Where the
rollouts were scored by :mod:`kvsim.trainers.verl`, the line carries exact counts and times (``kvsim_turns``).
"""

from __future__ import annotations

from typing import Any

import msgspec

from kvsim.logs.reading import Format, Reading, decode
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


class _Reader:
    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._decoder = msgspec.json.Decoder(_Rollout)

    def read(self, source: Source) -> None:
        for text in self._reading.texts(source):
            with self._reading.attempt():
                rollout = decode(self._decoder, text, source)
                exact = rollout.kvsim_turns is not None
                pieces = cut(rollout.output)
                turns = (
                    load(rollout.kvsim_turns, file=source.name, line=text.line)
                    if exact
                    else turns_of(rollout.input, pieces, self._reading.count)
                )
                add_turns(
                    self._reading,
                    turns,
                    id=rollout.uid or rollout.request_id or f"{source.stem}:{text.line}",
                    source=source,
                    line=text.line,
                    estimated=not exact,
                    said=said_in(rollout.input, pieces) if self._reading.keep_text else (),
                )

    def finish(self) -> None:
        pass


FORMAT = Format(
    name="verl",
    looks_for="rollouts of verl with 'input', 'output', 'score' and 'step'",
    matches=lambda paths: {"input", "output", "score", "step"} <= paths,
    reader=_Reader,
)
