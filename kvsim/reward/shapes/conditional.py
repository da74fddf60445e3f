"""Two channels: being right among all, being cheap among those who are right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvsim.reward.shapes._arguments import Floats, Groups, finite, flags, number
from kvsim.reward.shapes.group import group_relative


@dataclass(frozen=True)
class Channels:
    """Advantages of two channels, (rollouts,) each; ``combined`` is their weighted sum."""

    accuracy: Floats
    efficiency: Floats
    combined: Floats


def hdpo(
    accuracy: npt.ArrayLike,
    efficiency: npt.ArrayLike,
    groups: Groups,
    *,
    correct: npt.ArrayLike | None = None,
    accuracy_weight: float = 1.0,
    efficiency_weight: float = 1.0,
) -> Channels:
    """Decoupled advantages of HDPO ("Act Wisely", arXiv 2604.08545): efficiency counts only among the correct.

    A_acc is :func:`group_relative` of ``accuracy`` over the whole group; A_eff that of ``efficiency`` over the
    correct rollouts of the group, 0 for the others and where fewer than two are correct; combined = w_acc * A_acc +
    w_eff * A_eff. The paper adds two losses with these weights, which is the same gradient where no probability
    ratio is clipped. Its efficiency reward is 1 / (calls + 1), :func:`inverse_calls`; minus a cost serves as well.
    ``correct``: by default where accuracy is above 0.
    """
    right = finite("accuracy", accuracy)
    cheap = finite("efficiency", efficiency, right)
    among = right > 0 if correct is None else flags("correct", correct, right)
    of_all = group_relative(right, groups)
    of_correct = group_relative(cheap, groups, among=among)
    combined = number("accuracy_weight", accuracy_weight) * of_all
    combined = combined + number("efficiency_weight", efficiency_weight) * of_correct
    return Channels(of_all, of_correct, combined)


def inverse_calls(calls: npt.ArrayLike) -> Floats:
    """1 / (calls + 1), HDPO's efficiency reward of a correct rollout."""
    return np.asarray(1.0 / (finite("calls", calls, least=0) + 1.0))
