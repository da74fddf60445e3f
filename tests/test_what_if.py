"""What-if: what a change makes of a batch, and what it saves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import CASES, batches, columns, linear
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kvsim
from kvsim import Batch
from kvsim._door import checked
from kvsim.errors import InputError
from kvsim.insight.advice import explain
from kvsim.insight.tool_costs import by_call, by_tool
from kvsim.insight.what_if import Compact, Deployment, DropCalls, KeepCache, Merge, OnGpu, ShortenTools, Truncate
from kvsim.insight.what_if.change import AgentChange
from kvsim.insight.what_if.compact import heads, rows_beyond
from kvsim.insight.what_if.edits import Edits
from kvsim.insight.what_if.families import Families
from kvsim.insight.what_if.merge import Links
from kvsim.insight.what_if.responses import Responses
from kvsim.insight.what_if.rewriting import rewritten
from kvsim.insight.what_if.savings import Priced, savings, savings_of_batch, savings_of_deployment
from kvsim.reward.marginal import _self_contained
from kvsim.reward.rollouts import Rollouts

MODEL: dict[str, Any] = {"model": "Qwen/Qwen3-8B", "gpu": "h100-sxm"}
LOADS = [kvsim.Load(), kvsim.Load(kv="always"), kvsim.Load(concurrent=4, kv="ttl:1"), kvsim.Load(kv="logged")]
EASY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def model_s(batch: Batch, load: kvsim.Load | None = None) -> float:
    return float(kvsim.estimate(batch, **MODEL, load=load).model_s.sum())


def changes_of(batch: Batch) -> list[AgentChange]:
    """A change of every kind, at every place where there is one."""
    found: list[AgentChange] = [Truncate("t", tokens=tokens) for tokens in (0, 100)]
    responses = Responses.of(batch)
    for row in np.unique(responses.row).tolist():
        found.append(Truncate("t", tokens=50, rows=(row,)))
        if batch.trajectory[batch.parent[row]] == batch.trajectory[row]:
            found.append(DropCalls("d", rows=(row,)))
    found += [Compact("c", rows=(row,), summary_tokens=30) for row in compactable_rows(batch, 30)]
    links = Links(batch)
    for row in np.flatnonzero(links.next >= 0).tolist():
        chain = (row, int(links.next[row]))
        if links.reader(chain) is not None:
            found.append(Merge("m", chains=(chain,)))
    return found


def compactable_rows(batch: Batch, summary: int) -> list[int]:
    return np.flatnonzero((batch.parent >= 0) & (batch.kept_tokens > heads(batch) + summary)).tolist()


@settings(EASY, max_examples=25)
@given(batch=batches(max_turns=12), load=st.sampled_from(LOADS))
def test_every_changed_batch_is_valid_and_priced_alike_alone_and_among_others(batch: Batch, load: kvsim.Load) -> None:
    changes = changes_of(batch)
    base = Priced(batch, Deployment(**MODEL, load=load))
    if not changes:
        return
    edits = Edits.together([change.edits(batch) for change in changes])
    made = rewritten(base.families, edits)
    checked(made.batch, lambda row: (None, None))
    saved = savings(base, edits)
    for number, change in enumerate(changes):
        changed = change.apply(batch)  # checks that it is valid
        assert len(changed) == len(batch)
        if batch.prefix is not None and isinstance(change, DropCalls):
            continue  # among others, what a root shares with other roots of its prefix is taken to stay
        alone = savings_of_batch(base, changed)
        for unit in ("model_s", "latency_s", "usd"):
            np.testing.assert_allclose(
                saved.by_unit[unit][:, number], alone.by_unit[unit][:, 0], rtol=1e-9, atol=1e-9, err_msg=str(change)
            )


@EASY
@given(batch=batches(max_turns=12))
def test_a_call_left_out_is_what_marginal_costs_mean_by_it(batch: Batch) -> None:
    rollouts = Rollouts.from_batch(batch)
    if batch.prefix is not None or not _self_contained(rollouts):
        return
    for unit in ("model_s", "latency_s"):
        costs = kvsim.CostTerm(**MODEL, unit=unit, load=kvsim.Load(kv="logged")).price(batch)
        base = Priced(batch, Deployment(**MODEL, load=kvsim.Load(kv="logged")))
        for row in np.flatnonzero(batch.parent >= 0).tolist():
            gone = int(batch.parent[row])
            number = int(batch.trajectory[gone])
            if np.count_nonzero(batch.trajectory == number) == 1:
                continue
            places = rollouts.entries[number]
            saved = savings(base, DropCalls("d", rows=(row,)).edits(batch)).ends(unit).value
            assert saved == pytest.approx(costs.marginal[number][places.index(gone)], abs=1e-9)


@EASY
@given(batch=batches(), load=st.sampled_from(LOADS))
def test_truncating_to_the_present_length_changes_nothing(batch: Batch, load: kvsim.Load) -> None:
    longest = int(Responses.of(batch).tokens.max(initial=0))
    assert not Truncate("t", tokens=longest).edits(batch).touched[0].size
    kept = Truncate("t", tokens=longest).apply(batch)
    for name in ("parent", "after", "kept_tokens", "prompt_tokens", "output_tokens", "pause_ns", "arrival_ns"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(batch, name))
    np.testing.assert_array_equal(
        kvsim.estimate(kept, **MODEL, load=load).model_s, kvsim.estimate(batch, **MODEL, load=load).model_s
    )


@EASY
@given(seed=st.integers(0, 1000), tokens=st.sampled_from([0, 1, 64, 500, 2000]))
def test_shorter_responses_never_cost_more_while_nothing_is_evicted(seed: int, tokens: int) -> None:
    batch = linear(8, 3, seed)
    base = Priced(batch, Deployment(**MODEL, load=kvsim.Load(kv="never")))
    saved = savings(base, Truncate("t", tokens=tokens).edits(batch))
    assert (saved.by_unit["model_s"] >= 0).all()
    less = savings(base, Truncate("t", tokens=tokens + 500).edits(batch))
    assert (saved.by_unit["model_s"] >= less.by_unit["model_s"]).all()


def conversation(answers: list[str], *, fork: bool = False) -> list[list[dict[str, Any]]]:
    """A log of a run whose tools answer these; forked: a second run that goes on from the second call's answer."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "You fix bugs. " * 40},
        {"role": "user", "content": "The tests of the parser fail. Find out why. " * 3},
    ]
    for number, answer in enumerate(answers):
        call = {"id": str(number), "function": {"name": "bash", "arguments": f'{{"command": "step {number}"}}'}}
        messages.append({"role": "assistant", "content": f"I look at part {number}.", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": str(number), "content": answer})
    messages.append({"role": "assistant", "content": "Done: the parser forgot to reset its state. " * 4})
    return [messages]


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("keep", [0, 10, 300])
def test_a_log_with_shorter_answers_is_priced_as_the_change_is(load: kvsim.Load, keep: int) -> None:
    """Characters / 3.5 is the tokenizer, so that a text of a multiple of 7 characters has exact tokens."""
    texts = ["x" * 7 * size for size in (900, 20, 300, 1500)]
    logged = kvsim.logs.from_messages(conversation(texts))
    # In the batch a response's tokens hold those of its template and of the answer's head, four each.
    shorter = kvsim.logs.from_messages(conversation([text[: 7 * keep] for text in texts]))
    made = Truncate("t", tokens=2 * keep + 8).apply(logged)
    for name in ("kept_tokens", "prompt_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(made, name), getattr(shorter, name))
    assert model_s(made, load) == model_s(shorter, load)


def test_a_log_without_a_call_is_priced_as_the_change_is() -> None:
    texts = ["x" * 7 * size for size in (900, 20, 300, 1500)]
    whole = conversation(texts)[0]
    logged = kvsim.logs.from_messages([whole])
    for gone in range(4):
        without = kvsim.logs.from_messages([[*whole[: 2 + 2 * gone], *whole[4 + 2 * gone :]]])
        made = DropCalls("d", rows=(gone + 1,)).apply(logged)
        for name in ("kept_tokens", "prompt_tokens", "output_tokens"):
            np.testing.assert_array_equal(getattr(made, name), getattr(without, name))
    with pytest.raises(InputError, match="row 0 extends no turn"):
        DropCalls("d", rows=(2, 0)).apply(logged)
    several = DropCalls("d", rows=(1, 2, 4)).apply(logged)
    without = kvsim.logs.from_messages([[*whole[:2], *whole[6:8], *whole[10:]]])
    np.testing.assert_array_equal(several.prompt_tokens, without.prompt_tokens)
    np.testing.assert_array_equal(several.kept_tokens, without.kept_tokens)


def test_merged_calls_are_one_turn_whose_tools_run_beside_each_other() -> None:
    second = 10**9
    batch = columns(
        [
            {"prompt_tokens": 1000, "output_tokens": 100},
            {"parent": 0, "kept_tokens": 1100, "prompt_tokens": 1500, "output_tokens": 50, "pause_ns": 2 * second},
            {"parent": 1, "kept_tokens": 1550, "prompt_tokens": 1800, "output_tokens": 60, "pause_ns": 5 * second},
            {"parent": 2, "kept_tokens": 1860, "prompt_tokens": 2000, "output_tokens": 70, "pause_ns": 3 * second},
            {"parent": 3, "kept_tokens": 2070, "prompt_tokens": 2100, "output_tokens": 10, "pause_ns": 1 * second},
        ]
    )
    wanted = columns(
        [
            {"prompt_tokens": 1000, "output_tokens": 210},
            {"parent": 0, "kept_tokens": 1210, "prompt_tokens": 2000, "output_tokens": 70, "pause_ns": 5 * second},
            {"parent": 1, "kept_tokens": 2070, "prompt_tokens": 2100, "output_tokens": 10, "pause_ns": 1 * second},
        ]
    )
    made = Merge("m", chains=((0, 1, 2),)).apply(batch)
    for name in ("parent", "after", "kept_tokens", "prompt_tokens", "output_tokens", "pause_ns"):
        np.testing.assert_array_equal(getattr(made, name), getattr(wanted, name), err_msg=name)
    for load in (kvsim.Load(), kvsim.Load(kv="always")):
        assert model_s(made, load) < model_s(batch, load)


def test_calls_that_are_no_chain_are_not_merged() -> None:
    batch = linear(4)
    for chain in ((0, 2), (3,), (2, 3)):
        with pytest.raises(InputError, match="no chain"):
            Merge("m", chains=(chain,)).edits(batch)


def test_a_compacted_context_is_its_head_and_a_summary_that_is_paid_for() -> None:
    second = 10**9
    batch = columns(
        [
            {"prompt_tokens": 1000, "output_tokens": 100},
            {"parent": 0, "kept_tokens": 1100, "prompt_tokens": 9000, "output_tokens": 50, "pause_ns": 2 * second},
            {"parent": 1, "kept_tokens": 9050, "prompt_tokens": 9400, "output_tokens": 60, "pause_ns": 5 * second},
            {"parent": 2, "kept_tokens": 9460, "prompt_tokens": 9500, "output_tokens": 70, "pause_ns": 3 * second},
        ]
    )
    made = Compact("c", rows=(2,), summary_tokens=500).apply(batch)
    rows = np.argsort(made.order)  # type: ignore[arg-type]
    by_time = np.argsort(rows)
    assert made.prompt_tokens[by_time].tolist() == [1000, 9000, 9150, 1000 + 500 + 350, 1000 + 500 + 350 + 60 + 40]
    assert made.kept_tokens[by_time].tolist() == [0, 1100, 9050, 1000, 1000 + 500 + 350 + 60]
    assert made.output_tokens[by_time].tolist() == [100, 50, 500, 60, 70]
    assert made.pause_ns[by_time].tolist() == [0, 2 * second, 5 * second, 0, 3 * second]


def test_contexts_are_compacted_whenever_they_are_long_and_stay_short() -> None:
    batch = linear(60, 4, seed=3)
    rows = rows_beyond(batch, 16_000, Families.of_batch(batch).depth, 500)
    made = Compact("c", rows=tuple(rows.tolist()), summary_tokens=500).apply(batch)
    assert made.turns == batch.turns + len(rows)
    summaries = made.output_tokens == 500
    assert batch.prompt_tokens.max() > 40_000
    assert made.prompt_tokens[~summaries].max() <= 16_000 + 3_500  # the new part of the turn that trips it


def test_tool_definitions_become_shorter_in_all_contexts() -> None:
    tools = [{"type": "function", "function": {"name": f"tool{n}", "description": "word " * 200}} for n in range(5)]
    batch = kvsim.logs.from_messages(conversation(["a" * 70, "b" * 140]), tools=tools)
    made = ShortenTools("s", share=0.5).apply(batch)
    from kvsim.insight.what_if.tool_descriptions import definitions

    cut = int(definitions(batch)[2][0] * 0.5)
    assert cut > 500
    np.testing.assert_array_equal(made.prompt_tokens, batch.prompt_tokens - cut)
    np.testing.assert_array_equal(made.kept_tokens, np.where(batch.parent < 0, 0, batch.kept_tokens - cut))


def test_ends_of_a_saving_are_those_of_one_law() -> None:
    batch = linear(14, 3)
    base = Priced(batch, Deployment(**MODEL))
    change = Truncate("t", tokens=200)
    ends = savings(base, change.edits(batch)).ends("model_s")
    now, then = kvsim.estimate(batch, **MODEL), kvsim.estimate(change.apply(batch), **MODEL)
    assert ends.value == pytest.approx(float((now.model_s - then.model_s).sum()), abs=1e-9)
    sure = now.uncertainty
    scaled = []
    for factors in ((sure.prefill.low, sure.decode.low), (sure.prefill.high, sure.decode.high)):
        law = now.pricing.scaled(*factors)
        one, other = (replace_law(batch_, law) for batch_ in (batch, change.apply(batch)))
        scaled.append(float((one - other).sum()))
    assert (ends.low, ends.high) == (pytest.approx(min(scaled)), pytest.approx(max(scaled)))
    apart = now.interval.total("model_s")[1] - then.interval.total("model_s")[0]
    assert ends.high < apart  # a saving is surer than the difference of two independent intervals


def replace_law(batch: Batch, law: Any) -> np.ndarray:
    from kvsim.backends import get
    from kvsim.estimation import Estimate

    return Estimate(batch, law, get("auto")).model_s


def test_keeping_the_cache_saves_what_was_computed_again() -> None:
    batch = linear(12, 3)
    now = Deployment(**MODEL, load=kvsim.Load(kv="always"))
    base = Priced(batch, now)
    ends = savings_of_deployment(base, Priced(batch, KeepCache("k").deployed(now)))
    assert ends["model_s"].value == pytest.approx(float(base.result.recompute_s.sum()))


def test_another_gpu_has_an_error_of_its_own() -> None:
    batch = linear(12, 3)
    now = Deployment(**MODEL)
    base, other = Priced(batch, now), Priced(batch, OnGpu("o", gpu="rtx-4090").deployed(now))
    ends = savings_of_deployment(base, other)["model_s"]
    assert ends.value == pytest.approx(base.totals["model_s"].value - other.totals["model_s"].value)
    paired = [float((one.model_s - two.model_s).sum()) for one, two in zip(base.results, other.results, strict=True)]
    assert ends.high - ends.low > 0
    assert ends.low <= ends.value <= ends.high
    assert paired[0] == pytest.approx(ends.value)


@pytest.mark.parametrize("by", ["model_s", "latency_s"])
@pytest.mark.parametrize("kv", ["never", "always", "ttl:5"])
def test_the_best_changes_are_found_without_pricing_all(by: str, kv: str) -> None:
    """Beside all candidates priced, the ten best of each kind are the same."""
    batch = linear(18, 30, seed=5)
    load = kvsim.Load(kv=kv)
    advice = explain(batch, **MODEL, load=load, by=by, top=10)
    base = Priced(batch, Deployment(**MODEL, load=load))
    readers = np.flatnonzero(batch.parent >= 0).tolist()
    for kind, changes in {
        "drop": [DropCalls("d", rows=(row,)) for row in readers],
        "truncate": [Truncate("t", tokens=1000, rows=(row,)) for row in readers],
    }.items():
        saved = savings(base, Edits.together([change.edits(batch) for change in changes])).by_unit[by][0]
        best = np.sort(saved)[::-1][:10]
        found = [saving.saved_s for saving in advice.agent if saving.kind == kind and saving.scope == "call"][:10]
        np.testing.assert_allclose(found, best, rtol=1e-9)
        assert len([s for s in advice.agent if s.kind == kind]) < len(changes)


def test_advice_on_shared_engines_is_simulated() -> None:
    batch = linear(10, 12, seed=2)
    advice = explain(batch, **MODEL, arrivals="closed:4", top=3)
    base = kvsim.simulate(batch, **MODEL, arrivals="closed:4")
    assert advice.result.model_s.sum() == base.model_s.sum()
    best = next(saving for saving in advice.agent if saving.kind == "truncate")
    assert isinstance(best.change, AgentChange)
    changed = kvsim.simulate(best.change.apply(batch), **MODEL, arrivals="closed:4")
    assert best.saved_s == pytest.approx(float((base.model_s - changed.model_s).sum()))


@pytest.mark.parametrize(
    ("wish", "field"),
    [({"by": "gpu_s"}, "by"), ({"truncate_to": -1}, "truncate_to"), ({"tools_share": 1.0}, "tools_share")],
)
def test_wishes_that_mean_nothing_are_refused(wish: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as error:
        explain(linear(2), **MODEL, **wish)
    assert error.value.field == field


@pytest.mark.parametrize("batch", [batch for _, batch in CASES], ids=[name for name, _ in CASES])
def test_every_case_gets_advice(batch: Batch) -> None:
    advice = explain(batch, **MODEL)
    for saving in advice.agent:
        assert saving.saved_low_s <= saving.saved_s <= saving.saved_high_s


def test_priced_from_any_backend_alike() -> None:
    batch = linear(10, 3)
    found = [
        [(saving.name, saving.saved_s) for saving in explain(batch, **MODEL, backend=backend).agent]
        for backend in ("native", "numba")
    ]
    assert found[0] == found[1]


@EASY
@given(seed=st.integers(0, 1000), gone=st.sets(st.integers(1, 6), min_size=2, max_size=4))
def test_calls_left_out_together_are_those_left_out_one_after_the_other(seed: int, gone: set[int]) -> None:
    batch = linear(8, 2, seed)
    together = DropCalls("d", rows=tuple(gone)).apply(batch)
    for row in sorted(gone, reverse=True):  # from the end, so that rows keep their numbers
        batch = DropCalls("d", rows=(row,)).apply(batch)
    for name in ("parent", "after", "kept_tokens", "prompt_tokens", "output_tokens", "pause_ns"):
        np.testing.assert_array_equal(getattr(together, name), getattr(batch, name), err_msg=name)


@pytest.mark.parametrize("load", LOADS[:3])
def test_what_responses_cost_is_what_the_run_saves_without_them(load: kvsim.Load) -> None:
    rows = [
        {"prompt_tokens": 900, "output_tokens": 50},
        {"parent": 0, "kept_tokens": 950, "prompt_tokens": 4000, "output_tokens": 40, "pause_ns": 10**9},
        {"parent": 1, "kept_tokens": 4040, "prompt_tokens": 4100, "output_tokens": 30, "pause_ns": 3 * 10**9},
        {"parent": 2, "kept_tokens": 4130, "prompt_tokens": 6000, "output_tokens": 20, "pause_ns": 2 * 10**9},
    ]
    batch = Batch.from_columns(**columns(rows).columns, tool=[-1, 0, 1, 0], tool_names=["search", "look"])
    base = Priced(batch, Deployment(**MODEL, load=load))
    without = {row: Truncate("t", tokens=0, rows=(row,)).apply(batch) for row in (1, 2, 3)}
    calls = by_call(base, 2)
    assert [cost.row for cost in calls] == sorted(without, key=lambda row: model_s(without[row], load))[:2]
    for cost in calls:
        assert cost.model_s.value == pytest.approx(model_s(batch, load) - model_s(without[cost.row], load), rel=1e-9)
        assert cost.pause_s == batch.pause_ns[cost.row] / 1e9
        assert cost.tokens == batch.prompt_tokens[cost.row] - batch.kept_tokens[cost.row]
    for cost, tool, responses in zip(by_tool(base), (0, 1), (2, 1), strict=True):
        changed = Truncate("t", tokens=0, of=tool).apply(batch)
        assert (cost.tool, cost.responses) == (batch.tool_names[tool], responses)
        assert cost.model_s.value == pytest.approx(model_s(batch, load) - model_s(changed, load), rel=1e-9)
