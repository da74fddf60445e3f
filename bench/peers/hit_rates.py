"""Hit rates of one cache of KV blocks under one sequence of requests: kvsim, kvcache-simulator, libCacheSim.

The agent sessions of the other benchmarks, 64 in flight: the first turn of each, then the second of each, and so on.
Requests come one after the other, each alone on the engine, and generate one token, so that all three see the same
sequence of the same blocks. What still differs is what they call a hit and which block goes first:

- kvsim and vLLM look for the longest prefix, and evict the tail of the context that was idle the longest;
- kvcache-simulator looks for the longest prefix too, in an LRU order of single blocks;
- libCacheSim knows objects: any block that is there is a hit, behind a missing one too.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from agent_sessions import BLOCK_SIZE, GPU, MODEL, NUM_GPU_BLOCKS, Sessions
from peers.environments import KVCACHE_SIMULATOR, LIBCACHESIM, MissingPeerError

import kvsim

HERE = Path(__file__).resolve().parent
IN_FLIGHT = 64
SPACING_NS = 10**12
_BYTES_A_BLOCK = 2 * 36 * 8 * 128 * 2 * BLOCK_SIZE  # of kvcache-simulator's qwen3-8b


class Requests:
    """A prompt of so many whole blocks and half a one for every turn, in the order in which they come."""

    def __init__(self, sessions: int, seed: int) -> None:
        drawn = Sessions.draw(sessions, seed=seed)
        appended = np.concatenate((drawn.first[:, None], drawn.replies[:, :-1] + drawn.tools), axis=1)
        whole = np.cumsum(appended // BLOCK_SIZE + 1, axis=1)
        turns = whole.shape[1]
        group = np.arange(sessions) // IN_FLIGHT
        keys = (np.tile(np.arange(sessions)[:, None], turns), np.tile(np.arange(turns), (sessions, 1)))
        order = np.lexsort((keys[0].ravel(), keys[1].ravel(), np.repeat(group, turns)))
        self.session, self.turn = keys[0].ravel()[order], keys[1].ravel()[order]
        self.blocks = whole.ravel()[order]
        self._place = np.empty(sessions * turns, np.int64)
        self._place[order] = np.arange(sessions * turns)
        self._turns = turns

    def __len__(self) -> int:
        return len(self.blocks)

    def hashes(self, at: int) -> list[int]:
        """The names of a request's blocks."""
        first = int(self.session[at]) << 20
        return list(range(first, first + int(self.blocks[at])))

    def batch(self) -> kvsim.Batch:
        """For kvsim: each at its own time, extending its session's context."""
        before = np.where(self.turn > 0, self._place[np.maximum(self.session * self._turns + self.turn - 1, 0)], -1)
        kept = np.where(before >= 0, self.blocks[before] * BLOCK_SIZE, 0)
        none = np.full(len(self), -1)
        return kvsim.Batch.from_columns(
            parent=before,
            after=none,
            kept_tokens=kept,
            prompt_tokens=self.blocks * BLOCK_SIZE + BLOCK_SIZE // 2,
            output_tokens=np.ones(len(self), np.int64),
            pause_ns=np.zeros(len(self), np.int64),
            arrival_ns=np.arange(len(self)) * SPACING_NS,
            trajectory=self.session,
        )


def by_kvsim(requests: Requests) -> dict[str, Any]:
    """Over the last half of the requests, as kvcache-simulator counts, and over all."""
    batch = requests.batch()
    engine = kvsim.EngineConfig(
        block_size=BLOCK_SIZE, num_gpu_blocks_override=NUM_GPU_BLOCKS + 1, async_scheduling=False, max_model_len=131_072
    )
    times = []
    for _ in range(3):
        start_s = time.process_time()
        run = kvsim.simulate(batch, model=MODEL, gpu=GPU, engine=engine)
        times.append(time.process_time() - start_s)
    cached, asked = run.served.cached_tokens // BLOCK_SIZE, requests.blocks
    half = len(requests) // 2
    return {
        "version": kvsim.__version__,
        "requests_per_s": len(requests) / min(times),
        "hit_rate": cached.sum() / asked.sum(),
        "hit_rate_last_half": cached[half:].sum() / asked[half:].sum(),
    }


def by_kvcache_simulator(requests: Requests, folder: Path) -> dict[str, Any]:
    """Its command, reading of the trace included, of which most of its time is made."""
    python = KVCACHE_SIMULATOR.python()
    trace = folder / "trace.jsonl"
    with trace.open("w") as file:
        for at in range(len(requests)):
            tokens = int(requests.blocks[at]) * BLOCK_SIZE
            told = {"timestamp": at, "input_length": tokens, "output_length": 1, "hash_ids": requests.hashes(at)}
            file.write(json.dumps(told) + "\n")
    command = [str(python), "-m", "kvcache_sim", "run", "--trace", str(trace), "--model", "qwen3-8b", "--no-progress"]
    command += ["--block-size", str(BLOCK_SIZE), "--policies", "lru", "--format", "json"]
    command += ["--budgets-gib", str(NUM_GPU_BLOCKS * _BYTES_A_BLOCK / 2**30)]
    start_s = time.perf_counter()
    found = json.loads(KVCACHE_SIMULATOR.output(command))
    took_s = time.perf_counter() - start_s
    if not found["points"]:
        raise MissingPeerError("kvcache-simulator: its cache was not filled by half of the trace; give more sessions")
    return {
        "version": "0.1.3",
        "requests_per_s": len(requests) / took_s,
        "hit_rate_last_half": found["points"][0]["results"]["lru"]["hitRate"],
    }


def by_libcachesim(requests: Requests, folder: Path) -> dict[str, Any]:
    """Its LRU over the blocks as objects, fed by its reader of text."""
    python = LIBCACHESIM.python()
    trace = folder / "blocks.txt"
    with trace.open("w") as file:
        for at in range(len(requests)):
            file.write("".join(f"{block}\n" for block in requests.hashes(at)))
    told = LIBCACHESIM.output([str(python), "-I", str(HERE / "run_libcachesim.py"), str(trace), str(NUM_GPU_BLOCKS)])
    found = json.loads(told.splitlines()[-1])
    return {
        "version": found["version"],
        "blocks_per_s": found["blocks"] / found["cpu_s"],
        "requests_per_s": len(requests) / found["cpu_s"],
        "hit_rate": found["hit_rate"],
    }
