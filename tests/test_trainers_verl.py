"""The adapters inside the real verl, as far as it runs on a CPU: agent loop, reward managers, dumps.

verl's servers need vLLM or SGLang on a GPU. In their place stands a tiny model of transformers; everything from the
agent loop to the dump is verl's.
"""

from __future__ import annotations

import asyncio
import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("verl", reason="needs the real verl: tools/install_trainers_cpu.sh")
pytest.importorskip("trl", reason="needs the real TRL: tools/install_trainers_cpu.sh")
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import torch
import train_with_cost as example
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
from verl.tools.function_tool import FUNCTION_TOOL_REGISTRY, function_tool
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

import kvsim
from kvsim.logs.turns import load
from kvsim.trainers import TurnMarks, measured_share, price, turns_of_mask
from kvsim.trainers.verl import ComputeScore
from kvsim.trainers.verl_workers import CostBatchRewardManager, CostRewardManager, CostToolAgentLoop

TERM = kvsim.CostTerm("Qwen/Qwen3-8B", "h100-sxm", unit="latency_s")
RESPONSE_LENGTH = 48
NAP_S = 0.1


@function_tool
async def look_up(city: str) -> str:
    """Look up the weather of a city.

    Args:
        city: The name of the city.
    """
    await asyncio.sleep(NAP_S)
    return example.WEATHER[city]


class TinyServer:
    """Generates with a tiny model of random weights, as verl's client of an LLM server would."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.model = example.make_model(tokenizer)

    async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: Any) -> TokenOutput:
        ids = torch.tensor([prompt_ids])
        new = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=12, top_k=0, top_p=1.0
        )
        return TokenOutput(token_ids=new[0, len(prompt_ids) :].tolist())


def quality(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **more: Any) -> float:
    return float(ground_truth in solution_str)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return example.make_tokenizer()


@pytest.fixture(scope="module")
def outputs(tokenizer: Any) -> list[Any]:
    """What verl's tool agent, recording, gives for 30 rollouts of one question."""
    torch.manual_seed(1)
    multi_turn = {
        "max_user_turns": 4,
        "max_assistant_turns": 5,
        "max_parallel_calls": 2,
        "max_tool_response_length": 64,
        "tool_response_truncate_side": "middle",
        "format": "hermes",
    }
    rollout = {
        "multi_turn": multi_turn,
        "prompt_length": 512,
        "response_length": RESPONSE_LENGTH,
        "full_determinism": False,
    }
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}, "data": {}})
    prompt = [{"role": "user", "content": "weather rome"}]

    async def run() -> list[Any]:
        loop = CostToolAgentLoop(
            trainer_config=DictConfigWrap(config),
            server_manager=TinyServer(tokenizer),
            tokenizer=tokenizer,
            processor=None,
            dataset_cls=RLHFDataset,
            data_config=DictConfigWrap(config.data),
            hf_model_type="qwen2",
            tools=ToolListWrap([FUNCTION_TOOL_REGISTRY["look_up"]]),
        )
        return [await loop.run({}, raw_prompt=copy.deepcopy(prompt)) for _ in range(30)]

    return asyncio.run(run())


def proto(outputs: list[Any], *, recorded: bool) -> DataProto:
    """The rollouts as verl hands them to reward managers, padded as in a batch."""
    width = max(len(output.prompt_ids) for output in outputs)

    def padded(rows: list[list[int]], size: int, *, left: bool = False) -> torch.Tensor:
        return torch.tensor([[0] * (size - len(row)) + row if left else row + [0] * (size - len(row)) for row in rows])

    prompts = [list(output.prompt_ids) for output in outputs]
    responses = [list(output.response_ids) for output in outputs]
    attention = torch.cat(
        [
            padded([[1] * len(row) for row in prompts], width, left=True),
            padded([[1] * len(row) for row in responses], RESPONSE_LENGTH),
        ],
        dim=1,
    )
    batch = {
        "prompts": padded(prompts, width, left=True),
        "responses": padded(responses, RESPONSE_LENGTH),
        "attention_mask": attention,
        "response_mask": padded([list(output.response_mask) for output in outputs], RESPONSE_LENGTH),
    }
    fields = [output.extra_fields if recorded else {} for output in outputs]
    shared: dict[str, Any] = {"index": 3}  # rollouts of one question share its extra_info
    extra = {
        "data_source": np.array(["weather"] * len(outputs), object),
        "reward_model": np.array([{"ground_truth": "sun"}] * len(outputs), object),
        "extra_info": np.array([shared] * len(outputs), object),
        "tool_extra_fields": np.array(fields, object),
        "__num_turns__": np.array([output.num_turns for output in outputs]),
    }
    return DataProto(batch=TensorDict(batch, batch_size=len(outputs)), non_tensor_batch=extra)


def expected(output: Any, pauses_s: Any = ()) -> list[Any]:
    return turns_of_mask(len(output.prompt_ids), output.response_mask, pauses_s=pauses_s)


def counts(turns: list[Any]) -> list[tuple[int, int]]:
    return [(turn.prompt_tokens, turn.output_tokens) for turn in turns]


def whole(output: Any) -> bool:
    """Whether verl did not cut the response to its length."""
    return len(output.response_ids) < RESPONSE_LENGTH


def test_the_agent_records_its_turns(outputs: list[Any]) -> None:
    several = 0
    for output in filter(whole, outputs):
        turns = load(output.extra_fields["kvsim_turns"])
        assert counts(turns) == counts(expected(output))
        several += len(turns) > 1
    assert several > 3, "a run without tool calls shows nothing"


