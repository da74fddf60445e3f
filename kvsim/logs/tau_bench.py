"""tau-bench results: one JSON array of runs, each with its messages (``traj``); no counts, no times."""

from __future__ import annotations

import msgspec

from kvsim.logs.chat import Message
from kvsim.logs.messages import Facts, add_conversation
from kvsim.logs.reading import Format, Reading, decode
from kvsim.logs.source import Source


class _Run(msgspec.Struct):
    task_id: int | str
    traj: list[Message]
    trial: int | str = 0


class _Reader:
    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._decoder = msgspec.json.Decoder(_Run)
        self._facts = Facts(reading.count, keep_text=reading.keep_text)

    def read(self, source: Source) -> None:
        for text in self._reading.texts(source):
            with self._reading.attempt() as attempt:
                run = decode(self._decoder, text, source)
                attempt.records = max(1, len(run.traj))
                id = f"task-{run.task_id}-trial-{run.trial}"
                add_conversation(self._reading, self._facts.of(run.traj), id=id, source=source, line=text.line)

    def finish(self) -> None:
        pass


FORMAT = Format(
    name="tau-bench",
    looks_for="runs with 'task_id' and 'traj', a list of messages",
    matches=lambda paths: {"[].task_id", "[].traj"} <= paths or {"task_id", "traj[].role"} <= paths,
    reader=_Reader,
)
