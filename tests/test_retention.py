"""Retention policies by name: what they ask for, and what comes of it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvsim
from kvsim.backends.engine_kernels import END, FOREVER, NO_PLAN, Served
from kvsim.errors import InputError, UnknownNameError
from kvsim.pricing import Pricing, resolve_pricing
from kvsim.retention import NAMES, policy
from kvsim.retention.continuum import best_times
from kvsim.retention.pauses import expected_gap_ns, gap_ns, prefill_ns
from kvsim.trajectory import Batch

ON: dict[str, Any] = {"model": "Qwen/Qwen3-8B", "gpu": "h100-sxm"}
EXAMPLES = [name.replace("GiB@GB/s", "8@25").replace(":S", ":3") for name in NAMES]
"""Each policy once."""


def sessions(count: int, turns: int, *, tool_s: tuple[float, ...] = (0.2, 2.0, 20.0), seed: int = 0) -> Batch:
    """Sessions of a few thousand tokens, each pause for one of some tools and of exponential length."""
    random = np.random.default_rng(seed)
    rows = count * turns
    parent = np.arange(rows) - 1
    parent[::turns] = -1
    new, output = random.integers(200, 3000, rows), random.integers(5, 200, rows)
    kept = np.zeros(rows, np.int64)
    for row in np.flatnonzero(parent >= 0):
        kept[row] = kept[row - 1] + new[row - 1] + output[row - 1]
    tool = random.integers(0, len(tool_s), rows)
    pauses_ns = random.exponential(np.array(tool_s)[tool] * 1e9).astype(np.int64)
    return Batch.from_columns(
        parent=parent,
        kept_tokens=kept,
        prompt_tokens=kept + new,
        output_tokens=output,
        pause_ns=np.where(parent >= 0, pauses_ns, 0),
        arrival_ns=np.zeros(rows, np.int64),
        trajectory=np.repeat(np.arange(count), turns),
        tool=np.where(parent >= 0, tool, -1),
        tool_names=[f"tool {number}" for number in range(len(tool_s))],
    )


@pytest.fixture(scope="module")
def batch():
    return sessions(40, 8)


def run(batch: Batch, retention: Any, blocks: int = 6000, **arguments: Any) -> kvsim.Simulation:
    engine = kvsim.EngineConfig(num_gpu_blocks_override=blocks)
    return kvsim.simulate(batch, **ON, engine=engine, arrivals="closed:20", retention=retention, **arguments)


def pricing(**arguments: Any) -> Pricing:
    return resolve_pricing(**ON, engine=kvsim.EngineConfig(**arguments))


def assert_same(one: kvsim.Simulation, other: kvsim.Simulation) -> None:
    for name in Served._fields:
        np.testing.assert_array_equal(getattr(one.served, name), getattr(other.served, name), err_msg=name)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_policy_serves_all_turns_alike_on_each_backend(name):
    small = sessions(6, 4)
    native = run(small, name, blocks=1000, backend="native")
    assert native.status_counts == {"ok": 24}
    assert_same(native, run(small, name, blocks=1000, backend="reference"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_kept_is_computed_again_where_everything_fits(batch, name):
    if name != "drop":
        assert not run(batch, name, blocks=60_000).recomputed_tokens.any()


def test_a_hold_of_no_time_is_lru(batch):
    assert_same(run(batch, "ttl:0"), run(batch, "lru"))


def test_a_hold_beyond_all_time_is_a_pin(batch):
    assert_same(run(batch, "ttl:1e6"), run(batch, "pin"))


@pytest.mark.parametrize("seed", range(5))
def test_knowing_the_next_use_recomputes_less(seed):
    batch = sessions(40, 8, seed=seed)
    recomputed = {name: run(batch, name).recomputed_tokens.sum() for name in ("lru", "next-use", "belady")}
    assert recomputed["belady"] < recomputed["next-use"] < recomputed["lru"]


def test_a_host_tier_turns_recomputation_into_loads(batch):
    without, slow, fast = run(batch, "lru"), run(batch, "offload:500@1"), run(batch, "offload:500@100")
    assert without.recomputed_tokens.sum() > 0 == without.loaded_tokens.sum()
    for tiered in (slow, fast):
        assert tiered.recomputed_tokens.sum() == 0 < tiered.loaded_tokens.sum()
        assert (tiered.loaded_tokens <= tiered.cached_tokens).all()
    assert fast.model_s.sum() < slow.model_s.sum()
    assert fast.model_s.sum() < without.model_s.sum()


def test_a_little_host_memory_saves_more_if_only_what_is_evicted_goes_there(batch):
    eager, lazy = run(batch, "offload:4@25"), run(batch, "offload-lazy:4@25")
    assert lazy.recomputed_tokens.sum() < eager.recomputed_tokens.sum()


def test_least_waste_holds_through_short_pauses_and_not_through_long_ones():
    short, long = sessions(20, 5, tool_s=(1e-4,)), sessions(20, 5, tool_s=(1e4,))
    assert_same(run(short, "min-waste"), run(short, "pin"))
    assert_same(run(long, "min-waste"), run(long, "lru"))


def test_least_waste_swaps_where_the_link_is_fast():
    batch = sessions(20, 5, tool_s=(30.0,))
    assert run(batch, "min-waste:100@1000", blocks=2000).loaded_tokens.sum() > 0
    assert run(batch, "min-waste:100@0.001", blocks=2000).loaded_tokens.sum() == 0


def test_an_object_may_be_a_policy(batch):
    class EveryOther:
        def plan(self, batch: Batch, pricing: Pricing) -> kvsim.retention.Plan:
            return NO_PLAN._replace(hold_ns=np.arange(batch.turns) % 2 * 10**9)

    held = run(batch, EveryOther())
    assert held.status_counts == {"ok": batch.turns}
    assert (held.served.finish_ns != run(batch, "lru").served.finish_ns).any()


def test_replicas_serve_a_plan_each(batch):
    apart = {"replicas": 2, "router": "sticky"}
    one_each, shared = run(batch, "offload:500@25", **apart), run(batch, "offload:500@25")
    assert one_each.recomputed_tokens.sum() == shared.recomputed_tokens.sum() == 0
    assert 0 < one_each.loaded_tokens.sum() < shared.loaded_tokens.sum()


# ---- What policies ask for ----


def test_the_last_turn_is_never_held(batch):
    last = np.ones(batch.turns, bool)
    last[batch.parent[batch.parent >= 0]] = False
    for name in ("pin", "ttl:5", "continuum", "min-waste"):
        hold_ns = policy(name).plan(batch, pricing()).hold_ns
        assert not hold_ns[last].any()
        assert hold_ns[~last].any()
    for name in ("next-use", "belady"):
        next_use_ns = policy(name).plan(batch, pricing()).next_use_ns
        assert (next_use_ns[last] == END).all()
        assert (next_use_ns[~last] >= 0).all()


def test_the_expected_pause_is_the_mean_of_the_tools(batch):
    expected = expected_gap_ns(batch, pricing())
    children = np.flatnonzero(batch.parent >= 0)
    np.testing.assert_array_equal(gap_ns(batch, pricing())[children], batch.pause_ns[children])
    for tool in range(3):
        called = children[batch.tool[children] == tool]
        assert abs(expected[batch.parent[called]] - batch.pause_ns[called].mean()).max() < 1


def test_the_gap_behind_a_sub_agent_is_its_run_and_its_pause():
    rows = {"parent": [-1, -1, 0], "after": [-1, 0, 1], "kept_tokens": [0, 0, 110], "prompt_tokens": [100, 50, 120]}
    rows |= {"output_tokens": [10, 9, 5], "pause_ns": [0, 7, 11], "arrival_ns": [0, 0, 0], "trajectory": [0, 0, 0]}
    batch = Batch.from_columns(**rows)
    estimate = kvsim.estimate(batch, **ON).turns
    e2e_ns = round(estimate.e2e_s[1] * 1e9)
    assert gap_ns(batch, pricing()).tolist() == [0, 0, 7 + e2e_ns + 11]


def test_the_price_of_a_context_is_that_of_its_prefill():
    tokens = np.array([1, 500, 8192])
    for count, price_ns in zip(tokens, prefill_ns(tokens, pricing()), strict=True):
        step_s = kvsim.step_time(**ON, prefill_new=[int(count)], prefill_cached=[0]).seconds
        assert price_ns == pytest.approx(step_s * 1e9, abs=1)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(0, 200))
def test_the_best_time_beats_every_other(pauses, benefit):
    def worth(time: int) -> Fraction:
        return Fraction(sum(pause <= time for pause in pauses), len(pauses)) * benefit - time

    (best,) = best_times(np.array(pauses, np.int64), np.array([benefit], np.float64)).tolist()
    assert worth(best) == max(worth(time) for time in range(51))
    assert best == min(time for time in range(51) if worth(time) == worth(best))


# ---- What is refused ----


@pytest.mark.parametrize("name", ["lru2", "ttll:3", "", "offloads:1@1"])
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(UnknownNameError, match="retention policy") as caught:
        policy(name)
    assert set(NAMES) <= set(caught.value.known)


WRONG = """
    lru:3 pin: ttl ttl: ttl:soon ttl:-1 ttl:inf ttl:nan belady:1 continuum:x min-waste:64
    offload offload:64 offload:@25 offload:64@0 offload:x@25 offload-lazy:64@
