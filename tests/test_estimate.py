"""What an estimate means: closed forms against explicit stepping, reuse rules, loads, statuses, totals."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from cases import CASES, all_rates, columns, linear, make_rates, step_table
from hypothesis import given, settings
from hypothesis import strategies as st

import kvsim
from kvsim.backends import get, kernels
from kvsim.backends.rates import rates as rates_of
from kvsim.estimation import Estimate
from kvsim.pricing import resolve_pricing

H100 = {"model": "meta-llama/Llama-3.1-8B-Instruct", "gpu": "h100-sxm"}


def stepped_prefill(rates, step, cached, count):
    """The prefill chunk by chunk, token by token: what prefill_time sums in closed form."""
    time, done = 0, 0
    beside = rates.mean_context if rates.mean_context >= 0 else cached + count
    while done < count:
        tokens = min(rates.chunk, count - done)
        last = done + tokens == count
        time += step[tokens] + rates.prefill_step if last else rates.chunk_step
        start = cached + done
        time += rates.full.beside * beside + rates.full.context * (start + tokens)
        time += sum(rates.full.pair * (start + i) for i in range(1, tokens + 1))
        if rates.window:
            time += rates.windowed.beside * min(beside, rates.window)
            time += rates.windowed.context * min(start + tokens, rates.window + tokens)
            time += sum(rates.windowed.pair * min(start + i, rates.window) for i in range(1, tokens + 1))
        done += tokens
    return time


def stepped_decode(rates, prompt, steps):
    time = 0
    for i in range(1, steps + 1):
        own = prompt + i
        other = rates.mean_context if rates.mean_context >= 0 else own
        time += rates.decode_step + rates.full.decode * (own + rates.others * other)
        if rates.window:
            read = min(own, rates.window) + rates.others * min(other, rates.window)
            time += rates.windowed.decode * read
    return time


@settings(max_examples=150, deadline=None)
@given(rates=all_rates(), cached=st.integers(0, 3000), count=st.integers(1, 3000), steps=st.integers(0, 800))
def test_closed_forms_equal_stepping(rates, cached, count, steps):
    step = step_table(rates)
    assert kernels.prefill_time(rates, step, cached, count) == stepped_prefill(rates, step, cached, count)
    assert kernels.decode_time(rates, count, steps) == stepped_decode(rates, count, steps)


def test_rates_are_the_laws_step_time_at_that_load():
    """One decode step of the load costs what step_time says of the same step."""
    load = kvsim.Load(concurrent=8, mean_context=4000)
    pricing = resolve_pricing(**H100, load=load)
    rates, step = rates_of(pricing.law, pricing.engine, load)
    unit = 1e9 * 2**rates.fraction_bits
    one = kvsim.step_time(**H100, decode_context=[4000] * 7 + [5001])
    assert kernels.decode_time(rates, 5000, 1) / unit == pytest.approx(one.seconds, rel=1e-6)
    mixed = kvsim.step_time(**H100, prefill_new=[700], prefill_cached=[1000], decode_context=[4000] * 7)
    assert kernels.prefill_time(rates, step, 1000, 700) / unit == pytest.approx(mixed.seconds, rel=1e-6)


def test_parts_sum_to_the_whole_exactly():
    result = kvsim.estimate(linear(12, 50), **H100, load=kvsim.Load(kv="ttl:5"))
    turns = result._columns
    whole = turns.fresh_ns + turns.recompute_ns + turns.decode_ns
    by_trajectory = np.bincount(result.batch.trajectory, weights=whole).astype(np.int64)
    np.testing.assert_array_equal(by_trajectory, np.rint(result.model_s * 1e9).astype(np.int64))
    np.testing.assert_allclose(
        result.turns.e2e_s, result.turns.queue_s + result.turns.ttft_s + result.turns.decode_s, rtol=1e-12
    )
    assert (result.turns.queue_s == 0).all()


def test_latency_is_model_time_and_pauses_of_a_linear_run():
    batch = linear(12, 50)
    result = kvsim.estimate(batch, **H100)
    pauses = np.bincount(batch.trajectory, weights=batch.pause_ns) / 1e9
    np.testing.assert_allclose(result.latency_s, result.model_s + pauses, rtol=1e-12)


def test_latency_follows_the_longest_branch():
    """Two tools' sub-agents run beside each other; the turn that joins them waits for the slower."""
    batch = columns(
        [
            {"prompt_tokens": 1000, "output_tokens": 10},
            {"after": 0, "prompt_tokens": 100, "output_tokens": 5},
            {"after": 0, "prompt_tokens": 100, "output_tokens": 500},
            {"parent": 0, "kept_tokens": 1010, "prompt_tokens": 1100, "waits_for": [1, 2], "pause_ns": 10**9},
        ]
    )
    turns = kvsim.estimate(batch, **H100).turns
    assert turns.release_s[3] == pytest.approx(turns.finish_s[2] + 1.0)
    latency = kvsim.estimate(batch, **H100).latency_s[0]
    assert latency == pytest.approx(turns.e2e_s[[0, 2, 3]].sum() + 1.0)


