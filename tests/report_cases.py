"""Pages for tests of the report: real logs, hostile names, and what cannot be priced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import kvsim
from kvsim import Batch, Estimate, Simulation
from kvsim.commands._report import AskedPage, page_of
from kvsim.commands._traffic import Traffic
from kvsim.report.page import Page

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
GPU = "h100-sxm"

HOSTILE = (
    "</script><script>alert(1)</script>",
    "\"'><img src=x onerror=alert(2)>",
    "{{ 7 * 7 }} {% raw %} ${8 * 8} &amp; &lt;b&gt;",
    "<!-- ]]> --> \\u003c/script\\u003e",
    "\u202eright to left\u202c עברית العربية",
    "tab\there\nnew line \x00 \x1b[31m",
    "emoji 🧨 combining e\u0301 line\u2028separator",
    "javascript:alert(3)#&filter=x&trajectory=y%00",
    "\ud800 half a pair",
    "__proto__",
    "constructor",
    "",
    "x" * 3000,
)
"""Names as a log may have them; none of them may be more than text on the page."""


def page(batch: Batch, **options: Any) -> Page:
    """The page of ``kvsim report`` with these options."""
    traffic = {name: options.pop(name) for name in list(options) if name in Traffic.__dataclass_fields__}
    given = {
        "model": MODEL,
        "gpu": GPU,
        "engine": kvsim.EngineConfig(),
        "load": None,
        "traffic": Traffic(**{"arrivals": "", **traffic}),
        "cliff": False,
        "calibration": None,
        "usd_per_hour": None,
        "backend": "auto",
        "strict": False,
    }
    transcripts = options.pop("transcripts", None)
    return page_of(batch, AskedPage(**given | options), transcripts)


def result_of(batch: Batch, **options: Any) -> Estimate | Simulation:
    """The estimate or simulation of such a page."""
    return page(batch, **options).result


def named(ids: Sequence[str], tools: Sequence[str]) -> Batch:
    """A trajectory of three turns for each id, its tools taken in turn from the names."""
    rows = range(3 * len(ids))
    return Batch.from_columns(
        parent=[row - 1 if row % 3 else -1 for row in rows],
        kept_tokens=[1_000 + 600 * (row % 3 - 1) if row % 3 else 0 for row in rows],
        prompt_tokens=[900 + 600 * (row % 3) for row in rows],
        output_tokens=[100 + row for row in rows],
        pause_ns=[(row % 3) * 1_500_000_000 for row in rows],
        arrival_ns=[0 for _ in rows],
        trajectory=[row // 3 for row in rows],
        tool=[row % len(tools) if row % 3 else -1 for row in rows],
        ids=list(ids),
        tool_names=list(tools),
    )


def one_too_long() -> Batch:
    """Two trajectories, the second with a turn beyond the model's longest context."""
    turn = {"prompt_tokens": 900, "output_tokens": 120}
    longer = {"parent": 0, "kept_tokens": 1_020, "prompt_tokens": 200_000, "output_tokens": 80, "pause_s": 2.0}
    return Batch.from_trajectories([{"id": "short", "turns": [turn]}, {"id": "long", "turns": [turn, longer]}])
