"""The changes that would save most, as a page has them."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvsim.insight import Advice
    from kvsim.insight.saving import Saving

Json = dict[str, Any]

MOST = 2_000
"""So many changes of what the agent does a page has at most."""

TOP = 10
"""So many are shown first."""


def what_if_facts(advice: Advice) -> Json:
    """Changes of what the agent does and of how it is served, by falling saving; ``top`` are places in the former."""
    top = advice.top(TOP)
    kept = list({id(saving): saving for saving in (*advice.agent[:MOST], *top)}.values())
    place = {id(saving): at for at, saving in enumerate(kept)}
    return {
        "by": advice.by,
        "agent": _columns(kept),
        "found": len(advice.agent),
        "top": [place[id(saving)] for saving in top],
        "serving": _columns(advice.serving),
        "notes": list(advice.notes),
    }


def leads(advice: Advice) -> list[Json]:
    """The most valuable change of either kind, in words and numbers."""
    best = {
        "Most would be saved if the agent did otherwise:": advice.agent[:1],
        "If it were served otherwise:": advice.serving[:1],
    }
    told = ("name", "trajectory", "turn", "share", "model_s", "model_s_low", "model_s_high")
    return [
        {"label": label} | {name: columns[name][0] for name in told}
        for label, columns in ((label, _columns(savings)) for label, savings in best.items() if savings)
    ]


def _columns(savings: Sequence[Saving]) -> Json:
    """The savings by column; ends of intervals beside their values, None where there is no price."""
    told = ("name", "kind", "scope", "trajectory", "turn", "tool", "assumption", "share")
    columns: Json = {name: [getattr(saving, name) for saving in savings] for name in told}
    for unit in ("model_s", "latency_s", "usd"):
        ends = [saving.by_unit[unit] for saving in savings]
        columns |= {
            f"{unit}{suffix}": [_known(getattr(end, name)) for end in ends]
            for suffix, name in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
    return columns


def _known(value: float) -> float | None:
    """Six digits: an interval spans more."""
    return None if isnan(value) else float(f"{value:.6g}")
