"""Records that verl-tool's reward managers save: one JSON array a step.

    [{"id", "data_source", "prompt", "response", "ground_truth", "score", "reward", "tool_interact_info", ...}]

Texts keep their special tokens. ``tool_interact_info`` holds what each call of the tool server gave: the response is
cut at its ``obs``, and ``processing_time_ms`` (with ``queue_time_ms``) is the pause, where the server logged it.
Tokens are counted from the text.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from kvsim.logs.reading import Format, Reading, decode
from kvsim.logs.rollout_text import cut, cut_at, said_in, turns_of
from kvsim.logs.source import Source
from kvsim.logs.turns import add_turns

_Milliseconds = Annotated[float, Meta(ge=0, le=1e11)]


class _Interaction(msgspec.Struct):
    obs: str = ""
    processing_time_ms: _Milliseconds | None = None
    queue_time_ms: _Milliseconds | None = None

    @property
    def pause_s(self) -> float | None:
        """The time of the call, None where it was not logged."""
        if self.processing_time_ms is None:
            return None
        return (self.processing_time_ms + (self.queue_time_ms or 0.0)) / 1000


class _Record(msgspec.Struct):
    prompt: str
    response: str
    id: str | int | None = None
    tool_interact_info: list[_Interaction] | None = None


class _Reader:
    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._decoder = msgspec.json.Decoder(_Record)

    def read(self, source: Source) -> None:
        for number, text in enumerate(self._reading.texts(source)):
            with self._reading.attempt():
                record = decode(self._decoder, text, source)
                calls = record.tool_interact_info or []
                pieces, found = cut_at(record.response, [call.obs for call in calls])
                pauses_s = [calls[place].pause_s for place in found]
                pieces = pieces if found else cut(record.response)
                turns = turns_of(record.prompt, pieces, self._reading.count, pauses_s)
                add_turns(
                    self._reading,
                    turns,
                    id=f"{source.stem}:{record.id if record.id is not None else number}",
                    source=source,
                    line=text.line,
                    estimated=True,
                    said=said_in(record.prompt, pieces) if self._reading.keep_text else (),
                )

    def finish(self) -> None:
        pass


FORMAT = Format(
    name="verl-tool",
    looks_for="records of verl-tool with 'data_source', 'prompt' and 'response'",
    matches=lambda paths: any(
        {lead + "data_source", lead + "prompt", lead + "response"} <= paths for lead in ("", "[].")
    ),
    reader=_Reader,
)