"""


@pytest.mark.parametrize("name", WRONG.split())
def test_wrong_numbers_are_refused_with_the_form(name):
    with pytest.raises(InputError, match="Write " + name.partition(":")[0]) as caught:
        policy(name)
    assert caught.value.field == "retention"


@pytest.mark.parametrize(
    "changes",
    [
        {"hold_ns": np.array([1])},
        {"hold_ns": np.full(320, -1)},
        {"hold_ns": np.full(320, FOREVER + 1)},
        {"hold_ns": np.full(320, 0.5)},
        {"next_use_ns": np.full(320, -2)},
        {"pause_us": np.zeros(320, np.int64)},
        {"host": 4},
        {"host": 1, "host_blocks": -1},
        {"host": 1, "load_ns": -1},
    ],
)
def test_wrong_plans_are_refused(batch, changes):
    class Wrong:
        def plan(self, batch: Batch, pricing: Pricing) -> kvsim.retention.Plan:
            return NO_PLAN._replace(**changes)

    with pytest.raises(InputError) as caught:
        run(batch, Wrong())
    assert caught.value.field == "retention"


def test_what_is_no_policy_is_refused(batch):
    for given_policy in (3, None, object()):
        with pytest.raises(InputError, match="neither a name nor an object"):
            run(batch, given_policy)


def test_host_memory_below_a_block_is_refused(batch):
    with pytest.raises(InputError, match="not one block"):
        run(batch, "offload:0.0001@25")


def test_without_prefix_caching_nothing_can_be_retained(batch):
    engine = kvsim.EngineConfig(enable_prefix_caching=False)
    kvsim.simulate(batch, **ON, engine=engine, arrivals="closed:4", retention="lru")
    with pytest.raises(InputError, match="prefix caching"):
        kvsim.simulate(batch, **ON, engine=engine, arrivals="closed:4", retention="pin")
