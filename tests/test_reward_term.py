"""The cost term: the same numbers as estimate, whatever form the rollouts have, finite for all of them."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cases import batches, linear
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reward_cases import (
    MODEL,
    batch_of,
    counts_of,
    ids_of,
    junk,
    messages,
    messages_of,
    random_runs,
    runs,
    seconds_of,
)

import kvsim
from kvsim.calibration import shipped_calibration
from kvsim.errors import InputError, UnknownNameError
from kvsim.logs import from_messages
from kvsim.reward import UNITS

LOADS = [kvsim.Load(), kvsim.Load(concurrent=8, mean_context=4000, kv="ttl:3"), kvsim.Load(kv="always")]
TERMS = {unit: kvsim.CostTerm(**MODEL, unit=unit) for unit in UNITS}
EASY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("load", LOADS)
def test_a_batch_costs_what_estimate_says(unit: str, load: kvsim.Load) -> None:
    batch = linear(18, 20)
    term = kvsim.CostTerm(**MODEL, unit=unit, load=load, reading="exact")
    if unit == "pte":
        expected = kvsim.pte(batch, **MODEL, reading="exact", load=load).trajectories
    else:
        expected = getattr(kvsim.estimate(batch, **MODEL, load=load), unit)
    assert np.isnan(expected).any()  # some runs of this batch are longer than the model takes
    priced = ~np.isnan(expected)
    assert priced.sum() > 5
    costs = term(batch)
    assert costs[priced].tobytes() == expected[priced].tobytes()
    assert np.isfinite(costs).all()


@pytest.mark.parametrize("reading", ["paper", "exact", "calibrated"])
def test_pte_is_that_of_the_reading(reading: str) -> None:
    batch = linear(4, 10)
    term = kvsim.CostTerm(**MODEL, unit="pte", reading=reading)
    assert term(batch).tobytes() == kvsim.pte(batch, **MODEL, reading=reading).trajectories.tobytes()


@pytest.mark.parametrize("unit", UNITS)
@EASY
@given(given_runs=runs, padding=st.integers(0, 9))
def test_all_forms_of_the_same_rollouts_cost_the_same(unit: str, given_runs: list, padding: int) -> None:
    term = TERMS[unit]
    expected = term(batch_of(given_runs))
    tool_s = seconds_of(given_runs)
    ids, masks = zip(*(ids_of(run, padding) for run in given_runs), strict=True)
    chats, token_counts = zip(*map(messages_of, given_runs), strict=True)
    found = {
        "counts": term([counts_of(run) for run in given_runs], tool_s=tool_s),
        "masks": term(list(ids), masks=list(masks), tool_s=tool_s),
        "messages": term(list(chats), token_counts=list(token_counts), tool_s=tool_s),
    }
    for form, costs in found.items():
        assert costs.tobytes() == expected.tobytes(), form


def test_a_prompt_given_apart_counts() -> None:
    run = random_runs(1, 4)[0]
    term = TERMS["latency_s"]
    tool_s = seconds_of([run])
    expected = term([counts_of(run)], tool_s=tool_s)
    first = run[0][0]
    ids, mask = ids_of(run)
    chat, token_counts = messages_of(run)
    assert term([ids[first:]], masks=[mask[first:]], prompt_tokens=[first], tool_s=tool_s) == expected
    assert term([chat[1:]], token_counts=[token_counts[1:]], prompt_tokens=[first], tool_s=tool_s) == expected


def test_masks_may_be_two_dimensional_and_of_any_integers() -> None:
    given_runs = random_runs(3, 3)
    ids, masks = zip(*(ids_of(run) for run in given_runs), strict=True)
    width = max(map(len, ids))
    wide = np.stack([np.pad(row, (0, width - len(row))) for row in ids])
    padded = np.stack([np.pad(row, (0, width - len(row)), constant_values=-1) for row in masks])
    expected = TERMS["gpu_s"](list(ids), masks=list(masks))
    for kind in (np.int8, np.int64, np.float32):
        if kind is np.float32:
            with pytest.raises(InputError, match="float32"):
                TERMS["gpu_s"](wide, masks=padded.astype(kind))
        else:
            assert TERMS["gpu_s"](wide, masks=padded.astype(kind)).tobytes() == expected.tobytes()
    assert TERMS["gpu_s"](wide.tolist(), masks=padded.tolist()).tobytes() == expected.tobytes()


@EASY
@given(conversations=st.lists(messages, min_size=1, max_size=4))
def test_whatever_messages_a_trainer_makes_cost_a_finite_amount(conversations: list) -> None:
    costs = TERMS["latency_s"].price(conversations)
    assert len(costs.trajectories) == len(conversations)
    assert np.isfinite(costs.trajectories).all()
    assert (costs.trajectories > 0).all()
    assert np.isfinite(costs.marginal.values).all()
    assert np.isfinite(costs.tool_calls.cost).all()
    assert int(costs.shares.parts.sum()) == costs.shares.total_parts


@EASY
@given(masks=st.lists(st.lists(st.integers(0, 1), max_size=40), min_size=1, max_size=5), unit=st.sampled_from(UNITS))
def test_whatever_masks_a_trainer_makes_cost_a_finite_amount(masks: list, unit: str) -> None:
    costs = TERMS[unit].price([np.arange(len(mask)) for mask in masks], masks=[np.array(m, np.int8) for m in masks])
    assert np.isfinite(costs.trajectories).all()
    assert (costs.trajectories > 0).all()
    assert np.isfinite(costs.marginal.values).all()
    assert int(costs.shares.parts.sum()) == costs.shares.total_parts


@EASY
@given(batch=batches(), unit=st.sampled_from(UNITS), load=st.sampled_from([*LOADS, kvsim.Load(kv="logged")]))
def test_whatever_batch_costs_a_finite_amount(batch: kvsim.Batch, unit: str, load: kvsim.Load) -> None:
    costs = kvsim.CostTerm(**MODEL, unit=unit, load=load).price(batch)
    assert np.isfinite(costs.trajectories).all()
    assert np.isfinite(costs.turns.values).all()
    assert np.isfinite(costs.marginal.values).all()
    assert np.isfinite(costs.tool_calls.cost).all()
    assert int(costs.shares.parts.sum()) == costs.shares.total_parts


def test_what_the_engine_cannot_hold_is_priced_as_the_most_it_can() -> None:
    longest = kvsim.estimate(linear(1), **MODEL).pricing.engine.max_model_len
    term = TERMS["gpu_s"]
    costs = term.price([[(10**7, 5)], [(longest - 5, 5)], [(100, 10**7)], [(1, longest - 1)]])
    assert costs.trajectories[0] == costs.trajectories[1]
    assert costs.trajectories[2] == costs.trajectories[3]
    assert sum(count for what, count in costs.assumptions.items() if "longer than" in what) == 2
    crowd = kvsim.CostTerm(**MODEL, load=kvsim.Load(concurrent=250, mean_context=1500))
    assert np.isfinite(crowd([[(10**6, 300)]])).all()
    with pytest.raises(InputError, match="concurrent"):
        kvsim.CostTerm(**MODEL, load=kvsim.Load(concurrent=1000, mean_context=20_000))


def test_a_rollout_that_wrote_nothing_is_a_turn() -> None:
    term = TERMS["gpu_s"]
    expected = term([[(40, 0)]])
    assert term([[]], prompt_tokens=[40]) == expected
    assert term([np.arange(40)], masks=[np.zeros(40, np.int8)]) == expected
    assert term([[{"role": "user", "content": "?"}]], token_counts=[[40]]) == expected
    assert term([np.zeros(0, np.int64)], masks=[np.zeros(0, np.int8)]) == term([[]]) == term([[(1, 0)]])
    assert term.price([[]]).assumptions == {"turn that wrote nothing: priced as 1 output token": 1}
    assert term([]).shape == (0,)
    for facts in ({}, {"masks": []}, {"token_counts": []}):
        costs = term.price([], **facts)
        assert costs.total == 0
        assert len(costs.marginal.values) == len(costs.tool_calls) == 0


def test_messages_without_counts_are_counted_as_their_reader_counts_them() -> None:
    chat = [
        {"role": "system", "content": "You search."},
        {"role": "user", "content": "What is the capital of France, and how many people live in it?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "Paris, 2.1 million"},
        {"role": "assistant", "content": "Paris; 2.1 million."},
    ]
    expected = from_messages([chat])
    costs = TERMS["gpu_s"].price([chat])
    np.testing.assert_array_equal(costs.rollouts.batch.prompt_tokens, expected.prompt_tokens)
    np.testing.assert_array_equal(costs.rollouts.batch.output_tokens, expected.output_tokens)
    assert costs.trajectories.tobytes() == TERMS["gpu_s"](expected).tobytes()
    assert costs.assumptions["messages without token counts: counted by characters/3.5"] == 5
    assert [costs.tool_calls.names[tool] for tool in costs.tool_calls.tool] == ["f"]


def test_unmeasured_pauses_last_as_declared() -> None:
    declared = {"search": 2.5, "python": [1.0, 3.0], "slow": {"median": 10.0, "p90": 10.0}, "*": 0.25}
    term = kvsim.CostTerm(**MODEL, unit="latency_s", durations=declared)
    turns = [(100, 9), (200, 9), (300, 9), (400, 9), (500, 9)]
    tools = [["search", "python", ["other", "slow"], None]]
    bare = TERMS["model_s"]([turns])
    costs = term.price([turns], tools=tools, tool_s=[[None, float("nan"), None, None]])
    np.testing.assert_allclose(costs.trajectories - bare, 2.5 + 2.0 + 10.0, rtol=1e-12)
    assert costs.assumptions == {"tool pause nobody measured: the declared duration": 3}
    measured = term.price([turns], tools=tools, tool_s=[[1.0, 1.0, None, 5.0]])
    np.testing.assert_allclose(measured.trajectories - bare, 1.0 + 1.0 + 10.0 + 5.0, rtol=1e-12)
    anonymous = term.price([turns])
    np.testing.assert_allclose(anonymous.trajectories - bare, 4 * 0.25, rtol=1e-12)
    undeclared = kvsim.CostTerm(**MODEL, unit="latency_s", durations={"search": 2.5}).price([turns], tools=tools)
    np.testing.assert_allclose(undeclared.trajectories - bare, 2.5, rtol=1e-12)
    assert undeclared.assumptions == {
        "tool pause nobody measured: the declared duration": 1,
        "tool pause nobody measured, no duration declared: 0 seconds": 2,
    }
    lognormal = {"median": 1.0, "p90": 4.0}
    mean = np.exp((np.log(4.0) / 1.2815515655446004) ** 2 / 2)
    drawn = kvsim.CostTerm(**MODEL, unit="latency_s", durations={"*": lognormal})([turns])
    np.testing.assert_allclose(drawn - bare, 4 * mean, rtol=1e-8)


def test_pauses_that_no_clock_could_count() -> None:
    term = kvsim.CostTerm(**MODEL, unit="latency_s", durations={"*": 1e8})
    with pytest.raises(InputError, match="overflow"):
        term([[(10 + turn, 1) for turn in range(30)]])
    with pytest.raises(InputError, match="overflow"):
        TERMS["latency_s"]([[(10 + turn, 1) for turn in range(30)]], tool_s=[[1e8] * 30])


@pytest.mark.parametrize("unit", UNITS)
def test_a_cost_does_not_depend_on_the_others(unit: str) -> None:
    given_runs = random_runs(30, 5, seed=3)
    chosen = [17, 2, 29]
    counts, tool_s = [counts_of(run) for run in given_runs], seconds_of(given_runs)
    whole = TERMS[unit].price(counts, tool_s=tool_s, groups=[0] * 30)
    part = TERMS[unit].price([counts[i] for i in chosen], tool_s=[tool_s[i] for i in chosen])
    assert whole.trajectories[chosen].tobytes() == part.trajectories.tobytes()
    assert np.concatenate([whole.marginal[i] for i in chosen]).tobytes() == part.marginal.values.tobytes()


def test_a_batch_without_pauses_has_them_unmeasured() -> None:
    batch = batch_of([[(100, 9, 0.0), (50, 9, 0.0)], [(100, 9, 1.5), (50, 9, 0.0)]])
    costs = kvsim.CostTerm(**MODEL, unit="latency_s", durations={"*": 1.5}).price(batch)
    assert costs.trajectories[0] == costs.trajectories[1]
    assert costs.assumptions == {"tool pause nobody measured: the declared duration": 1}


@pytest.mark.parametrize("backend", ["native", "numba", "reference"])
def test_terms_can_be_pickled(backend: str) -> None:
    term = kvsim.CostTerm(**MODEL, unit="latency_s", durations={"*": 1.0}, backend=backend)
    again = pickle.loads(pickle.dumps(term))
    rollouts = [counts_of(run) for run in random_runs(5, 4)]
    assert (
        again(rollouts).tobytes() == term(rollouts).tobytes() == pickle.loads(pickle.dumps(again))(rollouts).tobytes()
    )


def test_threads_share_a_term() -> None:
    term = kvsim.CostTerm(**MODEL, unit="kv_byte_s", load=kvsim.Load(kv="ttl:1"))
    given_runs = [random_runs(40 + 7 * number, 9, seed=number) for number in range(6)]
    counts = [[counts_of(run) for run in part] for part in given_runs]
    expected = [term.price(part, tool_s=seconds_of(r)) for part, r in zip(counts, given_runs, strict=True)]
    together = threading.Barrier(4)

    def price(number: int) -> list[bytes]:
        if number < 4:
            together.wait()
        part = number % 6
        costs = term.price(counts[part], tool_s=seconds_of(given_runs[part]))
        return [costs.trajectories.tobytes(), costs.marginal.values.tobytes(), costs.shares.parts.tobytes()]

    with ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(pool.map(price, range(48))):
            costs = expected[number % 6]
            assert found == [
                costs.trajectories.tobytes(),
                costs.marginal.values.tobytes(),
                costs.shares.parts.tobytes(),
            ]


def test_a_calibration_brings_its_gpu() -> None:
    calibration = shipped_calibration("h100-sxm")
    rollouts = [[(900, 100)]]
    by_gpu = kvsim.CostTerm(MODEL["model"], "h100-sxm")(rollouts)
    assert kvsim.CostTerm(MODEL["model"], calibration=calibration)(rollouts) == by_gpu
    with pytest.raises(InputError, match="gpu"):
        kvsim.CostTerm(MODEL["model"])
    with pytest.raises(InputError, match="calibration"):
        kvsim.CostTerm(MODEL["model"], "l40s", calibration=calibration)


def test_names_that_are_none() -> None:
    with pytest.raises(UnknownNameError, match="latency_s"):
        kvsim.CostTerm(**MODEL, unit="seconds")
    with pytest.raises(UnknownNameError, match="calibrated"):
        kvsim.CostTerm(**MODEL, unit="pte", reading="mine")
    with pytest.raises(InputError, match="price"):
        kvsim.CostTerm(**MODEL, usd_per_hour=-1.0)


@pytest.mark.parametrize(
    ("rollouts", "facts", "problem"),
    [
        ([[(1, 2, 3)]], {}, "pair"),
        ([[(1, 2.5)]], {}, "float"),
        ([[(10, -1)]], {}, "output_tokens"),
        ([[(10, 1)]], {"tool_s": [[1.0, 2.0]]}, "2 values for 1 turns"),
        ([[(10, 1)]], {"tool_s": []}, "0 lists for 1 rollouts"),
        ([[(10, 1)]], {"tool_s": [["x"]]}, "no number"),
        ([[(10, 1), (20, 1)]], {"tool_s": [[-1.0]]}, "cannot take"),
        ([[(10, 1)]], {"tools": [[3]]}, "tools"),
        ([[(10, 1)]], {"groups": [1, 2]}, "groups"),
        ([[(10, 1)]], {"prompt_tokens": [-1]}, "prompt_tokens"),
        ([[(10, 1)], [(11, 1)]], {"steps": [["a"], ["a"]]}, "differ in a turn"),
        ([[{"role": "user"}]], {"token_counts": [[1, 2]]}, "2 token counts for 1 messages"),
        ([[{"role": "user"}]], {"token_counts": [[-1]]}, "-1 tokens"),
        ([[{"content": "?"}]], {"token_counts": [[1]]}, "no role"),
        ([[{"role": "user"}]], {"token_counts": []}, "0 lists"),
        ([[1, 2]], {"masks": [[0, 1, 1]]}, "shapes"),
        ([[{"role": "user"}]], {"token_counts": [[1]], "tools": [["f"]]}, "tools"),
        (linear(2, 2), {"tool_s": [[1.0], [1.0]]}, "beside a batch"),
        ([(900, 120), (1500, 80)], {}, "pair"),
    ],
)
def test_rollouts_that_are_none(rollouts: list, facts: dict, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        TERMS["gpu_s"](rollouts, **facts)


def test_the_example_of_the_docs_runs() -> None:
    text = (Path(__file__).parent.parent / "docs" / "rewards.md").read_text()
    names: dict = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert names["advantage"].shape == (3,)
    assert np.isfinite(names["advantage"]).all()


@given(declared=st.dictionaries(st.text(max_size=3), junk, min_size=1, max_size=2))
@settings(max_examples=60, deadline=None)
def test_durations_are_seconds_or_refused(declared: dict) -> None:
    try:
        term = kvsim.CostTerm(**MODEL, unit="latency_s", durations=declared)
    except InputError:
        return
    assert np.isfinite(term([[(10, 1), (20, 1)]])).all()
