"""Mooncake's serving traces: requests with arrival times and prompts as hashes of 512-token blocks, no sessions.

A line is ``{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}``. The hashes are chained, so
that equal ones mean equal prefixes. Each request becomes a trajectory of its own that comes at its own time and extends
the context of the earlier request that shares most with it (the latest of several). Time decides what is earlier, the
order in the file only between equal times.
"""

from __future__ import annotations

from array import array
from operator import itemgetter
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
        requests: list[tuple[int, int, array[int]]] = []
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
                self._reading.trajectory(f"{source.stem}:{text.line}", source, text.line, 1)
                row = builder.turn(prompt_tokens=request.input_length, output_tokens=request.output_length)
                requests.append((round(request.timestamp * NS_PER_MS), row, array("q", request.hash_ids)))
                if not request.output_length:
                    self._reading.report.flag("output of 0 tokens")
        self._join(requests)

    def _join(self, requests: list[tuple[int, int, array[int]]]) -> None:
        """Give requests (time, row, hashes) their arrivals and parents; only what came before can be a parent."""
        builder, index = self._reading.builder, PrefixIndex()
        requests.sort(key=itemgetter(0))
        for arrival, row, blocks in requests:
            hashes = blocks.tolist()
            earlier, shared = index.longest(hashes)
            index.add(hashes, row)
            builder.set(row, arrival_ns=arrival - requests[0][0])
            if shared:
                before = builder.get(earlier, "prompt_tokens"), builder.get(earlier, "output_tokens")
                kept = by_blocks(shared, BLOCK_TOKENS, builder.get(row, "prompt_tokens"), *before)
                builder.set(row, parent=earlier, kept_tokens=kept)

    def finish(self) -> None:
        pass


FORMAT = Format(
    name="mooncake",
    looks_for="lines with 'timestamp', 'input_length', 'output_length' and 'hash_ids'",
    matches=lambda paths: {"timestamp", "input_length", "output_length", "hash_ids"} <= paths,
    reader=_Reader,
)
