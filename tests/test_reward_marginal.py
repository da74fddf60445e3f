"""Marginal costs: a rollout without a turn costs what a rollout made without it costs, on all backends alike."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CASES, batches, columns
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reward_cases import MODEL, Run, batch_of, counts_of, random_runs, runs, seconds_of

import kvsim
from kvsim import Batch
from kvsim.reward import UNITS, marginal

LOADS = [kvsim.Load(), kvsim.Load(concurrent=4, kv="ttl:1"), kvsim.Load(kv="always")]
EASY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def without(run: Run, turn: int) -> Run:
    """The run as if the turn had never been: what it read and waited for is read by the next one."""
    rest = [list(step) for step in run]
    new, _, _ = rest.pop(turn)
    if turn < len(rest):
        rest[turn][0] = new
        if turn:
            rest[turn - 1][2] = run[turn - 1][2]
    return [tuple(step) for step in rest]


@pytest.mark.parametrize("unit", UNITS)
@EASY
@given(given_runs=runs, load=st.sampled_from(LOADS))
def test_a_run_without_a_turn_costs_what_a_run_made_without_it_does(unit: str, given_runs: list, load) -> None:
    term = kvsim.CostTerm(**MODEL, unit=unit, load=load)
    costs = term.price(batch_of(given_runs))
    for number, run in enumerate(given_runs):
        whole = costs.trajectories[number]
        if len(run) == 1:
            assert costs.marginal[number] == whole
            continue
        shorter = [without(run, turn) for turn in range(len(run))]
        made = term([counts_of(rest) for rest in shorter], tool_s=seconds_of(shorter))
        assert costs.marginal[number].tobytes() == (whole - made).tobytes()


def test_a_rewritten_context_keeps_its_prompt() -> None:
    batch = columns(
        [
            {"prompt_tokens": 1000, "output_tokens": 100},
            {"parent": 0, "kept_tokens": 1100, "prompt_tokens": 1500, "output_tokens": 200, "pause_ns": 10**9},
            {"parent": 1, "kept_tokens": 1000, "prompt_tokens": 1200, "output_tokens": 50, "pause_ns": 2 * 10**9},
            {"parent": 2, "kept_tokens": 1250, "prompt_tokens": 1400, "output_tokens": 60, "pause_ns": 3 * 10**9},
        ]
    )
    without_second = columns(
        [
            {"prompt_tokens": 1000, "output_tokens": 100},
            {"parent": 0, "kept_tokens": 1000, "prompt_tokens": 1200, "output_tokens": 50, "pause_ns": 10**9},
            {"parent": 1, "kept_tokens": 1250, "prompt_tokens": 1400, "output_tokens": 60, "pause_ns": 3 * 10**9},
        ]
    )
    without_first = columns(
        [
            {"prompt_tokens": 1000, "output_tokens": 200},
            {"parent": 0, "kept_tokens": 1000, "prompt_tokens": 1200, "output_tokens": 50, "pause_ns": 2 * 10**9},
            {"parent": 1, "kept_tokens": 1250, "prompt_tokens": 1400, "output_tokens": 60, "pause_ns": 3 * 10**9},
        ]
    )
    term = kvsim.CostTerm(**MODEL, unit="latency_s")
    costs = term.price(batch)
    assert costs.marginal[0][1] == costs.trajectories[0] - term(without_second)[0]
    assert costs.marginal[0][0] == costs.trajectories[0] - term(without_first)[0]


def test_a_join_waits_for_what_the_turn_left_out_waited_for() -> None:
    second = 10**9
    batch = columns(
        [
            {"prompt_tokens": 500, "output_tokens": 10},
            {"prompt_tokens": 600, "output_tokens": 10, "after": 0, "pause_ns": 5 * second},
            {"prompt_tokens": 700, "output_tokens": 10, "after": 0, "pause_ns": 9 * second, "waits_for": [1]},
            {"parent": 0, "kept_tokens": 510, "prompt_tokens": 900, "after": 0, "waits_for": [2]},
        ]
    )
    without_third = columns(
        [
            {"prompt_tokens": 500, "output_tokens": 10},
            {"prompt_tokens": 600, "output_tokens": 10, "after": 0, "pause_ns": 5 * second},
            {"parent": 0, "kept_tokens": 510, "prompt_tokens": 900, "after": 0, "waits_for": [0, 1]},
        ]
    )
    term = kvsim.CostTerm(**MODEL, unit="latency_s")
    costs = term.price(batch)
    assert costs.marginal[0][2] == costs.trajectories[0] - term(without_third)[0]


def marginal_of(backend: str, batch: Batch, unit: str = "latency_s") -> np.ndarray:
    return (
        kvsim.CostTerm(**MODEL, unit=unit, backend=backend, load=kvsim.Load(kv="logged")).price(batch).marginal.values
    )


@pytest.mark.parametrize("backend", ["native", "numba"])
@pytest.mark.parametrize("batch", [batch for _, batch in CASES], ids=[name for name, _ in CASES])
def test_cases_lose_turns_alike(backend: str, batch: Batch) -> None:
    assert marginal_of(backend, batch).tobytes() == marginal_of("reference", batch).tobytes()


@pytest.mark.parametrize("backend", ["native", "numba"])
@EASY
@given(batch=batches())
def test_whatever_is_drawn_loses_turns_alike(backend: str, batch: Batch) -> None:
    for unit in ("latency_s", "kv_byte_s"):
        assert marginal_of(backend, batch, unit).tobytes() == marginal_of("reference", batch, unit).tobytes()


@pytest.mark.parametrize("backend", ["native", "reference"])
@EASY
@given(batch=batches())
def test_what_is_left_is_a_batch(backend: str, batch: Batch) -> None:
    """What is left of any batch passes the door that every batch passes, in the order of its rows."""
    made = []
    priced = kvsim.CostTerm(**MODEL, backend=backend).price(batch)
    original = marginal.Estimate
    try:
        marginal.Estimate = lambda left, *rest: made.append(left) or original(left, *rest)
        assert len(priced.marginal.values) == len(priced.rollouts.entries.values)
    finally:
        marginal.Estimate = original
    for left in made:
        checked = Batch.from_columns(
            **{name: getattr(left, name) for name in ("parent", "after", "kept_tokens", "prompt_tokens")},
            **{name: getattr(left, name) for name in ("output_tokens", "pause_ns", "arrival_ns", "trajectory")},
            waits_for=left.waits_for,
            cached_tokens=left.cached_tokens,
        )
        if left.order is None:
            assert checked.order is None


def test_rollouts_are_priced_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts = [counts_of(run) for run in random_runs(7, 6)] + [[(40, 3)]]
    term = kvsim.CostTerm(**MODEL, unit="kv_byte_s")
    expected = term.price(rollouts).marginal.values
    monkeypatch.setattr(marginal, "TURNS_AT_ONCE", 8)
    assert term.price(rollouts).marginal.values.tobytes() == expected.tobytes()


def test_tool_calls_divide_what_their_turn_could_have_saved() -> None:
    chat = [
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": {"name": "f"}}, {"id": "2"}]},
        {"role": "tool", "tool_call_id": "1", "content": ""},
        {"role": "tool", "name": "g", "tool_call_id": "2", "content": ""},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "3", "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": "3", "content": ""},
    ]
    counts = [900, 30, 100, 300, 40, 20, 10, 50]
    costs = kvsim.CostTerm(**MODEL).price([chat, chat[:1]], token_counts=[counts, counts[:1]])
    calls = costs.tool_calls
    assert [calls.names[tool] for tool in calls.tool] == ["f", "g"]  # the last call's answer was read by nobody
    assert calls.rollout.tolist() == [0, 0]
    assert calls.turn.tolist() == [0, 0]
    assert calls.tokens.tolist() == [100, 300]
    np.testing.assert_allclose(calls.cost, costs.marginal[0][0] * np.array([0.25, 0.75]), rtol=1e-15)
    assert costs.calls.tolist() == [2, 0]
    named = kvsim.CostTerm(**MODEL).price([[(900, 30), (1400, 9)]], tools=[[["f", "g"]]])
    np.testing.assert_allclose(named.tool_calls.cost, named.marginal[0][0] / 2, rtol=1e-15)
    assert kvsim.CostTerm(**MODEL).price([[(900, 30), (1400, 9)]]).calls.tolist() == [1]
