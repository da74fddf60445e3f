"""The cost reward inside the real TRL: a tiny model, a real tool, steps of GRPO on a CPU."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("trl", reason="needs the real TRL: tools/install_trainers_cpu.sh")
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import train_with_cost as example
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

import kvsim
from kvsim.trainers import ToolClock, TurnMarks, measured_share, price, turns_of_mask
from kvsim.trainers.trl import CostReward

PROMPTS = [{"prompt": [{"role": "user", "content": f"weather {city}"}]} for city in ("oslo", "rome")]


class Recording(GRPOTrainer):  # type: ignore[misc]
    """Keeps what the trainer knows of its rollouts and a reward function is not told."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.rollouts: list[tuple[list[int], list[int], list[int]]] = []
        super().__init__(*args, **kwargs)

    def _generate(self, prompts: list[Any]) -> Any:
        result = super()._generate(prompts)
        prompt_ids, completion_ids, tool_mask = result[:3]
        self.rollouts += zip(prompt_ids, completion_ids, tool_mask, strict=True)
        return result


class Seen(CostReward):
    """A cost reward that keeps the turns it priced and the rewards it gave."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rollouts: list[Any] = []
        self.rewards: list[float] = []

    def turns(self, *given: Any) -> Any:
        found = super().turns(*given)
        self.rollouts += found
        return found

    def __call__(self, *args: Any, **kwargs: Any) -> list[float]:
        rewards = super().__call__(*args, **kwargs)
        self.rewards += rewards
        return rewards


def latency(**more: Any) -> kvsim.CostTerm:
    return kvsim.CostTerm("Qwen/Qwen3-8B", "h100-sxm", unit="latency_s", **more)


def config(folder: Path, **more: Any) -> GRPOConfig:
    return GRPOConfig(
        output_dir=str(folder),
        seed=0,
        use_cpu=True,
        per_device_train_batch_size=16,
        num_generations=8,
        max_completion_length=48,
        max_tool_calling_iterations=3,
        learning_rate=1e-3,
        logging_steps=1,
        log_completions=True,
        num_completions_to_print=0,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **more,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recording, Seen, Path]:
    """Three steps with a tool, rewarded by cost alone."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    tokenizer, tool, clock = example.make_tokenizer(), example.make_tool(), ToolClock()
    cost = Seen(latency(), tokenizer, tools=[tool], clock=clock)
    trainer = Recording(
        model=example.make_model(tokenizer),
        processing_class=tokenizer,
        reward_funcs=cost,
        tools=clock.wrap([tool]),
        train_dataset=Dataset.from_list(PROMPTS * 8),
        args=config(folder, max_steps=3),
    )
    trainer.train()
    return trainer, cost, folder


def test_turns_are_those_of_the_trainer(run: tuple[Recording, Seen, Path]) -> None:
    trainer, cost, _ = run
    assert len(cost.rollouts) == len(trainer.rollouts) == 3 * 16
    several = 0
    for turns, (prompt, _, mask) in zip(cost.rollouts, trainer.rollouts, strict=True):
        expected = turns_of_mask(len(prompt), mask)
        assert [(turn.prompt_tokens, turn.output_tokens) for turn in turns] == [
            (turn.prompt_tokens, turn.output_tokens) for turn in expected
        ]
        several += len(turns) > 1
    assert several >= 2, "a run without tool calls shows nothing"


def test_tools_are_timed(run: tuple[Recording, Seen, Path]) -> None:
    _, cost, _ = run
    assert measured_share(cost.rollouts).min() == 1
    pauses_s = [turn.pause_s for turns in cost.rollouts for turn in turns[1:]]
    assert min(pauses_s) > 0
    assert {name for turns in cost.rollouts for turn in turns for name in turn.tools} == {"look_up"}


def test_rewards_are_costs(run: tuple[Recording, Seen, Path]) -> None:
    trainer, cost, _ = run
    assert cost.rewards == (-price(latency(), cost.rollouts).trajectories).tolist()
    steps = [entry for entry in trainer.state.log_history if "kvsim/latency_s" in entry]
    assert [entry["kvsim/latency_s"] for entry in steps] == pytest.approx(
        -np.array(cost.rewards).reshape(3, 16).mean(axis=1), rel=1e-6
    )
    assert {entry["kvsim/measured_pauses"] for entry in steps} == {1.0}


def test_equal_to_plain_batches(run: tuple[Recording, Seen, Path]) -> None:
    trainer, cost, _ = run
    term = latency()
    for reward, turns, (prompt, ids, mask) in zip(cost.rewards, cost.rollouts, trainer.rollouts, strict=True):
        whole = np.array([0] * len(prompt) + mask, np.int8)
        pauses_ns = [round((turn.pause_s or 0.0) * 1e9) for turn in turns]
        batch = kvsim.logs.from_token_masks([np.array([*prompt, *ids])], [whole], pause_ns=pauses_ns)
        assert -reward == float(term(batch)[0])


def test_completions_are_priced_later(run: tuple[Recording, Seen, Path]) -> None:
    _, cost, folder = run
    batch = kvsim.read(folder / "completions")
    assert batch.report is not None
    assert batch.report.formats == {"trl": 3}
    assert batch.report.adds_up
    assert batch.estimated_share == 0
    assert latency()(batch).tolist() == [-reward for reward in cost.rewards]


