"""What fits of a GPU's kernel tables find: coefficients with their intervals, and how far predictions are off."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..calibration import QUANTITIES, Coefficient, Regime
from .coefficients import coefficient
from .measurements import Table
from .robust import Array, Fit, Parameter, held_out_groups

Rows = npt.NDArray[np.intp]

MOST_ROWS = 4000
"""So many rows of a table are fitted at most."""

COLD = 1.0
"""Tables repeat one kernel on the same data. Where its data fit in this many times the L2 cache, they flatter
memory: in an engine every layer's are different. Such rows are left out unless arithmetic decides them."""

FLOOR = Parameter(5e-6, 0.0, 2e-4)
"""Starting and draining one kernel as the tables launched it: fitted along, not kept (see kvsim.terms)."""


@dataclass
class Findings:
    """What a GPU's tables say: coefficients by name, and log(measured / predicted) by table."""

    coefficients: dict[str, Coefficient] = field(default_factory=dict)
    fitted: dict[str, Array] = field(default_factory=dict)
    held_out: dict[str, Array] = field(default_factory=dict)
    regimes: dict[Regime, list[Array]] = field(default_factory=lambda: {"prefill": [], "decode": []})

    def add(self, prefix: str, result: Fit, source: str, table: str) -> None:
        """Take over a fit whose parameters are coefficients under ``prefix``."""
        for name, value in result.values.items():
            full = f"{prefix}{name}"
            if full in QUANTITIES:
                self.coefficients[full] = coefficient(full, value, result.intervals[name], source, len(result.fitted))
        self.note(table, result)

    def note(self, table: str, result: Fit) -> None:
        """Take over a fit's errors alone."""
        self.fitted[table], self.held_out[table] = result.fitted, result.held_out


def parameter(name: str, start: float) -> Parameter:
    """The search for a coefficient, within its physical bounds."""
    return Parameter(start, *QUANTITIES[name].bounds)


def sources(table: Table) -> str:
    """Where the rows of a table come from."""
    return ", ".join(sorted(set(table["source"].tolist())))


def groups_of(table: Table, shape: tuple[str, ...], load: str) -> npt.NDArray[Any]:
    """The shape of each row; with fewer than ten shapes, the shape and its load."""
    groups = table.keys(*shape)
    return groups if len(set(groups.tolist())) >= 10 else table.keys(*shape, load)


def by_regime(found: Findings, result: Fit, long: npt.NDArray[np.bool_] | None, groups: npt.NDArray[Any]) -> None:
    """Keep held-out errors for the intervals of whole steps: of long chunks for prefill, else for decode."""
    held = held_out_groups(groups)
    prefill = np.zeros(len(groups), dtype=bool) if long is None else long
    found.regimes["prefill"].append(result.held_out[prefill[held]])
    found.regimes["decode"].append(result.held_out[~prefill[held]])
