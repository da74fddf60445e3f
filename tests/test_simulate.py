"""The public face of simulations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import linear

import kvsim
from kvsim.backends.kernels import OK
from kvsim.errors import InputError, UnknownNameError
from kvsim.kv_groups import most_blocks
from kvsim.pricing import resolve_pricing
from kvsim.simulation import _admission, _in_flight, status_of

ON = {"model": "Qwen/Qwen3-8B", "gpu": "h100-sxm"}


@pytest.fixture(scope="module")
def batch():
    return linear(5, 6)


def test_parts_sum_to_wholes(batch):
    run = kvsim.simulate(batch, **ON, arrivals="closed:3")
    turns = run.turns
    parts = turns.queue_s + turns.fresh_prefill_s + turns.recompute_s + turns.decode_s
    np.testing.assert_allclose(parts, turns.e2e_s, rtol=1e-9)
    np.testing.assert_allclose(np.bincount(batch.trajectory, turns.e2e_s), run.model_s)
    np.testing.assert_allclose(run.gpu_s.sum(), run.engine.busy_s)
    assert run.served.gpu_ns.sum() == round(run.engine.busy_s * 1e9)
    assert (run.latency_s >= run.model_s - 1e-9).all()
    assert run.status_counts == {"ok": 30}


def test_alone_it_costs_what_estimate_says(batch):
    """One trajectory, nothing evicted: the same steps, the same law; only roundings to nanoseconds differ."""
    alone = batch.select([0])
    run = kvsim.simulate(alone, **ON, arrivals="closed:1")
    estimate = kvsim.estimate(alone, **ON)
    np.testing.assert_array_equal(run.turns.cached_tokens, estimate.turns.cached_tokens)
    np.testing.assert_allclose(run.turns.e2e_s, estimate.turns.e2e_s, rtol=1e-6)


def test_nothing_is_recomputed_where_everything_fits(batch):
    run = kvsim.simulate(batch, **ON, arrivals="closed:6")
    assert not run.turns.recomputed_tokens.any()
    assert not run.turns.recompute_s.any()
    assert run.engine.evicted_blocks == 0


def test_dropping_recomputes_all_that_is_kept(batch):
    run = kvsim.simulate(batch, **ON, arrivals="closed:6", retention="drop")
    assert not run.turns.cached_tokens.any()
    assert run.recompute_s.sum() > 0


def test_turns_that_cannot_be_served_are_marked(batch):
    small = kvsim.EngineConfig(max_model_len=int(batch.prompt_tokens.max()) - 1)
    run = kvsim.simulate(batch, **ON, engine=small, arrivals="closed:2")
    refused = run.turns.status == "over_max"
    assert refused.any()
    assert np.isnan(run.turns.e2e_s[refused]).all()
    assert np.isnan(run.latency_s[batch.trajectory[refused]]).all()
    with pytest.raises(InputError, match="over max"):
        kvsim.simulate(batch, **ON, engine=small, arrivals="closed:2", strict=True)


def test_seeds_decide_poisson_arrivals(batch):
    first, again, other = (kvsim.simulate(batch, **ON, arrivals="poisson:0.5", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.served.release_ns, again.served.release_ns)
    assert (first.served.release_ns != other.served.release_ns).any()


def test_logged_arrivals_are_kept(batch):
    run = kvsim.simulate(batch, **ON)
    roots = batch.parent < 0
    np.testing.assert_array_equal(run.served.release_ns[roots], batch.arrival_ns[roots])


def test_a_batch_waits_for_its_slowest_and_a_closed_loop_refills(batch):
    together = kvsim.simulate(batch, **ON, arrivals="batch:2")
    refilled = kvsim.simulate(batch, **ON, arrivals="closed:2")
    starts = together.turns.release_s[batch.parent < 0]
    ends = np.maximum.reduceat(together.turns.finish_s, np.flatnonzero(batch.parent < 0))
    assert (starts[2:4] == max(ends[:2])).all()
    assert starts[4] == max(ends[2:4])
    assert refilled.engine.end_s < together.engine.end_s


def test_starts_are_staggered_and_logs_sped_up(batch):
    run = kvsim.simulate(batch, **ON, arrivals="closed:3", stagger_s=0.25)
    np.testing.assert_array_equal(run.turns.release_s[batch.parent < 0][:3], [0, 0.25, 0.5])
    fast = kvsim.simulate(batch, **ON, speedup=0.5)
    roots = batch.parent < 0
    np.testing.assert_array_equal(fast.served.release_ns[roots], batch.arrival_ns[roots] * 2)


@pytest.mark.parametrize("router", ["round-robin", "least-loaded", "sticky", "prefix-aware"])
def test_replicas_share_the_turns(batch, router):
    run = kvsim.simulate(batch, **ON, arrivals="closed:5", replicas=2, router=router)
    assert set(run.turns.replica) == {0, 1}
    assert sum(one.steps for one in run.replicas) == run.engine.steps
    assert sum(one.busy_s for one in run.replicas) == pytest.approx(run.gpu_s.sum())
    assert run.engine.end_s == max(one.end_s for one in run.replicas)
    if router == "sticky":
        homes = [set(run.turns.replica[batch.trajectory == number]) for number in range(len(batch))]
        assert all(len(home) == 1 for home in homes)
        assert not run.turns.recomputed_tokens.any()
    if router == "prefix-aware":
        unaware = kvsim.simulate(batch, **ON, arrivals="closed:5", replicas=2)
        assert run.recomputed_tokens.sum() < unaware.recomputed_tokens.sum()
    if router == "round-robin":
        assert np.bincount(run.turns.replica).tolist() == [15, 15]


def test_a_fleet_of_one_is_an_engine(batch):
    alone = kvsim.simulate(batch, **ON, arrivals="closed:3")
    for router in ("least-loaded", "sticky", "prefix-aware"):
        run = kvsim.simulate(batch, **ON, arrivals="closed:3", router=router)
        for first, second in zip(alone.served, run.served, strict=True):
            np.testing.assert_array_equal(first, second)


def test_blocks_held_are_counted_with_the_pauses(batch):
    """Alone on an engine where nothing is evicted, estimate says the same."""
    alone = batch.select([0])
    run = kvsim.simulate(alone, **ON, arrivals="closed:1")
    estimate = kvsim.estimate(alone, **ON, load=kvsim.Load(kv="never"))
    np.testing.assert_allclose(run.kv_byte_s, estimate.kv_byte_s, rtol=0.02)
    dropped = kvsim.simulate(alone, **ON, arrivals="closed:1", retention="drop")
    pauses = alone.pause_ns[1:] * (run.turns.cached_tokens[1:] // 16)
    held = (run.kv_byte_s - pauses.sum() / 1e9 * run.pricing.kv_bytes_per_block)[0]
    assert 0 < held < dropped.kv_byte_s[0]
    np.testing.assert_allclose(run.turns.kv_byte_s.sum(), run.kv_byte_s.sum())


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_timeline_adds_up(batch, replicas):
    run = kvsim.simulate(batch, **ON, arrivals="closed:5", replicas=replicas, timeline_s=0.5)
    table, turns = run.timeline, run.turns
    assert table.rows == replicas * (int(run.engine.end_s / 0.5) + 1)
    np.testing.assert_allclose(table.running.sum() * 0.5, (turns.finish_s - turns.release_s - turns.queue_s).sum())
    np.testing.assert_allclose(table.waiting.sum() * 0.5, turns.queue_s.sum(), atol=1e-9)
    blocks_s = table.kv_use.sum() * 0.5 * run.engine.usable_blocks
    np.testing.assert_allclose(blocks_s, run.served.held_block_ns.sum() / 1e9, rtol=1e-9)  # nothing is shared
    assert 0 < table.kv_use.max() <= run.engine.peak_blocks / run.engine.usable_blocks
    assert np.nanmax(table.hit_rate) <= 1


@pytest.mark.parametrize("backend", ["native", "numba", "reference"])
def test_backends_agree(batch, backend):
    config = kvsim.EngineConfig(num_gpu_blocks_override=1500)
    runs = [
        kvsim.simulate(batch, **ON, engine=config, arrivals="closed:4", backend=name) for name in ("native", backend)
    ]
    assert runs[0].engine == runs[1].engine
    for first, second in zip(runs[0].served, runs[1].served, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("bins", [1, 7, 1_000])
def test_bins_of_round_length_hold_the_run(batch, bins):
    run = kvsim.simulate(batch, **ON, arrivals="closed:2", timeline_bins=bins)
    assert str(run.bin_ns).rstrip("0") in ("1", "2", "5")
    assert bins / 3 < len(run.timeline.time_s) <= bins
    with pytest.raises(InputError, match="timeline_bins"):
        kvsim.simulate(batch, **ON, arrivals="closed:2", timeline_bins=0)


def test_what_is_not_there_is_refused(batch):
    with pytest.raises(UnknownNameError, match="drop"):
        kvsim.simulate(batch, **ON, arrivals="closed:1", retention="dropp")
    with pytest.raises(InputError, match="Write ttl:S"):
        kvsim.simulate(batch, **ON, arrivals="closed:1", retention="ttl")
    for replicas in (0, 1.5, True, 10**9):
        with pytest.raises(InputError, match="whole number from 1") as caught:
            kvsim.simulate(batch, **ON, arrivals="closed:1", replicas=replicas)
        assert caught.value.field == "replicas"
    with pytest.raises(UnknownNameError, match="prefix-aware"):
        kvsim.simulate(batch, **ON, arrivals="closed:1", replicas=2, router="random")
    for speedup in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="above 0"):
            kvsim.simulate(batch, **ON, speedup=speedup)
    for stagger_s in (-1.0, float("nan")):
        with pytest.raises(InputError, match="0 or more"):
            kvsim.simulate(batch, **ON, arrivals="closed:2", stagger_s=stagger_s)
    with pytest.raises(InputError, match="cannot be staggered"):
        kvsim.simulate(batch, **ON, stagger_s=1.0)
    for timeline_s in (0, -1.0, float("nan"), 1e-8):
        with pytest.raises(InputError, match="bins") as caught:
            kvsim.simulate(batch, **ON, arrivals="closed:1", timeline_s=timeline_s)
        assert caught.value.field == "timeline_s"
    with pytest.raises(InputError, match=r"timeline_s=1\.0"):
        _ = kvsim.simulate(batch, **ON, arrivals="closed:1").timeline
    with pytest.raises(UnknownNameError, match="native"):
        kvsim.simulate(batch, **ON, arrivals="closed:1", backend="nativ")
    for arrivals in ("logged:3", "closed:0", "closed:x", "batch:0", "poisson:-1", "poisson:nan", "bursts"):
        with pytest.raises(InputError, match="closed:64"):
            kvsim.simulate(batch, **ON, arrivals=arrivals)
    unlogged = linear(2, 2).columns
    unlogged = {**{name: unlogged[name] for name in unlogged if name != "after"}, "arrival_ns": np.zeros(4, np.int64)}
    with pytest.raises(InputError, match=r'"poisson:R".*"closed:N"'):
        kvsim.simulate(kvsim.Batch.from_columns(**unlogged), **ON)


@pytest.mark.parametrize("backend", ["native", "numba", "reference"])
@pytest.mark.parametrize("model", ["mistralai/Mistral-7B-v0.1", "openai/gpt-oss-20b", "google/gemma-3-12b-it"])
def test_backends_agree_on_sliding_windows(batch, model, backend):
    config = kvsim.EngineConfig(num_gpu_blocks_override=1500, max_num_batched_tokens=2048)
    runs = [
        kvsim.simulate(batch, model=model, gpu="h100-sxm", engine=config, arrivals="closed:4", backend=name)
        for name in ("native", backend)
    ]
    assert runs[0].engine == runs[1].engine
    for first, second in zip(runs[0].served, runs[1].served, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("model", ["mistralai/Mistral-7B-v0.1", "openai/gpt-oss-20b", "google/gemma-3-12b-it"])
def test_with_sliding_windows_a_turn_goes_on_from_the_last_prompt(batch, model):
    """Nothing is evicted, yet what a turn's output added is computed again: its windows were not kept."""
    run = kvsim.simulate(batch, model=model, gpu="h100-sxm", arrivals="closed:5")
    follows = batch.parent >= 0
    before = batch.prompt_tokens[batch.parent]
    kept = np.where(follows, np.minimum(before - 1, batch.kept_tokens) // 16 * 16, 0)
    np.testing.assert_array_equal(run.turns.cached_tokens, kept)
    assert kept[follows].all()
    assert not run.turns.recomputed_tokens.any()
    assert run.engine.evicted_blocks == 0


def test_what_windows_lose_to_eviction_is_recomputed(batch):
    config = kvsim.EngineConfig(num_gpu_blocks_override=1200, max_num_batched_tokens=512)
    run = kvsim.simulate(batch, model="openai/gpt-oss-20b", gpu="h100-sxm", engine=config, arrivals="closed:5")
    roomy = kvsim.simulate(batch, model="openai/gpt-oss-20b", gpu="h100-sxm", arrivals="closed:5")
    assert run.engine.evicted_blocks > 0
    assert run.recomputed_tokens.sum() > 0
    np.testing.assert_array_equal(run.turns.cached_tokens + run.turns.recomputed_tokens, roomy.turns.cached_tokens)


@pytest.mark.parametrize(
    ("model", "reason"),
    [("Qwen/Qwen3.5-35B-A3B", "linear-attention layers keep states"), ("google/gemma-4-26B-A4B", "unequal amounts")],
)
def test_models_whose_kv_groups_are_not_built_are_refused(model, reason):
    with pytest.raises(kvsim.InputError, match=reason):
        kvsim.simulate(linear(2), model=model, gpu="h100-sxm")


@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "openai/gpt-oss-20b"])
@pytest.mark.parametrize("async_scheduling", [False, True])
def test_the_short_way_of_admission_agrees_with_the_long_one_at_the_border(model, async_scheduling):
    config = kvsim.EngineConfig(max_model_len=4096, max_num_batched_tokens=512, async_scheduling=async_scheduling)
    engine = resolve_pricing(model, "h100-sxm", config).engine
    found = set()
    for tokens in (4095, 4096, 4097):
        batch = kvsim.Batch.from_columns(
            parent=[-1, -1],
            kept_tokens=[0, 0],
            prompt_tokens=[5, tokens - 7],
            output_tokens=[0, 7],
            pause_ns=[0, 0],
            arrival_ns=[0, 0],
            trajectory=[0, 1],
        )
        needed = int(most_blocks(engine.windows, tokens - 1, engine.block_size, _in_flight(engine)))
        for usable_blocks in (needed - 1, needed, needed + 1):
            small = replace(engine, num_gpu_blocks=usable_blocks + 1)
            status, refused = _admission(batch, small)
            np.testing.assert_array_equal(status, status_of(batch, small))
            np.testing.assert_array_equal(refused, status != OK)
            assert status[0] == OK
            assert (status[1] == OK) == (tokens <= 4096 and needed <= usable_blocks)
            found.add(int(status[1]))
    assert len(found) == 3
