"""Completions that TRL's trainers log (``log_completions=True``): ``completions_<step>.parquet``, one rollout a row.

Columns: ``step``, ``prompt`` and ``completion`` (text, or lists of chat messages with tool calls and responses), one a
reward function, what these logged besides, ``advantage``. There are no token counts: they come from the text. Where
the rewards include :class:`kvsim.trainers.trl.CostReward`, a column carries exact counts and times (``kvsim_turns``).
"""

from __future__ import annotations

from typing import Any

import msgspec

from kvsim.errors import InputError
from kvsim.logs.chat import Message
from kvsim.logs.messages import Facts, add_conversation, exchanges
from kvsim.logs.parquet import rows
from kvsim.logs.reading import REMEDY, Format, Reading
from kvsim.logs.said import Exchange, Said
from kvsim.logs.source import Source
from kvsim.logs.turns import FIELD, Turn, add_turns, load


class _Row(msgspec.Struct):
    prompt: str | list[Message]
    completion: str | list[Message] = []
    step: int | None = None
    kvsim_turns: Any = None


class _Reader:
    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._facts = Facts(reading.count, keep_text=reading.keep_text)

    def read(self, source: Source) -> None:
        for number, given in enumerate(rows(source)):
            with self._reading.attempt():
                self._row(given, number, source)

    def _row(self, given: dict[str, Any], number: int, source: Source) -> None:
        try:
            row = msgspec.convert(given, _Row)
        except msgspec.ValidationError as error:
            raise InputError(f"row {number}: {error}", file=source.name, remedy=REMEDY) from None
        id = f"step {row.step}: {number}" if row.step is not None else f"{source.stem}:{number}"
        if row.kvsim_turns is not None:
            turns = load(row.kvsim_turns, file=source.name)
            add_turns(self._reading, turns, id=id, source=source, line=None, said=self._said(row))
        elif isinstance(row.prompt, str) and isinstance(row.completion, str):
            turn = Turn(self._reading.count(row.prompt), self._reading.count(row.completion))
            said = [Exchange((Said("user", row.prompt),), Said("assistant", row.completion))]
            kept = said if self._reading.keep_text else ()
            add_turns(self._reading, [turn], id=id, source=source, line=None, estimated=True, said=kept)
        elif isinstance(row.prompt, list) and isinstance(row.completion, list):
            facts = self._facts.of([*row.prompt, *(row.completion or [Message("assistant")])])
            add_conversation(self._reading, facts, id=id, source=source)
        else:
            problem = f"row {number}: prompt and completion are not both text or both messages"
            raise InputError(problem, file=source.name, field="completion", remedy=REMEDY)

    def _said(self, row: _Row) -> list[Exchange]:
        """What was said in the turns that a column counts, where it is messages and text is kept."""
        if not self._reading.keep_text or isinstance(row.prompt, str) or isinstance(row.completion, str):
            return []
        return exchanges(self._facts.of([*row.prompt, *row.completion]))

    def finish(self) -> None:
        pass


FORMAT = Format(
    name="trl",
    looks_for=f"completions of TRL, a Parquet file with 'prompt', 'completion' and 'advantage' (and '{FIELD}')",
    matches=lambda paths: {"parquet", "prompt", "completion"} <= paths,
    reader=_Reader,
)
