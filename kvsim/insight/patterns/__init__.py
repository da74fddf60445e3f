"""Inefficiency patterns: detectors over what was said, and over what the cost model reveals. One file a pattern.

The first four are those of "Beyond Accuracy: Unveiling Inefficiency Patterns in Tool-Integrated Reasoning"
(arXiv 2604.05404), as rules without a model that judges. docs/patterns.md says how precise each is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from kvsim.insight.patterns.confirmatory import Confirmatory
from kvsim.insight.patterns.finding import Finding, Span, TextPattern
from kvsim.insight.patterns.format_collapse import FormatCollapse
from kvsim.insight.patterns.mixing import Mixing
from kvsim.insight.patterns.pauses import LongPauses
from kvsim.insight.patterns.prefix_edits import PrefixEdits
from kvsim.insight.patterns.priors import LackOfPriors
from kvsim.insight.patterns.repeats import Repeats
from kvsim.insight.patterns.unused import Unused
from kvsim.insight.resampling import ends, resampled

if TYPE_CHECKING:
    from kvsim.estimation import Estimate
    from kvsim.insight.transcript import Transcripts

__all__ = ["COST_PATTERNS", "TEXT_PATTERNS", "Finding", "Multiplier", "PatternFound", "Span", "find_patterns"]

Floats = npt.NDArray[np.float64]

TEXT_PATTERNS: tuple[TextPattern, ...] = (
    Confirmatory(),
    Mixing(),
    LackOfPriors(),
    FormatCollapse(),
    Repeats(),
    Unused(),
)
COST_PATTERNS: tuple[LongPauses | PrefixEdits, ...] = (LongPauses(), PrefixEdits())

HINTS = frozenset({Confirmatory.name, Unused.name})
"""Patterns of which too few were labelled by hand to say how precise their detectors are: docs/patterns.md."""


class Multiplier(NamedTuple):
    """Mean cost of trajectories with a pattern over mean cost of those without, and its 90 % bootstrap interval."""

    value: float
    low: float
    high: float
    with_s: float
    without_s: float


@dataclass(frozen=True)
class PatternFound:
    """What a detector found in a batch.

    ``looked_at``: trajectories that it could look at (with text, priced); ``fired``: those of them with the pattern;
    ``multiplier``: None where there are not two of each kind. ``hint``: its precision is not known.
    """

    name: str
    title: str
    findings: Sequence[Finding]
    looked_at: int
    fired: int
    multiplier: Multiplier | None
    hint: bool
    needs_text: bool

    @property
    def share(self) -> float:
        """The share of trajectories with the pattern, 0 to 1."""
        return self.fired / self.looked_at if self.looked_at else 0.0


def find_patterns(
    estimate: Estimate, transcripts: Transcripts | None = None, costs: Floats | None = None
) -> list[PatternFound]:
    """All patterns in a priced batch; without text those of the costs alone.

    ``costs``: seconds of each trajectory that multipliers compare, NaN to leave one out; without: time in the model.
    """
    costs = estimate.model_s if costs is None else costs
    everywhere = np.flatnonzero(~np.isnan(costs))
    spoken = list(transcripts.by_trajectory.values()) if transcripts is not None else []
    with_text = np.intersect1d(everywhere, np.array([transcript.number for transcript in spoken], np.int64))
    found = []
    for pattern in TEXT_PATTERNS:
        findings = [finding for transcript in spoken for finding in pattern.find(transcript)]
        found.append(_found(pattern.name, pattern.title, findings, estimate, costs, with_text, needs_text=True))
    for revealed in COST_PATTERNS:
        findings = list(revealed.find(estimate))
        found.append(_found(revealed.name, revealed.title, findings, estimate, costs, everywhere, needs_text=False))
    return found


def _found(
    name: str,
    title: str,
    findings: list[Finding],
    estimate: Estimate,
    costs: Floats,
    looked_at: npt.NDArray[np.int64],
    *,
    needs_text: bool,
) -> PatternFound:
    owners = estimate.batch.trajectory[np.array([finding.row for finding in findings], np.int64)]
    fired = np.isin(looked_at, owners)
    return PatternFound(
        name,
        title,
        findings,
        len(looked_at),
        int(fired.sum()),
        multiplier(costs[looked_at[fired]], costs[looked_at[~fired]]),
        name in HINTS,
        needs_text,
    )


def multiplier(with_it: Floats, without: Floats) -> Multiplier | None:
    """The ratio of two mean costs, its interval from resampling both groups; None where one has fewer than two."""
    if len(with_it) < 2 or len(without) < 2 or without.mean() <= 0:
        return None
    one, two = (resampled(group[:, None], _mean, stream) for stream, group in enumerate((with_it, without)))
    found = ends(one / np.where(two > 0, two, np.nan))
    own, other = float(with_it.mean()), float(without.mean())
    return None if found is None else Multiplier(own / other, found.low, found.high, own, other)


def _mean(means: Floats) -> Floats:
    return means[:, 0]
