"""TRL: a reward function for ``GRPOTrainer`` and the trainers that call rewards as it does.

    clock = ToolClock()
    cost = CostReward(kvsim.CostTerm("Qwen/Qwen3-8B", "h100-sxm"), tokenizer, tools=tools, clock=clock)
    GRPOTrainer(..., tools=clock.wrap(tools), reward_funcs=[correct, cost],
                args=GRPOConfig(reward_weights=[1.0, 0.2], ...))

TRL gives a reward function messages and token ids, but neither the prompt's ids, nor the mask of what the model wrote,
nor times. The prompt is rendered again as TRL renders it; what was written is found by the marks of the chat template
(:class:`kvsim.trainers.TurnMarks`); tools are timed by a :class:`kvsim.trainers.ToolClock`, or last what the term
declares for them. A ``rollout_func`` knows all this: what it returns as ``kvsim_turns``, one list of turns a completion
(:func:`kvsim.trainers.turns_of_mask` makes them), is taken as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kvsim.errors import InputError
from kvsim.logs.stretches import turns_of_stretches
from kvsim.logs.turns import FIELD, Turn, dump, load
from kvsim.trainers.clock import ToolClock
from kvsim.trainers.combining import Combine, rewarded
from kvsim.trainers.marks import TurnMarks
from kvsim.trainers.pricing import measured_share, price

if TYPE_CHECKING:
    from kvsim.reward import CostTerm

Messages = Sequence[Mapping[str, Any]]


class CostReward:
    """A reward function for TRL: minus ``weight`` times the cost, to stand beside others, or with them in one.

    quality: another reward function; then its rewards less the weighted costs, or what ``combine`` makes of both:
        from (rewards, costs), each of shape (rollouts,), as the functions of :mod:`kvsim.reward.shapes` do. Groups of
        ``num_generations`` completions stand one after the other.
    tools, chat_template, chat_template_kwargs: as the trainer has them, for they are in the prompt.
    clock: what wraps the trainer's tools.
    log: whether costs and turns are logged with the completions, and their means as metrics.

    Columns logged: ``kvsim_cost`` and ``kvsim_turns``, which :func:`kvsim.read` takes when the run is priced later.
    Metrics: ``kvsim/<unit>`` and ``kvsim/measured_pauses``, the share of tool pauses that were measured.
    """

    __name__ = "kvsim_cost"

    def __init__(
        self,
        term: CostTerm,
        tokenizer: Any = None,
        *,
        weight: float = 1.0,
        quality: Callable[..., Sequence[float]] | None = None,
        combine: Combine | None = None,
        tools: Sequence[Callable[..., Any]] = (),
        clock: ToolClock | None = None,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        log: bool = True,
    ) -> None:
        self.term = term
        self.tokenizer = tokenizer
        self.weight = weight
        self.quality = quality
        self.combine = combine
        self.clock = clock
        self.log = log
        self._rendering = {"chat_template": chat_template, **(chat_template_kwargs or {})}
        self._tools = list(tools) or None

    def __call__(
        self,
        prompts: Sequence[str | Messages],
        completions: Sequence[str | Messages],
        completion_ids: Sequence[Sequence[int]],
        *,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        kvsim_turns: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float]:
        """One reward a completion, finite; called by the trainer."""
        rollouts = (
            [load(turns) for turns in kvsim_turns]
            if kvsim_turns is not None
            else self.turns(prompts, completions, completion_ids)
        )
        costs = price(self.term, rollouts).trajectories
        if self.log and log_extra is not None:
            log_extra("kvsim_cost", costs.tolist())
            log_extra(FIELD, [dump(turns) for turns in rollouts])
        if self.log and log_metric is not None:
            log_metric(f"kvsim/{self.term.unit}", float(costs.mean()))
            log_metric("kvsim/measured_pauses", float(measured_share(rollouts).mean()))
        scores: Sequence[float] = [0.0] * len(rollouts)
        if self.quality is not None:
            told = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids}
            scores = self.quality(**told, log_extra=log_extra, log_metric=log_metric, **columns)
        rewards: list[float] = rewarded(scores, costs, self.weight, self.combine)[1].tolist()
        return rewards

    def turns(
        self,
        prompts: Sequence[str | Messages],
        completions: Sequence[str | Messages],
        completion_ids: Sequence[Sequence[int]],
    ) -> list[list[Turn]]:
        """The turns of each completion."""
        if self.tokenizer is None:
            raise InputError(
                f"is needed where completions come without {FIELD}",
                field="tokenizer",
                remedy=f"Give the trainer's processing class, or return {FIELD} from rollout_func",
            )
        lengths: dict[str, int] = {}  # the completions of a group have one prompt
        rollouts = []
        for prompt, completion, ids in zip(prompts, completions, completion_ids, strict=True):
            key = prompt if isinstance(prompt, str) else json.dumps(prompt, default=str)
            if key not in lengths:
                lengths[key] = self._prompt_tokens(prompt)
            if isinstance(completion, str):
                rollouts.append([Turn(lengths[key], len(ids))])
            else:
                tools, pauses_s = self._answers(completion)
                stretches = self._marks.stretches(ids)
                rollouts.append(turns_of_stretches(lengths[key], stretches, pauses_s=pauses_s, tools=tools))
        if self.clock is not None:
            self.clock.forget()
        return rollouts

    def _prompt_tokens(self, prompt: str | Messages) -> int:
        if isinstance(prompt, str):
            return len(self.tokenizer(prompt)["input_ids"])
        rendered = self.tokenizer.apply_chat_template(
            list(prompt),
            tools=self._tools,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **self._rendering,
        )
        return len(rendered)

    @cached_property
    def _marks(self) -> TurnMarks:
        return TurnMarks.of(self.tokenizer, **self._rendering)

    def _answers(self, completion: Messages) -> tuple[list[list[str]], list[float | None]]:
        """The tools that answered between two turns of the model, and the time that they took, where measured."""
        tools: list[list[str]] = []
        pauses_s: list[float | None] = []
        called: list[Mapping[str, Any]] = []
        answers: list[tuple[str, Any, str]] = []
        for message in [*completion, {"role": "assistant"}]:
            if message.get("role") == "tool":
                name = str(message.get("name"))
                at = next((at for at, call in enumerate(called) if call.get("name") == name), None)
                arguments = called.pop(at).get("arguments") if at is not None else None
                answers.append((name, arguments, str(message.get("content"))))
                continue
            if answers:
                tools.append([name for name, _, _ in answers])
                pauses_s.append(self.clock.pause_s(answers) if self.clock is not None else None)
            called = [call.get("function") or {} for call in message.get("tool_calls") or ()]
            answers = []
        return tools, pauses_s
