"""Speed of `estimate`, beside one plain pass over the same six columns in the same run.

pytest bench/bench_estimate.py --benchmark-json=estimate.json && python bench/ratios.py estimate.json
"""

from __future__ import annotations

import pytest
from conftest import MODEL

import kvsim
from kvsim import backends
from kvsim.backends.interface import empty_columns
from kvsim.pricing import resolve_pricing

COLUMNS = ("parent", "kept_tokens", "prompt_tokens", "output_tokens", "pause_ns", "trajectory")
LOADS = {
    "alone": kvsim.Load(),
    "evicted": kvsim.Load(kv="always"),
    "ttl": kvsim.Load(kv="ttl:5"),
    "lru": kvsim.Load(concurrent=8, mean_context=8000, kv="lru", churn_blocks_per_s=1000.0),
}
ROUNDS = {"rounds": 7, "iterations": 1, "warmup_rounds": 2}


def handles(name, batch, load):
    backend = backends.get(name)
    return backend, resolve_pricing(**MODEL, load=load).handle(backend), batch.packed(backend)


def test_plain_pass(benchmark, many):
    """Reading six columns once: the least that any pricing must do."""
    columns = [many.columns[name] for name in COLUMNS]
    benchmark.extra_info |= {"turns": many.turns, "role": "plain"}
    benchmark.pedantic(lambda: [column.sum() for column in columns], **ROUNDS)


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("name", ["native", "numba"])
def test_totals(benchmark, many, name, load):
    """Per-trajectory totals."""
    backend, prepared, packed = handles(name, many, LOADS[load])
    benchmark.extra_info |= {"turns": many.turns, "role": f"totals {load} {name}"}
    benchmark.pedantic(lambda: backend.estimate(prepared, packed, None), **ROUNDS)


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("name", ["native", "numba"])
def test_columns_of_turns(benchmark, many, name, load):
    """Totals and all columns of turns, into reused buffers."""
    backend, prepared, packed = handles(name, many, LOADS[load])
    columns = empty_columns(many.turns)
    benchmark.extra_info |= {"turns": many.turns, "role": f"columns {load} {name}"}
    benchmark.pedantic(lambda: backend.estimate(prepared, packed, columns), **ROUNDS)


def test_one_trajectory(benchmark, one):
    """One trajectory of 16 turns on a ready batch, from Python, names resolved each time."""
    benchmark.extra_info |= {"turns": one.turns, "role": "one trajectory"}
    benchmark(lambda: kvsim.estimate(one, **MODEL).latency_s)
