"""Speed of the other hot paths: reading, PTE, attribution, threads, sweeps; each beside something plain in one run.

pytest bench/bench_paths.py --benchmark-json=paths.json && python bench/ratios.py paths.json
"""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import msgspec
import pytest
from agent_sessions import ENGINE, GPU, Sessions, simulate
from agent_sessions import MODEL as SERVED
from conftest import MODEL, agent_runs

import kvsim
from kvsim import backends
from kvsim.backends.interface import empty_columns
from kvsim.insight import attribute
from kvsim.pricing import resolve_pricing

LOGS = Path(__file__).resolve().parents[1] / "tests" / "data" / "logs"
ROUNDS = {"rounds": 9, "iterations": 1, "warmup_rounds": 1}
TURNS = 1_000_000
POINTS = 100
wall = pytest.mark.benchmark(timer=time.perf_counter)

pytestmark = pytest.mark.benchmark(timer=time.process_time)


@pytest.fixture(scope="module")
def batch():
    return agent_runs(TURNS)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """48 real coding sessions, unzipped."""
    path = tmp_path_factory.mktemp("logs") / "sessions.jsonl"
    path.write_bytes(gzip.decompress((LOGS / "kv-cache-tester" / "sessions.jsonl.gz").read_bytes()))
    return path


def note(benchmark, role, turns):
    benchmark.extra_info |= {"turns": turns, "role": role}


def test_parsing_alone(benchmark, sessions):
    """JSON into objects: the least that reading must do."""
    note(benchmark, "parsing alone", 1353)
    lines = sessions.read_bytes().splitlines()
    benchmark.pedantic(lambda: [msgspec.json.decode(line) for line in lines], **ROUNDS)


def test_reading(benchmark, sessions):
    """The same lines into a batch."""
    note(benchmark, "read neutral / parsing alone", 1353)
    benchmark.pedantic(lambda: kvsim.read(sessions), **ROUNDS)


def test_reading_hashes(benchmark):
    """A raw trace, whose kept tokens come from its blocks' hashes."""
    path = LOGS / "kv-cache-tester" / "trace_0291.json.gz"
    note(benchmark, "read hashes / parsing alone", kvsim.read(path).turns)
    benchmark.pedantic(lambda: kvsim.read(path), **ROUNDS)


def test_plain_pass(benchmark, batch):
    """Reading six columns once."""
    note(benchmark, "plain", TURNS)
    names = ("parent", "kept_tokens", "prompt_tokens", "output_tokens", "pause_ns", "trajectory")
    columns = [batch.columns[name] for name in names]
    benchmark.pedantic(lambda: [column.sum() for column in columns], **ROUNDS)


@pytest.mark.parametrize("reading", ["paper", "exact", "calibrated"])
def test_pte(benchmark, batch, reading):
    """One reading of PTE."""
    note(benchmark, f"pte {reading} / plain", TURNS)
    benchmark.pedantic(lambda: kvsim.pte(batch, **MODEL, reading=reading), **ROUNDS)


def test_term(benchmark, batch):
    """A cost term on a ready batch."""
    note(benchmark, "cost term / plain", TURNS)
    term = kvsim.CostTerm(**MODEL, unit="gpu_s")
    benchmark.pedantic(lambda: term(batch), **ROUNDS)


def test_attribution(benchmark):
    """Where the time of an estimate went, turn by turn."""
    batch = agent_runs(100_000)
    note(benchmark, "attribution / plain", batch.turns)
    benchmark.pedantic(lambda: attribute(kvsim.estimate(batch, **MODEL)).turns["decode_context_ns"], **ROUNDS)


@wall
@pytest.mark.parametrize("what", ["totals", "columns"])
@pytest.mark.parametrize("threads", [1, 2])
def test_estimate_on_threads(benchmark, threads, what):
    """Wall time."""
    batch = agent_runs(4_000_000)
    backend = backends.get("native")
    handle, packed = resolve_pricing(**MODEL).handle(backend), batch.packed(backend)
    columns = empty_columns(batch.turns) if what == "columns" else None
    beside = f" / {what} on 1 thread" if threads > 1 else ""
    note(benchmark, f"{what} on {threads} thread{'s' if threads > 1 else ''}{beside}", batch.turns)
    rounds = ROUNDS | {"rounds": 25}
    benchmark.pedantic(lambda: backend.estimate(handle, packed, columns, threads), **rounds)


@wall
@pytest.mark.parametrize("threads", [1, 2])
def test_sweep_on_threads(benchmark, threads):
    """Wall time of a sweep of 100 points over 4,200 turns, tokens and times of each summed up."""
    batch = Sessions.draw(200).batch()
    points = [{"arrivals": f"closed:{1 + number % 64}", "seed": number} for number in range(POINTS)]
    beside = " / sweep on 1 thread" if threads > 1 else ""
    note(benchmark, f"sweep on {threads} thread{'s' if threads > 1 else ''}{beside}", batch.turns * POINTS)

    def sweep():
        asked = {"model": SERVED, "gpu": GPU, "engine": ENGINE, "keep": lambda run: run.engine.hit_rate}
        return list(kvsim.sweep(batch, points, threads=threads, **asked))

    benchmark.pedantic(sweep, **(ROUNDS | {"rounds": 5}))


def test_attribution_of_a_simulation(benchmark):
    """Beside the simulation itself."""
    batch = Sessions.draw(200).batch()
    run = simulate(batch, 16)
    note(benchmark, "attribution of a simulation / attribution", batch.turns)
    benchmark.pedantic(lambda: attribute(run).turns["decode_context_ns"], **ROUNDS)
