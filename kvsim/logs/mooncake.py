"""Mooncake's serving traces: requests with arrival times and prompts as hashes of 512-token blocks, no sessions.

A line is ``{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}``. The hashes are chained, so
that equal ones mean equal prefixes. Each request becomes a trajectory of its own that comes at its own time and extends
the context of the earlier request that shares most with it (the latest of several).
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from kvsim._ingest import PrefixIndex
from kvsim.errors import InputError
from kvsim.logs.kept import by_blocks
from kvsim.logs.reading import Format, Reading, decode
from kvsim.logs.source import Source
from kvsim.logs.times import NS_PER_MS

BLOCK_TOKENS = 512

Count = Annotated[int, Meta(ge=0, le=1 << 30)]
Hash = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


class _Request(msgspec.Struct):
    timestamp: Annotated[float, Meta(ge=-1e11, le=1e14)]
    input_length: Count
    output_length: Count
    hash_ids: list[Hash]
    session_id: str | int | None = None


class _Reader:
    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._decoder = msgspec.json.Decoder(_Request)

    def read(self, source: Source) -> None:
        builder = self._reading.builder
        index = PrefixIndex()
        lengths: dict[int, tuple[int, int]] = {}
        arrivals: list[tuple[int, int]] = []
        for text in self._reading.texts(source):
            with self._reading.attempt():
                request = decode(self._decoder, text, source)
                if request.session_id is not None:
                    raise InputError(
                        "a row of a multi-turn trace, whose input is only what is new",
                        file=source.name,
                        line=text.line,
                        field="session_id",
                        remedy="Only traces with whole inputs are read; convert it to neutral JSON lines",
                    )
                earlier, shared = index.longest(request.hash_ids)
                kept = 0
                if shared:
                    kept = by_blocks(shared, BLOCK_TOKENS, request.input_length, *lengths[earlier])
                self._reading.trajectory(f"{source.stem}:{text.line}", source, text.line, 1)
                row = builder.turn(
                    parent=earlier,
                    after=-1,
                    kept_tokens=kept,
                    prompt_tokens=request.input_length,
                    output_tokens=request.output_length,
                )
                index.add(request.hash_ids, row)
                lengths[row] = request.input_length, request.output_length
                arrivals.append((row, round(request.timestamp * NS_PER_MS)))
                if not request.output_length:
                    self._reading.report.flag("output of 0 tokens")
        first = min((arrival for _, arrival in arrivals), default=0)
        for row, arrival in arrivals:
            builder.set(row, arrival_ns=arrival - first)

    def finish(self) -> None:
        pass


FORMAT = Format(
    name="mooncake",
    looks_for="lines with 'timestamp', 'input_length', 'output_length' and 'hash_ids'",
    matches=lambda paths: {"timestamp", "input_length", "output_length", "hash_ids"} <= paths,
    reader=_Reader,
)
