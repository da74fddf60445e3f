"""The CUDA module gives the bits of the other backends: in its host emulation, and on a card where there is one."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import CASES, RATES, all_rates, batches, columns, linear, make_rates, step_table
from emulation import is_emulated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kvsim
from kvsim import backends
from kvsim.backends import cuda, kernels
from kvsim.backends.interface import empty_columns
from kvsim.errors import BackendUnavailableError
from kvsim.metrics.pte import READINGS

PLENTY = 1 << 30
DRAWS = int(os.environ.get("KVSIM_CUDA_DRAWS", "300"))
TINY = 150 << 10  # room for two pieces of a few dozen rows beside the table of step times
MODEL = {"model": "Qwen/Qwen3-8B", "gpu": "h100-sxm"}


def priced(backend, rates, step, batch):
    made = empty_columns(batch.turns)
    prepared, packed = backend.prepare(rates, step), backend.pack(batch)
    result = backend.estimate(prepared, packed, made)
    totals_alone = backend.estimate(prepared, packed, None)
    np.testing.assert_array_equal(totals_alone.totals, result.totals)
    assert totals_alone.held_block_ns.tobytes() == result.held_block_ns.tobytes()
    return {"totals": result.totals, "held_block_ns": result.held_block_ns, **made._asdict()}


def assert_priced_alike(module, rates, batch, other="native"):
    step = step_table(rates)
    expected = priced(backends.get(other), rates, step, batch)
    for name, found in priced(cuda.CudaBackend(module), rates, step, batch).items():
        np.testing.assert_array_equal(found, expected[name], err_msg=f"cuda differs from {other} in {name}")
        assert found.dtype == expected[name].dtype
        assert found.tobytes() == expected[name].tobytes(), f"cuda: {name} differs in its bits"


@pytest.mark.parametrize("rates", [rates for _, rates in RATES], ids=[name for name, _ in RATES])
@pytest.mark.parametrize("batch", [batch for _, batch in CASES], ids=[name for name, _ in CASES])
def test_cases_are_priced_alike(cuda_module, rates, batch):
    assert_priced_alike(cuda_module, rates, batch, "reference")


@settings(max_examples=DRAWS, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=batches(), rates=all_rates(), tiny=st.booleans())
def test_whatever_is_drawn_is_priced_alike(cuda_module, batch, rates, tiny):
    """KVSIM_CUDA_DRAWS says how many batches."""
    if is_emulated(cuda_module):
        step_bytes = 8 * (rates.chunk + 1)
        cuda_module.pretend(3 * step_bytes + 40_000 if tiny else PLENTY)
    assert_priced_alike(cuda_module, rates, batch)


@pytest.mark.parametrize("trajectories", [1, 31, 127, 128, 129, 1000])
def test_last_blocks_are_partial(cuda_module, trajectories):
    assert_priced_alike(cuda_module, make_rates(survival=kernels.ALWAYS), linear(3, trajectories), "native")


def test_a_large_batch_goes_through_a_small_card_in_pieces(emulated):
    rates, batch = make_rates(survival=kernels.TTL, ttl_ns=8 * 10**9), linear(9, 2000)
    emulated.release_memory()
    emulated.pretend(TINY)
    before = emulated.counts()
    assert_priced_alike(emulated, rates, batch)
    after = emulated.counts()
    assert after["most_device_bytes"] <= TINY
    pieces = after["kernels"] - before["kernels"]  # of two pricings
    assert pieces > 50
    assert after["copies"] - before["copies"] == 2 * pieces  # there and back


def test_trajectories_that_depend_on_each_other_in_any_order_go_in_pieces_too(emulated):
    """Every third trajectory starts when the one before it has ended; rows are shuffled."""
    made = linear(5, 300, seed=3)
    new_row = np.random.default_rng(4).permutation(made.turns)
    rows = np.argsort(new_row)
    number = np.arange(made.turns)
    first_of_third = (number % 15 == 10) & (made.parent < 0)
    parent = np.where(first_of_third, number - 1, made.parent)
    moved = np.where(parent < 0, -1, new_row[parent])
    batch = kvsim.Batch.from_columns(
        parent=moved[rows],
        **{name: getattr(made, name)[rows] for name in ("kept_tokens", "prompt_tokens", "output_tokens")},
        **{name: getattr(made, name)[rows] for name in ("pause_ns", "arrival_ns", "trajectory")},
    )
    backend = cuda.CudaBackend(emulated)
    assert backend.pack(batch).units.count == 200
    emulated.release_memory()
    emulated.pretend(TINY)
    assert_priced_alike(emulated, make_rates(survival=kernels.LRU, churn_ns=10**6), batch)


def test_a_unit_that_does_not_fit_is_an_error_that_names_the_way_out(emulated):
    backend, rates = cuda.CudaBackend(emulated), make_rates()
    emulated.release_memory()
    emulated.pretend(TINY)
    with pytest.raises(BackendUnavailableError, match=r"MiB can be had; backend='native'"):
        backend.estimate(backend.prepare(rates, step_table(rates)), backend.pack(linear(5000)), None)
    emulated.pretend(PLENTY)
    assert_priced_alike(emulated, rates, linear(5000))


@pytest.mark.parametrize(
    ("pretended", "reason"),
    [({"driver": False}, "no NVIDIA driver is loaded"), ({"device": False}, "no CUDA-capable device is detected")],
)
def test_what_is_missing_is_said_in_one_sentence(chosen_cuda, pretended, reason):
    if not is_emulated(chosen_cuda):
        pytest.skip("a card that is there")
    chosen_cuda.pretend(PLENTY, **pretended)
    with pytest.raises(BackendUnavailableError, match=reason) as caught:
        kvsim.estimate(linear(2), **MODEL, backend="cuda")
    assert str(caught.value).startswith("cuda: no usable device: ")
    assert "\n" not in str(caught.value)


def test_an_old_driver_is_told_apart_from_none():
    found = {"devices": [], "reason": "insufficient", "driver_version": 12040, "runtime_version": 13000}
    assert cuda.missing(found) == "the driver is for CUDA 12.4, and this module needs CUDA 13.0: update the driver"


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_that_copy_make_no_difference(cuda_module, threads):
    """More than a shipment, and columns of more than a thread's share."""
    backend, rates, batch = cuda.CudaBackend(cuda_module), make_rates(survival=kernels.ALWAYS), linear(7, 90_000)
    prepared, packed = backend.prepare(rates, step_table(rates)), backend.pack(batch)
    one, several = empty_columns(batch.turns), empty_columns(batch.turns)
    alone, together = backend.estimate(prepared, packed, one), backend.estimate(prepared, packed, several, threads)
    assert together.totals.tobytes() == alone.totals.tobytes()
    for name, column in several._asdict().items():
        assert column.tobytes() == getattr(one, name).tobytes(), name


