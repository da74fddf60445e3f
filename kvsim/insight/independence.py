"""Calls that could have been made at once: neighbouring look-ups none of which needs what those before it brought."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kvsim.insight.patterns.outcome import outcome
from kvsim.insight.patterns.tool_kinds import NOTES, changes_something, kind_of
from kvsim.insight.what_if.merge import Links

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvsim.insight.transcript import Call, Transcript, Transcripts

_WORD = re.compile(r"\w{3,}")


def independent_chains(transcripts: Transcripts) -> list[tuple[int, ...]]:
    """Runs of rows whose calls could all have been made by the first, as :class:`~kvsim.insight.what_if.merge.Merge`.

    A call joins the run before it if both only look things up, the earlier one brought something, and no word of the
    later one's arguments first appears in what the run brought.
    """
    links = Links(transcripts.batch)
    found = []
    for transcript in transcripts.by_trajectory.values():
        found += [chain for chain in _chains(transcript, links) if links.reader(chain) is not None]
    return found


def _chains(transcript: Transcript, links: Links) -> Iterator[tuple[int, ...]]:
    made: dict[int, list[Call]] = {}
    for call in transcript.calls:
        made.setdefault(call.message.row, []).append(call)
    known: set[str] = set()
    brought: set[str] = set()
    chain: list[int] = []
    for message in transcript.messages:
        said = message.said
        if said.role != "assistant":
            (brought if chain and said.role == "tool" else known).update(_WORD.findall(said.text))
            continue
        calls = made.get(message.row, [])
        asked = {word for call in calls for word in _WORD.findall(call.arguments)}
        looks_up = bool(calls) and all(_looks_up(call) for call in calls)
        joins = looks_up and bool(chain) and links.next[chain[-1]] == message.row and not asked & (brought - known)
        if not joins:
            if len(chain) > 1:
                yield tuple(chain)
            known |= brought
            brought, chain = set(), []
        if looks_up:
            chain.append(message.row)
        known |= asked | set(_WORD.findall(said.text)) | set(_WORD.findall(said.reasoning))
    if len(chain) > 1:
        yield tuple(chain)


def _looks_up(call: Call) -> bool:
    return kind_of(call) != NOTES and not changes_something(call) and call.answer is not None and outcome(call) is None