# Reuse (block size 16): hittable = min(parent.prompt + parent.output - 1, kept, prompt - 1) in whole blocks.
@pytest.mark.parametrize(
    ("parent", "turn", "cached"),
    [
        ((100, 29), (128, 200), 128),  # all that the parent computed: its last token was never computed
        ((100, 28), (128, 200), 112),
        ((100, 60), (47, 200), 32),
        ((100, 60), (160, 160), 144),  # at least one token of the prompt is always computed
        ((100, 60), (0, 200), 0),
    ],
)
def test_hittable_tokens(parent, turn, cached):
    batch = columns(
        [
            {"prompt_tokens": parent[0], "output_tokens": parent[1]},
            {"parent": 0, "kept_tokens": turn[0], "prompt_tokens": turn[1], "pause_ns": 10**9},
        ]
    )
    kept = kvsim.estimate(batch, **H100).turns
    assert kept.cached_tokens[1] == cached
    assert kept.recomputed_tokens[1] == 0
    lost = kvsim.estimate(batch, **H100, load=kvsim.Load(kv="always")).turns
    assert lost.cached_tokens[1] == 0
    assert lost.recomputed_tokens[1] == cached
    assert lost.fresh_prefill_s[1] == kept.fresh_prefill_s[1]
    assert lost.recompute_s[1] >= 0
    assert (lost.recompute_s[1] > 0) == (cached > 0)


def test_ttl_is_inclusive_and_counts_from_the_parents_finish():
    pauses = [4 * 10**9, 5 * 10**9, 5 * 10**9 + 1]
    rows = [{"prompt_tokens": 1000, "output_tokens": 100}]
    rows += [{"parent": 0, "kept_tokens": 1100, "prompt_tokens": 1200, "pause_ns": pause} for pause in pauses]
    turns = kvsim.estimate(columns(rows), **H100, load=kvsim.Load(kv="ttl:5")).turns
    assert turns.cached_tokens[1:].tolist() == [1088, 1088, 0]


def test_lru_cuts_from_the_end_once_churn_has_used_the_free_pool():
    engine = kvsim.EngineConfig(num_gpu_blocks_override=1001, max_model_len=4000)
    load = kvsim.Load(kv="lru", churn_blocks_per_s=100)
    # The parent leaves 62 whole blocks; 1000 - 62 others stand before them in the queue: 9.38 s of churn.
    rows = [{"prompt_tokens": 900, "output_tokens": 100}]
    for seconds in (9.3, 9.5, 9.8, 10.5):
        rows.append({"parent": 0, "kept_tokens": 1000, "prompt_tokens": 1100, "pause_ns": int(seconds * 1e9)})
    turns = kvsim.estimate(columns(rows), **H100, engine=engine, load=load).turns
    evicted = [0, 950 - 938, 980 - 938, 62]
    assert turns.cached_tokens[1:].tolist() == [(62 - blocks) * 16 for blocks in evicted]
    assert turns.recomputed_tokens[1:].tolist() == [blocks * 16 for blocks in evicted]


def test_without_prefix_caching_everything_is_fresh():
    engine = kvsim.EngineConfig(enable_prefix_caching=False)
    turns = kvsim.estimate(linear(6), **H100, engine=engine).turns
    assert (turns.cached_tokens == 0).all()
    assert (turns.recompute_s == 0).all()


def test_shared_prefixes_are_hit_by_later_roots():
    batch = dict(CASES)["named prefixes"]
    assert kvsim.estimate(batch, **H100).turns.cached_tokens.tolist() == [0, 288, 0, 496]


def test_logged_cached_tokens_win_where_present():
    batch = dict(CASES)["logged cached tokens, some unknown, some beyond what could be hit"]
    turns = kvsim.estimate(batch, **H100, load=kvsim.Load(kv="logged")).turns
    assert turns.cached_tokens.tolist() == [999, 0, 2992, 4490]
    assert turns.recomputed_tokens.tolist() == [0, 992, 0, 0]


