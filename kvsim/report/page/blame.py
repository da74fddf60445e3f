"""What costs are blamed on: sources of tokens, tools and their calls, and whose turns evicted what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from kvsim.insight import Attribution
    from kvsim.report.page.inputs import Page

Json = dict[str, Any]
Ints = npt.NDArray[np.int64]

SOURCES = {
    "system": "system prompt",
    "tools": "tool definitions",
    "user": "user",
    "tool": "tool responses",
    "own": "own output",
    "other": "not described",
    "kept": "kept, but never cached",
    "beside": "beside others",
}
"""Kinds of tokens in words; their colours go by the same names."""

LOST = {
    "pause": "in the pause",
    "queue": "while it waited",
    "earlier": "before its parent ended",
    "absent": "never on that replica",
}
"""When blocks were lost, in words."""

EVICTORS = 10
"""So many trajectories are named whose turns evicted others' blocks."""

_TOOL = ("calls", "response_tokens", "tool_ns", "idle_kv_byte_s", "fresh_ns", "recompute_ns", "decode_context_ns")
_CALL = ("response_tokens", "fresh_ns", "recompute_ns", "decode_context_ns")


def source_stacks(attribution: Attribution) -> list[Json]:
    """Fresh prefill and the reading of context by source; none where the log does not say what prompts are made of."""
    run, stacks = attribution.run_sources, []
    tables = {"Fresh prefill, by source": run.fresh_ns, "Reading context, by source": run.decode_context_ns}
    for label, source in tables.items():
        parts: list[Json] = [
            {"label": SOURCES[name], "colour": f"source-{name}", "value": int(column[0]) / 1e9}
            for name, column in source.items()
        ]
        if any(int(source[name][0]) for name in ("system", "tools", "user", "tool")):
            stacks.append({"label": label, "format": "duration", "parts": parts})
    return stacks


def source_columns(attribution: Attribution) -> dict[str, Ints]:
    """The same of each trajectory, one column a source."""
    its = attribution.trajectory_sources
    return {f"fresh.{name}": column for name, column in its.fresh_ns.items()} | {
        f"reading.{name}": column for name, column in its.decode_context_ns.items()
    }


def call_columns(page: Page, place: Ints) -> dict[str, Ints]:
    """One value a tool call: ``row`` among the sorted turns, and what is blamed on it."""
    calls = page.attribution.tool_calls
    return {"row": place[calls.row], **{name: calls[name] for name in _CALL}}


def tool_facts(attribution: Attribution) -> Json:
    """One value a tool that was called or answered, by column; ``tool`` indexes the names, -1 has none."""
    tools = attribution.tools
    used = np.flatnonzero((tools.calls > 0) | (tools.response_tokens > 0))
    named = np.where(used < len(attribution.batch.tool_names), used, -1)
    return {"tool": named.tolist(), **{name: np.rint(tools[name][used]).astype(np.int64).tolist() for name in _TOOL}}


def eviction_facts(page: Page) -> Json:
    """Recompute by when its blocks were lost, and the trajectories whose turns took most of them."""
    lost, owner = page.attribution.evictions, page.result.batch.trajectory
    by_time = [
        {"label": words, "colour": colour, "value": int(lost.recompute_ns[lost.lost_in == name].sum()) / 1e9}
        for (name, words), colour in zip(LOST.items(), ("recompute", "queue", "pause", "decode-base"), strict=True)
    ]
    known = lost.by >= 0
    caused = np.zeros(len(page.result.batch), np.int64)
    blocks, own = caused.copy(), caused.copy()
    victim, evictor = owner[lost.row[known]], owner[lost.by[known]]
    np.add.at(caused, evictor, lost.recompute_ns[known])
    np.add.at(blocks, evictor, lost.blocks[known])
    np.add.at(own, evictor[victim == evictor], lost.recompute_ns[known][victim == evictor])
    first = np.argsort(-caused, kind="stable")[:EVICTORS]
    first = first[caused[first] > 0]
    return {
        "by_time": by_time,
        "evictors": {
            "trajectory": first.tolist(),
            "recompute_ns": caused[first].tolist(),
            "own_ns": own[first].tolist(),
            "blocks": blocks[first].tolist(),
        },
    }
