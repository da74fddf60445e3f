"""OTC-PO: a reward times how near the number of tool calls is to the fewest that do (arXiv 2504.14870)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvsim.reward.shapes._arguments import Floats, Groups, finite, flags, number, numbered


def otc_ppo(reward: npt.ArrayLike, calls: npt.ArrayLike, *, smoothing: float, alpha: float = 1.0) -> Floats:
    """alpha * cos(m * pi / (2 * m + c)) * reward, m calls, c = ``smoothing`` above 0: the paper's OTC-PPO.

    1 without a call, falling towards 0; the larger c, the slower.
    """
    rewards = finite("reward", reward)
    m = finite("calls", calls, rewards, least=0)
    return number("alpha", alpha) * _falling(m, number("smoothing", smoothing, above=0)) * rewards


def otc_grpo(
    reward: npt.ArrayLike,
    calls: npt.ArrayLike,
    groups: Groups,
    *,
    smoothing: float,
    correct: npt.ArrayLike | None = None,
    fewest: npt.ArrayLike | None = None,
    alpha: float = 1.0,
) -> Floats:
    """alpha * r_tool * reward, the paper's OTC-GRPO, where m are a rollout's calls and n the fewest that did:

        r_tool = 1                          where n = 0 and m = 0
                 cos(m * pi / (2 * m + c))  where n = 0 and m > 0
                 sin(f * pi / (2 * n))      where n > 0, f = 2 * n * m / (m + n)

    n is the fewest calls of a correct rollout of the group (``correct``: by default reward above 0), or what is given
    as ``fewest``, one a rollout: the paper also remembers n from earlier steps. A group without a correct rollout has
    no n: its factor is 1. ``smoothing`` is c, above 0.
    """
    rewards = finite("reward", reward)
    m = finite("calls", calls, rewards, least=0)
    c = number("smoothing", smoothing, above=0)
    if fewest is None:
        right = rewards > 0 if correct is None else flags("correct", correct, rewards)
        n = fewest_calls(m, right, groups)
    else:
        n = finite("fewest", fewest, rewards, least=0)
    known = np.isfinite(n)
    least = np.where(known & (n > 0), n, 1.0)
    # With no calls at all f is 0; written as a quotient of at most 1 so that no product overflows.
    peaked = np.sin(np.pi * (m / np.maximum(m + least, 1e-300)))
    factor = np.where(known, np.where(n > 0, peaked, _falling(m, c)), 1.0)
    return number("alpha", alpha) * factor * rewards


def fewest_calls(calls: npt.ArrayLike, correct: npt.ArrayLike, groups: Groups) -> Floats:
    """The fewest calls of a correct rollout of each rollout's group, infinite where none is correct, (rollouts,)."""
    m = finite("calls", calls, least=0)
    group = numbered(groups, len(m))
    least = np.full(int(group.max(initial=-1)) + 1, np.inf)
    right = flags("correct", correct, m)
    np.minimum.at(least, group[right], m[right])
    return np.asarray(least[group])


def _falling(m: Floats, c: float) -> Floats:
    return np.asarray(np.cos(np.pi * (m / (2 * m + c))))
