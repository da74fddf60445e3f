"""What tools and tool calls cost or are blamed for, as tables for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.table import Table
from rich.text import Text

from kvsim.commands._console import table
from kvsim.commands._format import count, narrow, percent, shorten
from kvsim.insight.what_if.families import turn_of

if TYPE_CHECKING:
    from kvsim.insight.blame import Blame
    from kvsim.insight.tool_costs import ResponseCost
    from kvsim.trajectory import Batch


class Weight(NamedTuple):
    """A tool (``row`` None), or what one turn read: how often, how many tokens, and what that took."""

    tool: str | None
    row: int | None
    counted: str
    """What ``times`` counts."""
    times: int
    tokens: int
    cost_s: float
    pause_s: float
    costs: dict[str, Any]
    """As JSON has them."""

    @classmethod
    def priced(cls, cost: ResponseCost) -> Weight:
        """What responses cost: the run priced again without them."""
        costs = {"model_s": cost.model_s._asdict(), "usd": cost.usd._asdict()}
        seconds = cost.model_s.value, cost.pause_s
        return cls(cost.tool, cost.row, "responses", cost.responses, cost.tokens, *seconds, costs)

    @classmethod
    def blamed(cls, blame: Blame) -> Weight:
        """What an attribution blames on responses."""
        parts = {f"{name}_s": getattr(blame, f"{name}_ns") / 1e9 for name in ("fresh", "recompute", "decode_context")}
        seconds = blame.model_ns / 1e9, blame.tool_ns / 1e9
        costs = {"blamed_s": seconds[0], **parts}
        return cls(blame.tool, blame.row, "calls", blame.calls, blame.response_tokens, *seconds, costs)

    def document(self, batch: Batch) -> dict[str, Any]:
        """As JSON; of a call with the place of the turn that read it."""
        told: dict[str, Any] = {"tool": self.tool, self.counted: self.times, "tokens": self.tokens}
        if self.row is not None:
            trajectory, turn = place_of(batch, self.row)
            told |= {"trajectory": trajectory, "turn": turn, "row": self.row}
        return told | {"pause_s": self.pause_s, **self.costs}


def place_of(batch: Batch, row: int) -> tuple[str, int]:
    """A row's trajectory, and which of its turns it is."""
    return str(batch.ids[batch.trajectory[row]]), turn_of(batch, row)


def tool_table(weights: Sequence[Weight], whole_s: float) -> Table:
    """A line a tool; shares are of so many seconds."""
    shown = table(gap=2)
    shown.add_column("tool", no_wrap=True)
    for heading in (weights[0].counted, "tokens", "cost", "share", "pauses"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for weight in weights:
        shown.add_row(Text(_name(weight, 26)), count(weight.times), *_figures(weight, whole_s))
    return shown


def call_table(weights: Sequence[Weight], whole_s: float, batch: Batch) -> Table:
    """A line a turn that read responses."""
    shown = table(gap=1)
    for heading in ("tool", "trajectory"):
        shown.add_column(heading, no_wrap=True)
    for heading in ("turn", "tokens", "cost", "share", "pauses"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for weight in weights:
        assert weight.row is not None
        trajectory, turn = place_of(batch, weight.row)
        where = Text(shorten(trajectory, 20)), count(turn)
        shown.add_row(Text(_name(weight, 22)), *where, *_figures(weight, whole_s))
    return shown


def _name(weight: Weight, most: int) -> str:
    return shorten(weight.tool or "(not named)", most)


def _figures(weight: Weight, whole_s: float) -> tuple[str, ...]:
    return count(weight.tokens), narrow(weight.cost_s), percent(weight.cost_s / whole_s), narrow(weight.pause_s)
