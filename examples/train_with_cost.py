"""TRL's GRPO with and without a cost term, on a CPU, offline, in a few minutes.

    tools/install_trainers_cpu.sh .venv-trainers
    PYTHONPATH=. .venv-trainers/bin/python examples/train_with_cost.py --seeds 5

A model of 20,000 random weights and a vocabulary of a dozen words is asked about the weather. Some of its words are
tool calls; the tool looks the weather up in a database. A rollout is good if its last message names the weather, after
at least one look-up. More look-ups do not make it better: they make it dearer. Every seed is trained twice, from the
same weights on the same questions: rewarded for being good alone, and for being good less the GPU-seconds that
Qwen3-8B would take on an H100. What is printed are the means over the first and the last steps, seed by seed.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import sys
import tempfile
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, PrinterCallback, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_chat_template

import kvsim
from kvsim.trainers import ToolClock
from kvsim.trainers.trl import CostReward

WEATHER = {"oslo": "rain", "rome": "sun"}
CALLS = [
    f'<tool_call>\n{{"name": "look_up", "arguments": {{"city": "{city}"}}}}\n</tool_call>'
    for city in (*WEATHER, "bonn")  # of which the database knows nothing
]
SPECIAL = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"}
WORDS = ["<|im_start|>", "user", "assistant", "weather", " ", "\n", *WEATHER, *WEATHER.values()]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A dozen words, tool calls among them, with the chat template of Qwen3."""
    words = {word: number for number, word in enumerate([*SPECIAL.values(), *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s|[^\s]+"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **SPECIAL)
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.add_tokens(CALLS)
    fast.chat_template = qwen3_chat_template
    return fast


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """Random weights, drawn from torch's global generator."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def make_tool() -> Any:
    """A look-up in a real database."""
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.execute("create table weather (city text primary key, sky text)")
    database.executemany("insert into weather values (?, ?)", WEATHER.items())

    def look_up(city: str) -> str:
        """Look up the weather of a city.

        Args:
            city: The name of the city.

        Returns:
            The weather.
        """
        row = database.execute("select sky from weather where city = ?", (city,)).fetchone()
        if row is None:
            raise KeyError(f"no weather of {city}")
        return str(row[0])

    return look_up


def good(completions: list[list[dict[str, Any]]], **columns: Any) -> list[float]:
    """1 where the last message names the weather and something was looked up before, else 0; half for each."""
    rewards = []
    for messages in completions:
        looked_up = any(message["role"] == "tool" and "error" not in message["content"] for message in messages)
        last = messages[-1]
        named = last["role"] == "assistant" and any(sky in last["content"] for sky in WEATHER.values())
        rewards.append(0.5 * looked_up + 0.5 * (named and not last.get("tool_calls")))
    return rewards


def train(seed: int, *, steps: int, weight: float, folder: str) -> list[dict[str, float]]:
    """What the trainer logged at each step; ``weight``: of the cost, 0 logs it alone."""
    torch.set_num_threads(1)  # so small a model is slower with more
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    clock, tool = ToolClock(), make_tool()
    term = kvsim.CostTerm("Qwen/Qwen3-8B", "h100-sxm", unit="gpu_s")
    budget = float(term([[(300, 64)]])[0])  # costs are weighed in answers of 64 tokens
    cost = CostReward(term, tokenizer, weight=1 / budget, tools=[tool], clock=clock)
    trainer = GRPOTrainer(
        model=make_model(tokenizer),
        processing_class=tokenizer,
        reward_funcs=[good, cost],
        tools=clock.wrap([tool]),
        train_dataset=Dataset.from_list(
            [{"prompt": [{"role": "user", "content": f"weather {city}"}]} for city in WEATHER] * 64
        ),
        args=GRPOConfig(
            output_dir=folder,
            seed=seed,
            use_cpu=True,
            max_steps=steps,
            per_device_train_batch_size=16,
            num_generations=8,
            max_completion_length=48,
            max_tool_calling_iterations=3,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            temperature=1.0,
            beta=0.0,
            reward_weights=[1.0, weight],
            logging_steps=1,
            log_completions=True,
            num_completions_to_print=0,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [entry for entry in trainer.state.log_history if "kvsim/gpu_s" in entry]


def ends(history: list[dict[str, float]], name: str) -> tuple[float, float]:
    """The means of a metric over the first and the last fifth of the steps."""
    values = [entry[name] for entry in history]
    size = max(1, len(values) // 5)
    return statistics.fmean(values[:size]), statistics.fmean(values[-size:])


def main() -> None:
    """Train both ways for every seed and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--weight", type=float, default=1.0)
    parser.add_argument("--json", help="also write every step's metrics here")
    given = parser.parse_args()
    everything = []
    print("seed  reward     cost (GPU-ms)    good rollouts    look-ups a rollout")
    for seed in range(given.seeds):
        for name, weight in (("good", 0.0), ("less cost", given.weight)):
            with tempfile.TemporaryDirectory() as folder:
                history = train(seed, steps=given.steps, weight=weight, folder=folder)
            everything.append({"seed": seed, "weight": weight, "history": history})
            cost, quality, calls = (
                ends(history, metric) for metric in ("kvsim/gpu_s", "rewards/good/mean", "tools/call_frequency")
            )
            print(
                f"{seed:4}  {name:9}  {cost[0] * 1e3:6.1f} -> {cost[1] * 1e3:6.1f}  "
                f"{quality[0]:5.2f} -> {quality[1]:5.2f}  {calls[0]:7.2f} -> {calls[1]:5.2f}",
                flush=True,
            )
    if given.json:
        with open(given.json, "w") as file:
            json.dump(everything, file, indent=1)


if __name__ == "__main__":
    sys.exit(main())