def test_turns_beyond_limits_keep_their_rows():
    engine = kvsim.EngineConfig(max_model_len=5000, num_gpu_blocks_override=201)
    batch = columns(
        [
            {"prompt_tokens": 4990, "output_tokens": 11, "trajectory": 0},
            {"prompt_tokens": 3190, "output_tokens": 12, "trajectory": 1},
            {"prompt_tokens": 3190, "output_tokens": 11, "trajectory": 2},
        ]
    )
    result = kvsim.estimate(batch, **H100, engine=engine)
    assert result.turns.status.tolist() == ["over_max", "over_capacity", "ok"]
    assert np.isnan(result.turns.e2e_s).tolist() == [True, True, False]
    assert np.isnan(result.latency_s).tolist() == [True, True, False]
    assert result.status_counts == {"ok": 1, "over_max": 1, "over_capacity": 1}
    with pytest.raises(kvsim.InputError, match=r"5001 tokens, over max of 5000"):
        kvsim.estimate(batch, **H100, engine=engine, strict=True)


def test_load_slows_turns_and_shares_gpu_time():
    batch = linear(8, 5)
    alone = kvsim.estimate(batch, **H100)
    crowded = kvsim.estimate(batch, **H100, load=kvsim.Load(concurrent=16, mean_context=4000))
    assert (crowded.model_s > alone.model_s).all()
    assert (crowded.gpu_s < alone.gpu_s).all()
    np.testing.assert_allclose(crowded.gpu_s, crowded.model_s / 16)


def test_money_energy_and_bytes():
    batch = linear(3)
    result = kvsim.estimate(batch, **H100, usd_per_hour=3.6)
    np.testing.assert_allclose(result.usd, result.gpu_s * 0.001)
    np.testing.assert_allclose(result.joules, result.gpu_s * 700)
    assert (result.kv_byte_s > 0).all()
    assert math.isnan(kvsim.estimate(batch, model=H100["model"], gpu="v100-pcie").usd[0])
    never = kvsim.estimate(batch, **H100, load=kvsim.Load(kv="never")).kv_byte_s
    always = kvsim.estimate(batch, **H100, load=kvsim.Load(kv="always")).kv_byte_s
    assert (never > always).all()


def test_tensor_parallel_multiplies_gpu_time():
    result = kvsim.estimate(linear(3), **H100, engine=kvsim.EngineConfig(tensor_parallel_size=2))
    np.testing.assert_allclose(result.gpu_s, 2 * result.model_s)


def test_same_input_same_bytes_and_buffers_can_be_reused():
    batch = linear(10, 20)
    first = kvsim.estimate(batch, **H100)
    expected = {name: column.tobytes() for name, column in first.turns.items()}
    buffers = first._columns.fresh_ns.ctypes.data
    second = kvsim.estimate(batch, **H100, reuse=first)
    assert {name: column.tobytes() for name, column in second.turns.items()} == expected
    assert second._columns.fresh_ns.ctypes.data == buffers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "Lama-3.1-8B"}, "did you mean"),
        ({"gpu": "h100-sxmm"}, "h100-sxm"),
        ({"model": "meta-llama/Llama-3.1-70B-Instruct"}, "tensor_parallel_size=2"),
        ({"usd_per_hour": -1.0}, "usd_per_hour"),
        ({"usd_per_hour": "3"}, "usd_per_hour"),
        ({"load": kvsim.Load(concurrent=5000)}, "concurrent"),
        ({"load": kvsim.Load(concurrent=100, mean_context=100_000)}, "mean_context"),
        ({"backend": "rust"}, "unknown backend"),
    ],
)
def test_clear_errors(change, message):
    with pytest.raises(kvsim.KvsimError, match=message):
        kvsim.estimate(linear(2), **{**H100, **change})


@pytest.mark.parametrize(
    "bad",
    [
        {"concurrent": 0},
        {"concurrent": 2.5},
        {"mean_context": -1},
        {"kv": "ttl"},
        {"kv": "ttl:-1"},
        {"kv": "ttl:nan"},
        {"kv": "mru"},
        {"churn_blocks_per_s": -1.0},
        {"churn_blocks_per_s": math.nan},
        {"churn_blocks_per_s": math.inf},
    ],
)
def test_bad_loads(bad):
    with pytest.raises(kvsim.InputError, match=next(iter(bad))):
        kvsim.Load(**bad)


def test_load_from_text():
    assert kvsim.Load.parse("concurrent=8,kv=ttl:300") == kvsim.Load(concurrent=8, kv="ttl:300")
    assert kvsim.Load.parse("") == kvsim.Load()
    for text in ("concurrent", "concurrency=8", "concurrent=x", "concurrent=2,concurrent=3"):
        with pytest.raises(kvsim.InputError):
            kvsim.Load.parse(text)


