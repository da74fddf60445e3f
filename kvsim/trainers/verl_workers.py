"""What must subclass verl's own classes: an agent loop that records turns, reward managers that find them.

``CostToolAgentLoop`` is registered as the agent ``kvsim_tool_agent``; ``CostRewardManager`` as the reward manager
``kvsim`` of the reward loop, ``CostBatchRewardManager`` as the manager ``kvsim_batch`` of verl's older registry.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from kvsim.errors import MissingExtraError
from kvsim.logs.stretches import turns_of_mask, turns_of_stretches
from kvsim.logs.turns import FIELD, Turn, dump
from kvsim.trainers.marks import TurnMarks

try:
    from verl.experimental.agent_loop.agent_loop import register as register_agent
    from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
    from verl.experimental.reward_loop.reward_manager import register as register_reward_loop
    from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
    from verl.workers.reward_manager import register as register_reward
    from verl.workers.reward_manager.batch import BatchRewardManager
except ImportError as error:
    raise MissingExtraError(error.name or "verl", "verl", "an agent loop or reward manager of verl") from error


@register_agent("kvsim_tool_agent")
class CostToolAgentLoop(ToolAgentLoop):  # type: ignore[misc]
    """verl's tool agent, which also records its turns in ``extra_fields["kvsim_turns"]``, with the times of tools.

    The calls of one turn run beside each other (at most ``max_parallel_calls``); the pause is until the last is done.
    """

    async def _handle_generating_state(self, agent_data: Any, *args: Any, **kwargs: Any) -> Any:
        prompt_tokens = len(agent_data.prompt_ids)
        state = await super()._handle_generating_state(agent_data, *args, **kwargs)
        turns = getattr(agent_data, "_kvsim_turns", [])
        tools, pause_s = getattr(agent_data, "_kvsim_pause", ([], 0.0))
        turns.append(Turn(prompt_tokens, len(agent_data.response_ids), pause_s, tools))
        agent_data._kvsim_turns = turns
        agent_data.extra_fields[FIELD] = dump(turns)
        return state

    async def _handle_processing_tools_state(self, agent_data: Any) -> Any:
        begun = time.perf_counter()
        agent_data._kvsim_done = begun
        tools = [call.name for call in agent_data.tool_calls[: self.max_parallel_calls]]
        state = await super()._handle_processing_tools_state(agent_data)
        agent_data._kvsim_pause = (tools, agent_data._kvsim_done - begun)
        return state

    async def _call_tool(self, tool_call: Any, tools_kwargs: dict[str, Any], agent_data: Any) -> Any:
        answer = await super()._call_tool(tool_call, tools_kwargs, agent_data)
        agent_data._kvsim_done = time.perf_counter()
        return answer


@register_reward_loop("kvsim")
class CostRewardManager(NaiveRewardManager):  # type: ignore[misc]
    """verl's naive reward manager, which also gives ``compute_score`` the turns where the agent loop did not.

    They are found in the response's token ids by the marks of the chat template; tool times are not known then.
    """

    async def run_single(self, data: Any) -> dict[str, Any]:
        data = data[-1:]  # the naive manager scores the last of a rollout's sequences
        known = data.non_tensor_batch.get("tool_extra_fields", [None])[0] or {}
        if FIELD not in known:
            prompt, response, attention = (data.batch[name][0] for name in ("prompts", "responses", "attention_mask"))
            size = response.shape[-1]
            ids = response[: int(attention[-size:].sum())].tolist()
            prompt_tokens = int(attention[: prompt.shape[-1]].sum())
            turns = turns_of_stretches(prompt_tokens, TurnMarks.of(self.tokenizer).stretches(ids))
            data.non_tensor_batch["tool_extra_fields"] = np.array([{**known, FIELD: dump(turns)}], object)
        result: dict[str, Any] = await super().run_single(data)
        return result


@register_reward("kvsim_batch")
class CostBatchRewardManager(BatchRewardManager):  # type: ignore[misc]
    """verl's batch reward manager, which also gives ``compute_score`` the turns in ``extra_infos``.

    They are what the agent loop recorded, else what ``response_mask`` says, else what the chat template's marks do.
    """

    def verify(self, data: Any) -> Any:
        size = data.batch["prompts"].shape[-1]
        recorded = data.non_tensor_batch.get(FIELD)
        infos = [dict(info or {}) for info in data.non_tensor_batch.get("extra_info", [None] * len(data))]
        for number, info in enumerate(infos):
            if recorded is not None and recorded[number] is not None:
                info[FIELD] = recorded[number]
                continue
            attention = data.batch["attention_mask"][number]
            prompt_tokens, length = int(attention[:size].sum()), int(attention[size:].sum())
            if "response_mask" in data.batch.keys():  # noqa: SIM118 - a TensorDict iterates over its rows
                turns = turns_of_mask(prompt_tokens, data.batch["response_mask"][number][:length].tolist())
            else:
                ids = data.batch["responses"][number][:length].tolist()
                turns = turns_of_stretches(prompt_tokens, TurnMarks.of(self.tokenizer).stretches(ids))
            info[FIELD] = dump(turns)
        data.non_tensor_batch["extra_info"] = np.fromiter(infos, object, len(infos))
        return super().verify(data)