def test_completions_without_the_reward_are_estimated(run: tuple[Recording, Seen, Path], tmp_path: Path) -> None:
    import pandas

    _, cost, folder = run
    file = sorted((folder / "completions").iterdir())[0]
    pandas.read_parquet(file).drop(columns=["kvsim_turns", "kvsim_cost"]).to_parquet(tmp_path / file.name)
    batch = kvsim.read(tmp_path)
    assert len(batch) == 16
    assert batch.estimated_share == 1
    turns = np.bincount(batch.trajectory)
    assert (turns >= [len(turns) for turns in cost.rollouts[:16]]).all(), "TRL keeps messages without tokens too"


def test_marks_of_the_templates_that_trl_ships() -> None:
    from trl import chat_template_utils

    tokenizer = example.make_tokenizer()
    begin, end = ["<|im_start|>", "assistant", "\n"], "<|im_end|>"
    for name in ("qwen2_5", "qwen3", "qwen3_instruct_2507"):
        tokenizer.chat_template = getattr(chat_template_utils, f"{name}_chat_template")
        marks = TurnMarks.of(tokenizer)
        assert marks.begin == tuple(tokenizer.convert_tokens_to_ids(begin))
        assert marks.end == {tokenizer.convert_tokens_to_ids(end)}
        assert marks.opens == tuple(tokenizer.convert_tokens_to_ids(["<|im_start|>", "user", "\n"]))


def test_rewards_are_finite_for_whatever_comes() -> None:
    tokenizer, tool = example.make_tokenizer(), example.make_tool()
    cost = CostReward(latency(durations={"*": 1.0}), tokenizer, tools=[tool], clock=ToolClock())
    eos = tokenizer.eos_token_id
    call = {"type": "function", "function": {"name": "look_up", "arguments": {"city": "rome"}}}
    completions: list[tuple[list[dict[str, Any]], list[int]]] = [
        ([{"role": "assistant", "content": ""}], []),
        ([{"role": "assistant", "content": "sun"}], [5, eos]),
        ([{"role": "assistant", "content": "sun sun"}], [5, 5]),
        ([{"role": "assistant", "content": "<tool_call>\n{nonsense"}], [5] * 9),
        ([{"role": "assistant", "content": "", "tool_calls": [{"type": "function"}]}], [5, eos]),
        ([{"role": "assistant", "tool_calls": [call]}], [5, eos]),
        (
            [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "name": "look_up", "content": "sun"}],
            [5, eos, 7],
        ),
        ([{"role": "assistant", "tool_calls": None}, {"role": "tool", "content": "?"}], [5, eos]),
        ([{"role": "assistant", "content": "long"}], [5] * 100_000),
        ([], []),
    ]
    prompts = [PROMPTS[0]["prompt"]] * len(completions)
    messages, ids = (list(column) for column in zip(*completions, strict=True))
    rewards = cost(prompts=prompts, completions=messages, completion_ids=ids, trainer_state=None)
    assert all(math.isfinite(reward) and reward < 0 for reward in rewards)
    texts = cost(prompts=["weather"] * 2, completions=["", "sun"], completion_ids=[[], [5]])
    assert all(math.isfinite(reward) and reward < 0 for reward in texts)
    assert texts[0] >= texts[1]


def test_rollout_func_tells_its_turns(tmp_path: Path) -> None:
    tokenizer = example.make_tokenizer()
    mask = [1, 1, 0, 0, 1]

    def rollout(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        ids = [tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=False) for p in prompts]
        return {
            "prompt_ids": ids,
            "completion_ids": [[5, 6, 7, 8, tokenizer.eos_token_id]] * len(prompts),
            "logprobs": [[-1.0] * 5] * len(prompts),
            "env_mask": [mask] * len(prompts),
            "kvsim_turns": [turns_of_mask(len(one), mask, pauses_s=[n / 10]) for n, one in enumerate(ids)],
        }

    cost = Seen(latency())
    trainer = GRPOTrainer(
        model=example.make_model(tokenizer),
        processing_class=tokenizer,
        reward_funcs=cost,
        rollout_func=rollout,
        train_dataset=Dataset.from_list(PROMPTS * 8),
        args=config(tmp_path, max_steps=1),
    )
    trainer.train()
    size = len(tokenizer.apply_chat_template(PROMPTS[0]["prompt"], add_generation_prompt=True, return_dict=False))
    expected = price(latency(), [turns_of_mask(size, mask, pauses_s=[n / 10]) for n in range(16)]).trajectories
    assert cost.rewards == (-expected).tolist()


def test_the_cost_falls_where_it_counts(tmp_path: Path) -> None:
    alone, less_cost = (
        example.train(0, steps=20, weight=weight, folder=str(tmp_path / str(weight))) for weight in (0.0, 1.0)
    )
    (_, last_alone), (first, last) = example.ends(alone, "kvsim/gpu_s"), example.ends(less_cost, "kvsim/gpu_s")
    assert alone[0]["kvsim/gpu_s"] == less_cost[0]["kvsim/gpu_s"], "the same weights, the same questions"
    assert last < first
    assert last < last_alone