def test_the_agent_times_its_tools(outputs: list[Any]) -> None:
    rollouts = [load(output.extra_fields["kvsim_turns"]) for output in outputs]
    assert measured_share(rollouts).min() == 1
    waits = [turn for turns in rollouts for turn in turns[1:]]
    assert all(turn.tools for turn in waits)
    assert min(turn.pause_s for turn in waits) >= NAP_S
    several = [turn.pause_s for turn in waits if len(turn.tools) > 1]
    assert min(several) < 2 * NAP_S, "calls of one turn run beside each other"


async def _manager(tokenizer: Any) -> CostRewardManager:
    return CostRewardManager(OmegaConf.create({}), tokenizer, ComputeScore(quality, TERM, weight=0.25))


@pytest.mark.parametrize("recorded", [True, False])
def test_the_reward_loop(outputs: list[Any], tokenizer: Any, recorded: bool) -> None:
    data = proto(outputs, recorded=recorded)

    async def run() -> list[Any]:
        manager = await _manager(tokenizer)
        return [await manager.run_single(data[i : i + 1]) for i in range(len(data))]

    for output, result in zip(outputs, asyncio.run(run()), strict=True):
        info = result["reward_extra_info"]
        turns = load(output.extra_fields["kvsim_turns"]) if recorded else expected(output)
        assert counts(load(info["kvsim_turns"])) == counts(turns)
        assert info["kvsim_cost"] == float(price(TERM, [turns]).trajectories[0])
        text = tokenizer.decode(output.response_ids, skip_special_tokens=True)
        assert info["kvsim_quality"] == float("sun" in text)
        assert result["reward_score"] == info["kvsim_quality"] - 0.25 * info["kvsim_cost"]


@pytest.mark.parametrize("by", ["recorded", "response_mask", "marks"])
def test_the_batch_manager(outputs: list[Any], tokenizer: Any, by: str) -> None:
    data = proto(outputs, recorded=False)
    if by == "recorded":
        fields = [output.extra_fields["kvsim_turns"] for output in outputs]
        data.non_tensor_batch["kvsim_turns"] = np.array(fields, object)
    if by != "response_mask":
        data.batch.pop("response_mask")
    manager = CostBatchRewardManager(tokenizer, 0, ComputeScore(quality, TERM, weight=0.25).batch)
    result = manager(data, return_dict=True)
    rollouts = [
        load(output.extra_fields["kvsim_turns"]) if by == "recorded" else expected(output) for output in outputs
    ]
    costs = price(TERM, rollouts).trajectories
    assert result["reward_extra_info"]["kvsim_cost"] == costs.tolist()
    scores = np.array(result["reward_extra_info"]["kvsim_quality"]) - 0.25 * costs
    assert result["reward_tensor"].sum(-1).numpy() == pytest.approx(scores, rel=1e-6)


def test_equal_to_trl_and_to_plain_batches(outputs: list[Any], tokenizer: Any) -> None:
    from kvsim.trainers.trl import CostReward

    chosen = list(filter(whole, outputs))
    marks = TurnMarks.of(tokenizer)
    rollouts = [load(output.extra_fields["kvsim_turns"]) for output in chosen]
    by_verl = [one["kvsim_cost"] for one in _scores(chosen)]
    by_trl = CostReward(TERM)(
        prompts=[[]] * len(chosen),
        completions=[[]] * len(chosen),
        completion_ids=[output.response_ids for output in chosen],
        kvsim_turns=rollouts,
    )
    assert [-reward for reward in by_trl] == by_verl
    for output, turns, cost in zip(chosen, rollouts, by_verl, strict=True):
        ids = np.array([*output.prompt_ids, *output.response_ids])
        mask = np.array([0] * len(output.prompt_ids) + list(output.response_mask), np.int8)
        pauses_ns = [round(turn.pause_s * 1e9) for turn in turns]
        assert float(TERM(kvsim.logs.from_token_masks([ids], [mask], pause_ns=pauses_ns))[0]) == cost
        assert [end - begin for begin, end in marks.stretches(output.response_ids) if end > begin] == [
            turn.output_tokens for turn in turns
        ]


def _scores(outputs: list[Any]) -> list[dict[str, Any]]:
    infos = [output.extra_fields for output in outputs]
    size = len(outputs)
    return ComputeScore(quality, TERM).batch(["weather"] * size, [""] * size, ["sun"] * size, infos)


def test_dumps_are_priced_later(outputs: list[Any], tokenizer: Any, tmp_path: Path) -> None:
    trainer_base = pytest.importorskip("verl.trainer.ppo.ray_trainer", reason="verl's trainer does not import here")
    infos = _scores(outputs)
    trainer_base.RayPPOTrainer._write_generations(
        [tokenizer.decode(output.prompt_ids, skip_special_tokens=True) for output in outputs],
        [tokenizer.decode(output.response_ids, skip_special_tokens=True) for output in outputs],
        ["sun"] * len(outputs),
        [one["score"] for one in infos],
        {name: [one[name] for one in infos] for name in infos[0] if name != "score"},
        str(tmp_path),
        7,
    )
    batch = kvsim.read(tmp_path / "7.jsonl")
    assert batch.report is not None
    assert batch.report.formats == {"verl": 1}
    assert batch.estimated_share == 0
    assert TERM(batch).tolist() == [one["kvsim_cost"] for one in infos]
