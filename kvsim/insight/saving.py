"""What a change saves, ready to be told; which of several need not be told beside another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvsim.insight.what_if.change import AgentChange, ServingChange
from kvsim.insight.what_if.compact import Compact
from kvsim.insight.what_if.drop_call import DropCalls
from kvsim.insight.what_if.merge import Merge
from kvsim.insight.what_if.truncate import Truncate

if TYPE_CHECKING:
    from kvsim.insight.what_if.savings import Ends, Priced


@dataclass(frozen=True)
class Saving:
    """What a change saves. Seconds are of time in the model, or end to end where ranked by latency.

    ``scope``: ``"call"``, ``"tool"`` (all calls of a tool), ``"run"`` (everywhere) or ``"serving"``. ``turn`` counts
    from 0 within the trajectory. ``share``: of the run's own seconds. Ends are of the 90 % interval. ``usd`` is NaN
    where the GPU has no price. ``by_unit``: the saving in each of :data:`~kvsim.insight.what_if.savings.UNITS`.
    """

    name: str
    kind: str
    scope: str
    trajectory: str | None
    turn: int | None
    tool: str | None
    saved_s: float
    saved_low_s: float
    saved_high_s: float
    saved_usd: float
    saved_usd_low: float
    saved_usd_high: float
    share: float
    assumption: str | None
    change: AgentChange | ServingChange = field(repr=False)
    by_unit: dict[str, Ends] = field(repr=False)


def saving_of(change: AgentChange | ServingChange, scope: str, ends: dict[str, Ends], base: Priced, by: str) -> Saving:
    """The saving of a change that was priced, its seconds in the unit ``by``."""
    seconds, usd = ends[by], ends["usd"]
    whole = base.totals[by].value
    where: dict[str, Any] = {"trajectory": None, "turn": None, "tool": None}
    if isinstance(change, AgentChange):
        where = {name: getattr(change, name) for name in where}
    return Saving(
        name=change.name,
        kind=change.kind,
        scope=scope,
        **where,
        saved_s=seconds.value,
        saved_low_s=seconds.low,
        saved_high_s=seconds.high,
        saved_usd=usd.value,
        saved_usd_low=usd.low,
        saved_usd_high=usd.high,
        share=seconds.value / whole if whole else 0.0,
        assumption=change.assumption,
        change=change,
        by_unit=ends,
    )


def ranked(found: list[Saving]) -> list[Saving]:
    """By falling saving; what saves nothing, or cannot be said, is left out."""
    worth = [saving for saving in found if saving.saved_s > 0 or saving.saved_usd > 0]
    return sorted(worth, key=lambda saving: (-saving.saved_s, saving.name, saving.trajectory or "", saving.turn or 0))


def adds_nothing(saving: Saving, shown: Saving) -> bool:
    """Whether a change need not be told beside one that saves at least as much."""
    if _takes_in(shown, saving):
        return True
    return _takes_in(saving, shown) and saving.saved_s <= shown.saved_s * (1 + 1e-9)


def _takes_in(wide: Saving, narrow: Saving) -> bool:
    """Whether a change holds another: where the first is made, the second has nothing left to save."""
    one, other = wide.change, narrow.change
    if isinstance(one, Truncate) and isinstance(other, Truncate):
        same = one.of is None or one.of == other.of or one.tool == other.tool
        return same and one.tokens <= other.tokens and _holds(one.rows, other.rows)
    if isinstance(one, DropCalls) and isinstance(other, DropCalls):
        return _holds(one.rows, other.rows)
    if isinstance(one, Merge) and isinstance(other, Merge):
        return _holds(one.chains, other.chains)
    if isinstance(one, Compact) and isinstance(other, Compact):
        return one.trajectory is None or one.trajectory == other.trajectory
    return False


def _holds(wide: tuple[Any, ...] | None, narrow: tuple[Any, ...] | None) -> bool:
    """Whether all of the second are among the first; None holds all."""
    return wide is None or (narrow is not None and set(narrow) <= set(wide))
