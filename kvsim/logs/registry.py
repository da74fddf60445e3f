"""The log formats kvsim reads, and how a file's format is recognised."""

from __future__ import annotations

from kvsim.errors import InputError, UnknownNameError
from kvsim.logs import (
    claude_code,
    mooncake,
    neutral,
    openai,
    openhands,
    otlp,
    parquet,
    skyrl,
    slime,
    swe_agent,
    tau_bench,
    torch_archive,
    trl,
    verl,
    verl_tool,
    weka,
)
from kvsim.logs.reading import Format
from kvsim.logs.shape import key_paths
from kvsim.logs.source import Source

#: By name, the more specific first: the first that matches is taken.
FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (
        *(neutral, weka, mooncake, claude_code, openhands, swe_agent, tau_bench, otlp),
        *(verl, verl_tool, skyrl, slime, trl),  # rollouts of trainers
        openai,
    )
}

#: How much of a file its format is recognised by.
_HEAD_BYTES = 1 << 17


def choose(name: str, source: Source) -> Format:
    """The format of that name; with "auto" the one that the file's content shows."""
    if name != "auto":
        if name not in FORMATS:
            raise UnknownNameError("log format", name, ["auto", *FORMATS])
        return FORMATS[name]
    paths = _paths(source)
    for format in FORMATS.values():
        if format.matches(paths):
            return format
    looked_for = "; ".join(f"{format.name}: {format.looks_for}" for format in FORMATS.values())
    seen = ", ".join(sorted(path for path in paths if "." not in path)[:12])
    raise InputError(
        f"not recognised as any log format (keys seen: {seen or 'none'})",
        file=source.name,
        remedy=f"Looked for {looked_for}. If it is one of these, name it with format=",
    )


def _paths(source: Source) -> frozenset[str]:
    """What keys the file has where; of files that are no text, also what they are."""
    if source.head.startswith(parquet.MAGIC):
        return parquet.columns(source) | {"parquet"}
    if source.head.startswith(torch_archive.MAGIC):
        return frozenset({"torch archive"})
    return key_paths(source.head[:_HEAD_BYTES])
