"""Agent sessions of 21 turns with tool pauses: the workload that the engine's benchmarks and its peers are timed on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

import kvsim
from kvsim import Batch

Ints = npt.NDArray[np.int64]

TURNS = 21
BLOCK_SIZE = 16
NUM_GPU_BLOCKS = 32_768
MAX_NUM_SEQS = 256
MAX_NUM_BATCHED_TOKENS = 8_192
CONCURRENCIES = (16, 64, 256)
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
GPU = "h100-sxm"
ENGINE = kvsim.EngineConfig(
    block_size=BLOCK_SIZE,
    num_gpu_blocks_override=NUM_GPU_BLOCKS,
    max_num_seqs=MAX_NUM_SEQS,
    max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS,
    async_scheduling=False,
)


@dataclass(frozen=True)
class Sessions:
    """Each prompt is the one before, its reply, and a tool's response.

    ``first`` (sessions,) tokens of the first prompts; ``replies`` (sessions, turns) tokens; ``tools`` and ``waits_ms``
    (sessions, turns - 1) tokens of the tools' responses and how long they take.
    """

    first: Ints
    replies: Ints
    tools: Ints
    waits_ms: Ints

    @classmethod
    def draw(cls, sessions: int, turns: int = TURNS, seed: int = 0) -> Sessions:
        """First prompts of 2,000-6,000 tokens, replies of 50-400, lognormal tools (6.2, 1.0; at most 8,000 tokens) and
        waits (0.5, 1.2; s)."""
        random = np.random.default_rng(seed)
        gaps = (sessions, turns - 1)
        return cls(
            first=random.integers(2000, 6001, sessions),
            replies=random.integers(50, 401, (sessions, turns)),
            tools=np.clip(random.lognormal(6.2, 1.0, gaps), 1, 8000).astype(np.int64),
            waits_ms=np.rint(random.lognormal(0.5, 1.2, gaps) * 1e3).astype(np.int64),
        )

    def batch(self, *, replies_kept: bool = True) -> Batch:
        """One trajectory a session. Without ``replies_kept`` each prompt shares only the one before, not its reply."""
        sessions, turns = self.replies.shape
        first_turn = np.zeros((sessions, 1), np.int64)
        appended = np.concatenate((self.first[:, None], self.replies[:, :-1] + self.tools), axis=1)
        prompt = np.cumsum(appended, axis=1)
        kept = prompt + self.replies if replies_kept else prompt
        row = np.arange(sessions * turns).reshape(sessions, turns)
        return Batch.from_columns(
            parent=np.concatenate((first_turn - 1, row[:, :-1]), axis=1).ravel(),
            kept_tokens=np.concatenate((first_turn, kept[:, :-1]), axis=1).ravel(),
            prompt_tokens=prompt.ravel(),
            output_tokens=self.replies.ravel(),
            pause_ns=np.concatenate((first_turn, self.waits_ms * 1_000_000), axis=1).ravel(),
            arrival_ns=np.zeros(sessions * turns, np.int64),
            trajectory=np.repeat(np.arange(sessions), turns),
        )

    def dynamo_lines(self) -> Iterator[dict[str, Any]]:
        """One object a session, as Dynamo replay's ``applied_compute_agentic`` traces have them."""
        for first, replies, tools, waits_ms in zip(self.first, self.replies, self.tools, self.waits_ms, strict=True):
            yield {
                "num_turns": len(tools),
                "input_prompt_length": int(first),
                "assistant_response_length": replies[:-1].tolist(),
                "tool_call_output_length": tools.tolist(),
                "tool_call_latency": (waits_ms / 1000).tolist(),
                "final_assistant_response_length": int(replies[-1]),
            }


def simulate(
    batch: Batch, concurrency: int, backend: str = "native", async_scheduling: bool = False
) -> kvsim.Simulation:
    """The sessions on one engine, so many at a time."""
    engine = replace(ENGINE, async_scheduling=async_scheduling)
    return kvsim.simulate(batch, model=MODEL, gpu=GPU, engine=engine, arrivals=f"closed:{concurrency}", backend=backend)