def test_memory_is_given_back(emulated):
    emulated.release_memory()
    before = emulated.counts()["device_bytes"]
    assert_priced_alike(emulated, make_rates(), linear(16, 50))
    assert emulated.counts()["device_bytes"] > before  # kept for the next call
    emulated.release_memory()
    assert emulated.counts()["device_bytes"] == before


def test_threads_do_not_disturb_each_other(cuda_module):
    backend, rates = cuda.CudaBackend(cuda_module), make_rates(survival=kernels.ALWAYS)
    prepared = backend.prepare(rates, step_table(rates))
    packed = [backend.pack(linear(12, 50 * (1 + number), seed=number)) for number in range(4)]
    alone = [backend.estimate(prepared, one, None).totals for one in packed]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(backend.estimate, prepared, packed[n % 4], None) for n in range(40)]
        for number, job in enumerate(jobs):
            np.testing.assert_array_equal(job.result().totals, alone[number % 4])


LOADS = [kvsim.Load(), kvsim.Load(kv="always"), kvsim.Load(concurrent=4, mean_context=5000, kv="ttl:3")]


@pytest.mark.parametrize("load", LOADS, ids=["alone", "evicted", "ttl"])
def test_estimates_are_those_of_the_core(chosen_cuda, load):
    native = kvsim.estimate(linear(7, 30), **MODEL, load=load, backend="native")
    found = kvsim.estimate(linear(7, 30), **MODEL, load=load, backend="cuda")
    assert found.backend == "cuda"
    for name in ("latency_s", "gpu_s", "kv_byte_s", "usd", "recomputed_tokens"):
        np.testing.assert_array_equal(getattr(found, name), getattr(native, name), err_msg=name)
    for name in native.turns:
        np.testing.assert_array_equal(found.turns[name], native.turns[name], err_msg=name)
    np.testing.assert_array_equal(found.interval.high.model_s, native.interval.high.model_s)


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "openai/gpt-oss-20b", "deepseek-ai/DeepSeek-V3"])
def test_pte_has_the_bits_of_numpy(chosen_cuda, reading, model):
    """Windows, several groups of layers, turns that cannot be priced; rows in any order."""
    long = [{"prompt_tokens": 10**6}, {"parent": 0, "kept_tokens": 5, "prompt_tokens": 90, "trajectory": 1}]
    batch = columns([*long, *({"prompt_tokens": 900, "output_tokens": n, "trajectory": n} for n in range(2, 140))])
    asked = {"model": model, "gpu": "h200-sxm", "reading": reading, "load": kvsim.Load(concurrent=3, kv="always")}
    if model.startswith("deepseek"):
        asked["engine"] = kvsim.EngineConfig(tensor_parallel_size=8, kv_cache_dtype="fp8")
    for given_batch in (batch, linear(8, 40), dict(CASES)["fork, join and compaction in any row order"]):
        text, native, found = (
            kvsim.pte(given_batch, **asked, backend=name) for name in ("reference", "native", "cuda")
        )
        assert found.turns.tobytes() == native.turns.tobytes() == text.turns.tobytes()
        assert found.trajectories.tobytes() == native.trajectories.tobytes() == text.trajectories.tobytes()
        assert found.gamma == native.gamma == text.gamma


@pytest.mark.parametrize("unit", ["gpu_s", "latency_s", "kv_byte_s", "pte"])
def test_cost_terms_price_on_it(chosen_cuda, unit):
    rollouts = [[(900, 120), (1500, 80)], [(900, 400)], [(10, 1), (20, 2), (30, 3)]]
    asked = {**MODEL, "unit": unit, "reading": "exact"}
    native = kvsim.CostTerm(**asked, backend="native").price(rollouts)
    found = kvsim.CostTerm(**asked, backend="cuda").price(rollouts)
    np.testing.assert_array_equal(found.trajectories, native.trajectories)
    np.testing.assert_array_equal(found.turns.values, native.turns.values)
    np.testing.assert_array_equal(found.marginal.values, native.marginal.values)
