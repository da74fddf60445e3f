"""verl: a ``compute_score`` that weighs what a rollout achieved against what it cost.

In a file of one's own, named in the configuration as ``reward.custom_reward_function.path`` (``name=compute_score``):

    term = kvsim.CostTerm("Qwen/Qwen3-8B", "h100-sxm", unit="gpu_s", durations={"*": 1.0})
    compute_score = ComputeScore(correct, term, weight=0.1)

What verl gives to ``compute_score`` is text without special tokens, and no times. The turns come as ``kvsim_turns`` in
``extra_info``: recorded while the rollout runs by :class:`kvsim.trainers.verl_workers.CostToolAgentLoop`, with the
times of tools, or found afterwards in the token ids by :class:`kvsim.trainers.verl_workers.CostRewardManager`.
docs/trainers.md has the whole recipe.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvsim.errors import InputError
from kvsim.logs.turns import FIELD, dump, load
from kvsim.trainers.combining import Combine, rewarded
from kvsim.trainers.pricing import measured_share, price

if TYPE_CHECKING:
    from kvsim.reward import CostTerm


class ComputeScore:
    """``compute_score`` for verl: the score of a rollout less ``weight`` times its cost.

    quality: verl's own kind of function, (data_source, solution_str, ground_truth, extra_info, **kwargs) to a score or
        to a mapping with "score".
    combine: instead of the weight, from (scores, costs), each of shape (rollouts,), to rewards: a function of
        :mod:`kvsim.reward.shapes`, for one. A batch is one rollout but in :meth:`batch`.

    Gives a mapping: ``score``; ``kvsim_quality`` and ``kvsim_cost`` (in the term's unit), its two sides;
    ``kvsim_measured_pauses``, the share of tool pauses that were measured; ``kvsim_turns`` as text, which
    :func:`kvsim.read` takes from verl's dumps; and what the mapping of ``quality`` held besides.
    """

    def __init__(
        self,
        quality: Callable[..., Any],
        term: CostTerm,
        *,
        weight: float = 1.0,
        combine: Combine | None = None,
    ) -> None:
        if inspect.iscoroutinefunction(quality):
            raise InputError("is a coroutine function", field="quality", remedy="Give a plain function")
        self.quality = quality
        self.term = term
        self.weight = weight
        self.combine = combine

    def __call__(
        self,
        data_source: Any,
        solution_str: str,
        ground_truth: Any,
        extra_info: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The score of one rollout; called by verl's reward managers."""
        return self.batch([data_source], [solution_str], [ground_truth], [extra_info or {}], **kwargs)[0]

    def batch(
        self,
        data_sources: Sequence[Any],
        solution_strs: Sequence[str],
        ground_truths: Sequence[Any],
        extra_infos: Sequence[Mapping[str, Any]],
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """The scores of many rollouts; ``compute_score`` of verl's batch manager."""
        said = [
            self.quality(data_source=source, solution_str=text, ground_truth=truth, extra_info=info, **kwargs)
            for source, text, truth, info in zip(data_sources, solution_strs, ground_truths, extra_infos, strict=True)
        ]
        details = [dict(one) if isinstance(one, Mapping) else {"score": one} for one in said]
        rollouts = [load(_recorded(info)) for info in extra_infos]
        costs = price(self.term, rollouts).trajectories
        scores, rewards = rewarded([one["score"] for one in details], costs, self.weight, self.combine)
        shares = measured_share(rollouts)
        return [
            {
                **details[i],
                "score": float(rewards[i]),
                "kvsim_quality": float(scores[i]),
                "kvsim_cost": float(costs[i]),
                "kvsim_measured_pauses": float(shares[i]),
                FIELD: dump(rollouts[i]),
            }
            for i in range(len(details))
        ]


def _recorded(info: Mapping[str, Any]) -> Any:
    turns = info.get(FIELD)
    if turns is None:
        raise InputError(
            "is not in extra_info",
            field=FIELD,
            remedy="Roll out with kvsim_tool_agent, or score with the reward manager kvsim (docs/trainers.md)",
        )
    return turns