def test_the_widest_load_does_not_overflow():
    """Prices stay positive and finite where every sequence of the widest step is as long as the model allows."""
    length = 131_072
    batch = columns([{"prompt_tokens": length // 2, "output_tokens": length // 2}])
    engine = kvsim.EngineConfig(num_gpu_blocks_override=1 << 24)
    result = kvsim.estimate(batch, **H100, engine=engine, load=kvsim.Load(concurrent=1024))
    alone = kvsim.estimate(batch, **H100, engine=engine)
    assert result.model_s[0] > 100 * alone.model_s[0]
    assert make_rates().fraction_bits >= result.pricing.law.fraction_bits >= 0


def test_a_load_that_cannot_be_there_is_not_priced():
    """Seven others as long as this turn would not fit beside it; one other would."""
    engine = kvsim.EngineConfig(num_gpu_blocks_override=1001, max_model_len=8000)
    batch = columns([{"prompt_tokens": 6000, "output_tokens": 100}])
    for concurrent, status in ((2, "ok"), (8, "over_capacity")):
        result = kvsim.estimate(batch, **H100, engine=engine, load=kvsim.Load(concurrent=concurrent))
        assert result.turns.status.tolist() == [status]


def test_named_prefixes_survive_churn_and_time():
    batch = dict(CASES)["named prefixes"]
    for load in (kvsim.Load(churn_blocks_per_s=5e4), kvsim.Load(kv="ttl:0")):
        assert kvsim.estimate(batch, **H100, load=load).turns.cached_tokens.tolist() == [0, 288, 0, 496]
    assert kvsim.estimate(batch, **H100, load=kvsim.Load(kv="always")).turns.cached_tokens.sum() == 0


def test_a_context_is_there_only_once_it_was_computed():
    child = {"parent": 0, "after": -1, "kept_tokens": 3000, "prompt_tokens": 4000}
    rows = [{"prompt_tokens": 1000, "output_tokens": 2000, "arrival_ns": 10**9}]
    rows += [{**child, "arrival_ns": arrival} for arrival in (0, 2 * 10**9, 10**13)]
    cached = kvsim.estimate(columns(rows), **H100).turns.cached_tokens.tolist()
    assert cached == [0, 0, 992, 2992]  # not yet come; prompt only; all but the last token


def test_a_turn_that_could_not_run_leaves_nothing_behind():
    rows = [
        {"prompt_tokens": 200_000, "output_tokens": 10},
        {"parent": 0, "kept_tokens": 900, "prompt_tokens": 1000, "trajectory": 1},
    ]
    turns = kvsim.estimate(columns(rows), **H100).turns
    assert turns.status.tolist() == ["over_max", "ok"]
    assert turns.cached_tokens.tolist() == [0, 0]


def test_sums_that_a_clock_cannot_count_are_refused():
    long = 1_500_000
    engine = kvsim.EngineConfig(num_gpu_blocks_override=400_000, max_model_len=4_000_000)
    rows = [{"parent": row - 1, "prompt_tokens": long, "output_tokens": long} for row in range(20_000)]
    with pytest.raises(kvsim.InputError, match="64-bit clock"):
        kvsim.estimate(columns(rows), model=H100["model"], gpu="rtx-4090", engine=engine)


def test_batches_and_estimates_can_be_pickled():
    import pickle

    result = kvsim.estimate(linear(5, 3), **H100)
    again = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(again.latency_s, result.latency_s)
    np.testing.assert_array_equal(again.turns.ttft_s, result.turns.ttft_s)
    assert pickle.loads(pickle.dumps(result.batch)).turns == 15


def test_numpy_integers_are_integers():
    load = kvsim.Load(concurrent=np.int64(8), mean_context=np.int32(100))
    assert load == kvsim.Load(concurrent=8, mean_context=100)
    assert kvsim.EngineConfig(max_model_len=np.int64(4096)) == kvsim.EngineConfig(max_model_len=4096)
    for wrong in (True, 8.0, "8"):
        with pytest.raises(kvsim.InputError, match="max_model_len"):
            kvsim.EngineConfig(max_model_len=wrong)


def test_a_pricing_that_is_changed_keeps_no_handles():
    """A handle is made of all that a pricing holds."""
    batch, pricing = linear(3, 4), resolve_pricing("Qwen/Qwen3-8B", "h100-sxm")
    warm = Estimate(batch, pricing, get("auto")).recompute_s
    cold = Estimate(batch, replace(pricing, load=kvsim.Load(kv="always")), get("auto")).recompute_s
    assert (cold > warm).any()
