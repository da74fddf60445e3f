"""kvsim beside Dynamo replay, in one run, on the same agent sessions: speed, cache reuse and latency.

    cd bench && python -m peers.against_dynamo [--rounds 3] [--sessions 1000] [--seed 0]

Rates are turns per second of CPU time, so that other work on the machine counts less; both use one core.

Dynamo replay is timed with its default step times, two polynomials, and with a table of straight lines through those
polynomials' ends, which kvsim's law can hold as well: prefill takes so long a token, a step in which anything decodes
so long and so long a context token. Where the two still differ: kvsim charges the second constant also to steps that
only prefill, and a prefilling sequence one token's prefill less.

A trace of this format names lengths, not tokens: the replies that Dynamo's engine generates are not those that the
next prompt brings, so that it finds the previous prompt in its cache, not the reply. Real engines find both. kvsim is
run either way.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from agent_sessions import (
    BLOCK_SIZE,
    CONCURRENCIES,
    ENGINE,
    GPU,
    MAX_NUM_BATCHED_TOKENS,
    MAX_NUM_SEQS,
    MODEL,
    NUM_GPU_BLOCKS,
    Sessions,
    simulate,
)
from peers.environments import DYNAMO, MissingPeerError
from peers.machine import machine

import kvsim
from kvsim.backends.contexts import contexts_of, settings_of
from kvsim.backends.engine_kernels import NO_PLAN, GroupLaw, Served, StepLaw
from kvsim.backends.serving import ALONE, serve, timeline_of
from kvsim.backends.workload import closed_starts, workload_of
from kvsim.pricing import resolve_pricing

HERE = Path(__file__).resolve().parent

# Dynamo 1.6.1's default polynomials, in ms: prefill of t tokens 4.209989e-07 t^2 + 1.518344e-02 t + 16.50142, decode
# with a share x of the KV cache in use -25.74 x^2 + 54.01 x + 5.74. Here the lines through their ends.
PREFILL_MS_PER_TOKEN = 4.209989e-07 * MAX_NUM_BATCHED_TOKENS + 1.518344e-02 + 16.50142 / MAX_NUM_BATCHED_TOKENS
DECODE_MS = 5.74
DECODE_MS_PER_CONTEXT_TOKEN = (54.01 - 25.74) / (NUM_GPU_BLOCKS * BLOCK_SIZE)


def lines_law(fraction_bits: int = 20) -> StepLaw:
    """The straight lines as kvsim's law. A decoding sequence's token is no prefill, hence the negative table."""
    unit = 1e6 * 2.0**fraction_bits
    sequences = np.arange(MAX_NUM_SEQS + 1)
    step = np.rint((PREFILL_MS_PER_TOKEN * np.arange(MAX_NUM_BATCHED_TOKENS + 1) + DECODE_MS) * unit)
    decode = np.full(MAX_NUM_SEQS + 1, round(DECODE_MS_PER_CONTEXT_TOKEN * unit))
    return StepLaw(
        fraction_bits=fraction_bits,
        step=step.astype(np.int64),
        sequences=np.rint(-PREFILL_MS_PER_TOKEN * sequences * unit).astype(np.int64),
        window=0,
        tile_keys=0,
        full=GroupLaw(0, 0, decode, decode),
        windowed=GroupLaw(0, 0, np.zeros_like(decode), np.zeros_like(decode)),
    )


def write_lines_profile(path: Path) -> None:
    """The same lines as a table that Dynamo interpolates: decode by KV tokens in use, whatever the mean context."""
    tokens, capacity = 2.0 * MAX_NUM_BATCHED_TOKENS, 2.0 * NUM_GPU_BLOCKS * BLOCK_SIZE
    most_ms = DECODE_MS + capacity * DECODE_MS_PER_CONTEXT_TOKEN
    np.savez(
        path,
        prefill_isl=np.array([0.0, tokens]),
        prefill_ttft_ms=np.array([0.0, tokens * PREFILL_MS_PER_TOKEN]),
        decode_active_kv_tokens=np.array([0.0, capacity]),
        decode_context_length=np.array([0.0, capacity]),
        decode_itl=np.array([[DECODE_MS, DECODE_MS], [most_ms, most_ms]]),
    )


class Dynamo:
    """Dynamo replay in its own environment, a process a replay."""

    def __init__(self, python: Path, folder: Path, sessions: Sessions) -> None:
        self.command = [str(python), "-I", str(HERE / "run_dynamo.py")]
        self.sessions = folder / "sessions.jsonl"
        self.sessions.write_text("".join(json.dumps(line) + "\n" for line in sessions.dynamo_lines()))
        profile = folder / "lines.npz"
        write_lines_profile(profile)
        self.timing_models: dict[str, dict[str, Any]] = {
            "polynomials": {"type": "polynomial"},
            "lines": {"type": "external", "provider": "dynamo_profile", "config": {"path": str(profile)}},
        }

    def replay(self, concurrency: int, timing: str) -> dict[str, Any]:
        """Dynamo's summary and the CPU time of the replay, ``cpu_s``."""
        engine = {
            "num_gpu_blocks": NUM_GPU_BLOCKS,
            "block_size": BLOCK_SIZE,
            "max_num_seqs": MAX_NUM_SEQS,
            "max_num_batched_tokens": MAX_NUM_BATCHED_TOKENS,
            "timing_model": self.timing_models[timing],
        }
        command = [*self.command, str(self.sessions), str(concurrency), json.dumps(engine)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingPeerError(f"Dynamo replay failed:\n{done.stderr}")
        summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return summary


def serve_lines(batch: kvsim.Batch, concurrency: int) -> Served:
    """kvsim with the straight lines; otherwise as :func:`agent_sessions.simulate`."""
    settings = settings_of(resolve_pricing(MODEL, GPU, ENGINE).engine)
    workload = workload_of(batch, closed_starts(len(batch), concurrency), np.zeros(batch.turns, np.int64))
    contexts = contexts_of(batch, BLOCK_SIZE)
    return serve("native")(settings, lines_law(), contexts, workload, NO_PLAN, ALONE, timeline_of(1))[0]


def cpu_s(job: Callable[[kvsim.Batch], object], make: Callable[[], kvsim.Batch], repeats: int = 5) -> float:
    """Median CPU time of a job of milliseconds on a batch that nothing is known of yet."""
    times = []
    for _ in range(repeats):
        batch = make()
        start = time.process_time()
        job(batch)
        times.append(time.process_time() - start)
    return median(times)


def row_of_kvsim(name: str, batch: kvsim.Batch, concurrency: int) -> str:
    served = serve_lines(batch, concurrency)
    reuse = served.cached_tokens.sum() / batch.prompt_tokens.sum()
    ttft_s = (served.first_token_ns - served.release_ns).mean() / 1e9
    e2e_s = (served.finish_ns - served.release_ns).mean() / 1e9
    end_s = served.finish_ns.max() / 1e9
    return _row(concurrency, name, f"{reuse:.5f}", f"{ttft_s:.4f}", f"{e2e_s:.3f}", f"{end_s:,.0f}")


def row_of_dynamo(summary: dict[str, Any], concurrency: int) -> str:
    reuse = summary["first_admission_prefix_cache_reused_ratio"]
    ttft_s, e2e_s = summary["mean_ttft_ms"] / 1e3, summary["mean_e2e_latency_ms"] / 1e3
    end_s = summary["duration_ms"] / 1e3
    return _row(concurrency, "Dynamo", f"{reuse:.5f}", f"{ttft_s:.4f}", f"{e2e_s:.3f}", f"{end_s:,.0f}")


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def compared(python: Path, sessions: Sessions, rounds: int) -> dict[str, Any]:
    """Rates by concurrency, and both simulators' reuse and latencies under one law, as rows of Markdown tables."""
    as_dynamo, as_vllm = sessions.batch(replies_kept=False), sessions.batch()
    turns = as_vllm.turns
    rates: dict[int, dict[str, float]] = {}
    agreement: list[str] = []
    version = ""
    with tempfile.TemporaryDirectory() as folder:
        dynamo = Dynamo(python, Path(folder), sessions)
        for concurrency in CONCURRENCIES:
            jobs: dict[str, Callable[[], float]] = {
                "polynomials": lambda c=concurrency: dynamo.replay(c, "polynomials")["cpu_s"],
                "simulate": lambda c=concurrency: cpu_s(lambda batch: simulate(batch, c), sessions.batch),
                "Dynamo lines": lambda c=concurrency: dynamo.replay(c, "lines")["cpu_s"],
                "kvsim lines": lambda c=concurrency: cpu_s(
                    lambda batch: serve_lines(batch, c), lambda: sessions.batch(replies_kept=False)
                ),
            }
            times: dict[str, list[float]] = {name: [] for name in jobs}
            for _ in range(rounds):
                for name, job in jobs.items():
                    times[name].append(job())
            rates[concurrency] = {name: turns / median(values) for name, values in times.items()}
            summary = dynamo.replay(concurrency, "lines")
            version = summary["version"]
            agreement += [
                row_of_dynamo(summary, concurrency),
                row_of_kvsim("kvsim, replies new", as_dynamo, concurrency),
                row_of_kvsim("kvsim, replies kept", as_vllm, concurrency),
            ]
    return {"version": version, "turns": turns, "turns_per_s": rates, "agreement": agreement}


def show(found: dict[str, Any]) -> None:
    """Both tables."""
    print("| concurrency | kvsim.simulate | Dynamo, polynomials | ratio | kvsim, lines | Dynamo, lines | ratio |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for concurrency, rate in found["turns_per_s"].items():
        cells = [concurrency]
        for own, other in (("simulate", "polynomials"), ("kvsim lines", "Dynamo lines")):
            cells += [f"{rate[own]:,.0f}", f"{rate[other]:,.0f}", f"{rate[own] / rate[other]:.0f}"]
        print(_row(*cells))
    print("\n| concurrency | lines | reuse | mean TTFT s | mean E2E s | end s |\n|--:|---|--:|--:|--:|--:|")
    print(*found["agreement"], sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    try:
        found = compared(DYNAMO.python(), Sessions.draw(asked.sessions, seed=asked.seed), asked.rounds)
    except MissingPeerError as error:
        sys.exit(f"Skipped: {error}")
    print(f"ai-dynamo {found['version']}; {machine()}")
    print(
        f"{asked.sessions:,} sessions, {found['turns']:,} turns, seed {asked.seed}; medians of {asked.rounds} rounds\n"
    )
    show(found)


if __name__ == "__main__":
    main()
