"""Attribution adds up to the nanosecond, for every source of traces, and blames what is to blame."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
from engine_cases import session, turns
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kvsim
from kvsim.insight import attribute
from kvsim.insight.apportion import apportion
from kvsim.insight.attribution import Attribution
from kvsim.insight.blame import blame_of_calls, blame_of_tools
from kvsim.insight.contents import KINDS, OTHER, OWN, TOOL
from kvsim.insight.parts import PARTS, decode_steps, decoding_of
from kvsim.trajectory import Batch, Segments

DEVICE: dict[str, Any] = {"model": "Qwen/Qwen3-8B", "gpu": "h100-sxm"}
WINDOWED = DEVICE | {"model": "openai/gpt-oss-20b"}
LOADS = {
    "alone": kvsim.Load(),
    "always": kvsim.Load(kv="always"),
    "ttl": kvsim.Load(kv="ttl:5"),
    "lru": kvsim.Load(concurrent=8, mean_context=8000, kv="lru", churn_blocks_per_s=1000.0),
    "logged": kvsim.Load(kv="logged"),
    "concurrent": kvsim.Load(concurrent=16),
}
SLOW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def assert_adds_up(result: Any) -> Attribution:
    """All sums, against the times that the result itself gives."""
    attribution, batch = attribute(result), result.batch
    table, ok, counted = attribution.turns, attribution.parts.ok, attribution.counted[batch.trajectory]
    estimated = isinstance(result, kvsim.Estimate)
    begun, ended = result.span_ns if estimated else (result.served.release_ns, result.served.finish_ns)
    every = (table, attribution.tool_calls, attribution.tools, *attribution.sources)
    for made in every:
        assert all((column >= 0).all() for name, column in made.items() if name != "tool")
    np.testing.assert_array_equal(sum(table[name] for name in PARTS), np.where(ok, ended - begun, 0))
    for name, column in table.items():
        exact = column[counted].astype(object)
        totals = np.zeros(len(batch), object)
        np.add.at(totals, batch.trajectory[counted], exact)
        if name.endswith("_ns"):
            assert attribution.trajectories[name].tolist() == totals.tolist()
            assert attribution.run[name].tolist() == [exact.sum()]
        else:
            np.testing.assert_allclose(attribution.trajectories[name], totals.astype(float), rtol=1e-9)
    assert attribution.left_out == len(set(batch.trajectory[~ok].tolist()))
    for name in ("fresh_ns", "decode_context_ns"):
        by_source, in_run = getattr(attribution.sources, name), getattr(attribution.run_sources, name)
        np.testing.assert_array_equal(sum(by_source.values()), table[name])
        assert sum(column[0] for column in in_run.values()) == attribution.run[name][0]
        of_tools = in_run["tool"][0]
        assert attribution.tools[name].sum() == attribution.tool_calls[name].sum() == of_tools
    lost = attribution.evictions
    np.testing.assert_array_equal(
        np.bincount(lost.row, lost.recompute_ns, batch.turns).astype(np.int64), table.recompute_ns
    )
    for name in ("tool_ns", "recompute_ns"):
        assert attribution.tools[name].sum() == attribution.tool_calls[name].sum() <= attribution.run[name][0]
    for blamed in (blame_of_tools(attribution), blame_of_calls(attribution)):
        model_ns = [blame.model_ns for blame in blamed]
        assert model_ns == sorted(model_ns, reverse=True)
        for name in ("tool_ns", "fresh_ns", "recompute_ns", "decode_context_ns"):
            assert sum(getattr(blame, name) for blame in blamed) == attribution.tools[name].sum()
    return attribution


def described(batch: Batch, random: Any) -> Batch:
    """The same with segments of random kinds, of which some leave a rest."""
    lists = []
    for new in (batch.prompt_tokens - batch.kept_tokens).tolist():
        cuts = sorted(random.randrange(new + 1) for _ in range(random.randrange(4)))
        lists.append(
            [
                (random.choice(KINDS[:-1]), random.randrange(-1, 3), end - begin)
                for begin, end in zip([0, *cuts], cuts, strict=False)
            ]
        )
    columns = {name: column for name, column in batch.columns.items() if not name.startswith("waits_for")}
    tool = [random.randrange(-1, 3) for _ in range(batch.turns)]
    return Batch.from_columns(**columns, waits_for=batch.waits_for, segments=lists, tool=tool)


any_batch = st.builds(described, cases.batches(), st.randoms(use_true_random=False))


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
@pytest.mark.parametrize("device", [DEVICE, WINDOWED], ids=["full", "windows"])
@given(batch=any_batch)
@SLOW
def test_estimates_of_random_batches_add_up(device, load, batch):
    assert_adds_up(kvsim.estimate(batch, **device, load=load))


@pytest.mark.parametrize(
    ("device", "how"),
    [
        (DEVICE, {}),
        (DEVICE, {"arrivals": "closed:3", "replicas": 2, "engine": kvsim.EngineConfig(scheduling_policy="priority")}),
        (DEVICE, {"engine": kvsim.EngineConfig(async_scheduling=False), "retention": "offload:1@5"}),
        (WINDOWED, {}),
    ],
    ids=["plain", "replicas by priority", "offload, not async", "windows"],
)
@given(batch=any_batch)
@SLOW
def test_simulations_of_random_batches_add_up(device, how, batch):
    tight = {"max_model_len": 6700, "num_gpu_blocks_override": 1500 if device is WINDOWED else 430}
    engine = kvsim.EngineConfig(**({**vars_of(how["engine"])} if "engine" in how else {}), **tight)
    result = kvsim.simulate(batch, **device, **(how | {"engine": engine}), evictions=True)
    assert_adds_up(result)


def vars_of(config: kvsim.EngineConfig) -> dict[str, Any]:
    """What differs from the defaults."""
    plain = kvsim.EngineConfig()
    fields = type(config).__dataclass_fields__
    return {name: getattr(config, name) for name in fields if getattr(config, name) != getattr(plain, name)}


@given(
    st.lists(st.tuples(st.integers(0, 2**60), st.lists(st.floats(0, 1e12), min_size=1, max_size=9)), max_size=9),
)
def test_shares_add_up_and_are_proportional(groups):
    totals = np.array([total for total, _ in groups], np.int64)
    number = np.repeat(np.arange(len(groups)), [len(weights) for _, weights in groups])
    weights = np.array([weight for _, some in groups for weight in some])
    shares = apportion(totals, weights, number)
    for group, (total, some) in enumerate(groups):
        its = shares[number == group]
        assert sum(its.tolist()) == total
        assert (its >= 0).all()
        if sum(some) > 0:
            np.testing.assert_allclose(its, np.array(some) / sum(some) * total, rtol=1e-9, atol=2 + total * 2e-14)


def test_an_own_split_of_every_turn_gives_the_same_blame():
    """Contexts token by token, on a tree with forks and compaction."""
    rows: list[dict[str, Any]] = [
        {"prompt_tokens": 40, "output_tokens": 5},
        {"parent": 0, "kept_tokens": 45, "prompt_tokens": 60, "output_tokens": 7},
        {"parent": 1, "kept_tokens": 67, "prompt_tokens": 90, "output_tokens": 9},
        {"parent": 2, "kept_tokens": 30, "prompt_tokens": 50, "output_tokens": 11},  # compaction
        {"parent": 3, "kept_tokens": 30, "prompt_tokens": 35, "output_tokens": 3},
        {"parent": 1, "kept_tokens": 62, "prompt_tokens": 80, "output_tokens": 4},  # a fork inside an output
        {"parent": 5, "kept_tokens": 0, "prompt_tokens": 10, "output_tokens": 8},
    ]
    lists = [[("system", -1, 30), ("user", -1, 10)], *([("tool", row % 2, 4)] for row in range(1, len(rows)))]
    columns = {name: cases.columns(rows).columns[name] for name in ("parent", "kept_tokens", "prompt_tokens")}
    batch = Batch.from_columns(
        **columns,
        output_tokens=[row["output_tokens"] * 1000 for row in rows],
        pause_ns=np.zeros(len(rows), int),
        arrival_ns=np.zeros(len(rows), int),
        trajectory=np.zeros(len(rows), int),
        segments=lists,
    )
    result = kvsim.estimate(batch, **DEVICE)
    attribution = assert_adds_up(result)
    steps, token = decode_steps(batch), decoding_of(result).token
    contexts: list[list[tuple[int, int]]] = []  # (who brought it, kind)
    by_kind, blame = np.zeros((len(rows), len(KINDS))), np.zeros((len(rows), len(KINDS)))
    for row, parts in enumerate(lists):
        parent = int(batch.parent[row])
        context = contexts[parent][: batch.kept_tokens[row]] if parent >= 0 else []
        for kind, _, tokens in parts:
            context = context + [(row, KINDS.index(kind))] * tokens
        context = context + [(row, OTHER)] * (int(batch.prompt_tokens[row]) - len(context))
        reads = dict.fromkeys(context, 0.0)
        for one in context:
            reads[one] += steps[row]
        reads[row, OWN] = reads.get((row, OWN), 0.0) + steps[row] * (steps[row] + 1) / 2
        ns = attribution.turns.decode_context_ns[row]
        assert ns == pytest.approx(sum(reads.values()) * token / 2 ** decoding_of(result).fraction_bits, abs=2)
        for (by, kind), count in reads.items():
            by_kind[row, kind] += count / sum(reads.values()) * ns
            blame[by, kind] += count / sum(reads.values()) * ns
        contexts.append(context + [(row, OWN)] * int(batch.output_tokens[row]))
    got = np.array(list(attribution.sources.decode_context_ns.values())).T
    np.testing.assert_allclose(got, by_kind, atol=1.1)
    calls = attribution.tool_calls
    np.testing.assert_allclose(calls.decode_context_ns, blame[calls.row, TOOL], atol=2)


def test_windows_blame_what_is_inside_them():
    """A model with windows reads a long context's beginning in its other layers only."""
    rows = [
        {"prompt_tokens": 4000, "output_tokens": 2},
        {"parent": 0, "kept_tokens": 4002, "prompt_tokens": 8002, "output_tokens": 21},
    ]
    batch = cases.columns(rows)
    lists = [[("system", -1, 4000)], [("tool", 0, 4000)]]
    columns = {name: column for name, column in batch.columns.items() if not name.startswith("waits_for")}
    batch = Batch.from_columns(**columns, segments=lists)
    for device in (DEVICE, WINDOWED):
        result = kvsim.estimate(batch, **device)
        sources, decoding = assert_adds_up(result).sources.decode_context_ns, decoding_of(result)
        in_window = sum(decoding.window - k for k in range(1, 21)) if decoding.window else 0
        expected = 1 + in_window * decoding.windowed_token / (20 * 4000 * decoding.token)
        assert expected > 1.02 or not decoding.window
        assert sources.tool[1] / sources.system[1] == pytest.approx(expected, rel=1e-5)


def test_a_fresh_prompt_is_what_it_is_made_of():
    rows = [
        {"prompt_tokens": 1000, "output_tokens": 5},
        {"parent": 0, "kept_tokens": 1005, "prompt_tokens": 2005, "output_tokens": 9, "pause_ns": 10**9},
    ]
    lists = [[("system", -1, 600), ("user", -1, 300)], [("tool", 1, 250), ("tool", 0, 750)]]
    columns = {name: column for name, column in cases.columns(rows).columns.items() if name[:5] != "waits"}
    batch = Batch.from_columns(**columns, segments=lists, tool=[-1, 0], tool_names=["ls", "cat"])
    attribution = assert_adds_up(kvsim.estimate(batch, **DEVICE))
    fresh = attribution.sources.fresh_ns
    assert fresh.system[0] > fresh.user[0] > fresh.other[0] > 0
    assert fresh.tool[0] == fresh.own[0] == fresh.kept[0] == 0
    # 1000 and 4 of 5 generated tokens are computed, in whole blocks 992: 8 prompt tokens and 5 generated come again.
    assert fresh.kept[1] / fresh.own[1] == pytest.approx(8 / 5, rel=0.05)
    assert fresh.tool[1] / fresh.kept[1] == pytest.approx(1000 / 8, rel=0.05)
    assert attribution.tools.fresh_ns[0] / attribution.tools.fresh_ns[1] == pytest.approx(3, rel=0.05)
    assert attribution.tools.tool_ns.tolist() == [10**9, 0, 0]
    assert attribution.tool_calls.response_tokens.tolist() == [1000]


def test_recompute_is_blamed_on_the_pause_and_on_who_came_in_it():
    """Two sessions that do not fit together; the second comes while the first waits for its tool."""
    first = session([(1600, 16), (160, 16)], pause_ns=60 * 10**9)
    second = [{"prompt_tokens": 1920, "output_tokens": 16, "arrival_ns": 10 * 10**9}]
    batch = turns(first + second)
    engine = kvsim.EngineConfig(num_gpu_blocks_override=151, max_model_len=2000)
    run = kvsim.simulate(batch, **DEVICE, engine=engine, evictions=True)
    attribution = assert_adds_up(run)
    lost = attribution.evictions
    # 100 of the first's blocks have a key; the second needs 121 where 50 are free: 71 go, of the prefix's end.
    assert (lost.row.tolist(), lost.by.tolist(), lost.lost_in.tolist(), lost.blocks.tolist()) == (
        [1],
        [2],
        ["pause"],
        [71],
    )
    assert run.served.release_ns[2] <= lost.last_ns[0] < run.served.release_ns[1]
    assert attribution.tool_calls.row.tolist() == [1]
    assert attribution.tool_calls.recompute_ns.tolist() == run.served.recompute_ns[1:2].tolist() != [0]
    unlogged = attribute(kvsim.simulate(batch, **DEVICE, engine=engine))
    assert unlogged.evictions.by.tolist() == [-1]
    with pytest.raises(kvsim.InputError, match="evictions=True"):
        _ = unlogged.result.evictions


def test_what_is_lost_while_a_turn_waits_is_not_blamed_on_the_pause():
    """A turn comes back at once, and waits behind one that takes its blocks."""
    first = session([(1600, 16), (160, 16)], pause_ns=0)
    second = [{"prompt_tokens": 1920, "output_tokens": 200, "priority": -1, "arrival_ns": 10**7}]
    batch = turns(first + second)
    engine = kvsim.EngineConfig(num_gpu_blocks_override=151, max_model_len=2200, scheduling_policy="priority")
    attribution = assert_adds_up(kvsim.simulate(batch, **DEVICE, engine=engine, evictions=True))
    assert set(attribution.evictions.by.tolist()) == {2}
    assert set(attribution.evictions.lost_in.tolist()) == {"queue"}
    assert attribution.tool_calls.recompute_ns.sum() == 0


def test_another_replica_never_had_it():
    batch = turns(session([(1600, 16), (160, 16)]))
    run = kvsim.simulate(batch, **DEVICE, replicas=2, evictions=True)
    lost = assert_adds_up(run).evictions
    assert (lost.by.tolist(), lost.lost_in.tolist()) == ([-1], ["absent"])


SOURCES = [
    "claude-code-log/edge_cases.jsonl",
    "claude-code-log/representative_messages.jsonl",
    "claude-code-log/todowrite_examples.jsonl",
    "kv-cache-tester/derived.excerpt.jsonl",
    "kv-cache-tester/sessions.jsonl.gz",
    "kv-cache-tester/trace_0291.json.gz",
    "mooncake/conversation_trace.head200.jsonl",
    "openhands/output.excerpt.jsonl",
    "openhands-sdk/llm-logs",
    "openhands-sdk/nonfncall-llm-logs",
    "skyrl/nq.jsonl",
    "slime/0.pt",
    "tau-bench/gpt-4o-airline.excerpt.json",
    "trl/completions_00001.parquet",
    "verl/7.jsonl",
    "verl-tool/torl-step-1.json",
]


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_of_traces_adds_up(logs, source):
    batch = kvsim.read(logs / source)
    long = int((batch.prompt_tokens + batch.output_tokens).max()) + 100
    engine = kvsim.EngineConfig(max_model_len=long, num_gpu_blocks_override=long // 16 + 200)
    for load in LOADS.values():
        if load.concurrent == 1:
            assert_adds_up(kvsim.estimate(batch, **DEVICE, load=load, engine=engine))
    for device in (DEVICE, WINDOWED):
        room = engine if device is DEVICE else kvsim.EngineConfig(max_model_len=long, num_gpu_blocks_override=long // 4)
        result = kvsim.simulate(batch, **device, engine=room, arrivals="closed:8", evictions=True)
        assert_adds_up(result)


def test_the_whole_corpora_add_up(shared: Path) -> None:
    folder = shared / "data/traces"
    for path in ("kv-cache-tester/all_710_requests_derived.jsonl.gz", "mooncake/conversation_trace.jsonl"):
        batch = kvsim.read(folder / path)
        engine = kvsim.EngineConfig(max_model_len=1_000_000, num_gpu_blocks_override=70_000)
        assert_adds_up(kvsim.estimate(batch, **DEVICE, engine=engine, load=kvsim.Load(kv="ttl:30")))
        assert_adds_up(kvsim.simulate(batch, **DEVICE, engine=engine, arrivals="closed:16", evictions=True))


def test_segments_may_be_packed_already():
    batch = turns([{"prompt_tokens": 10}])
    packed = Segments(*(np.array(column, np.int64) for column in ([0, 1], [TOOL], [-1], [4])))
    batch = Batch.from_columns(**{n: c for n, c in batch.columns.items() if n != "prefix"}, segments=packed)
    assert attribute(kvsim.estimate(batch, **DEVICE)).tools.response_tokens.tolist() == [4]


def test_its_sums_are_plain_json(logs):
    batch = kvsim.read(logs / "tau-bench/gpt-4o-airline.excerpt.json")
    attribution = attribute(kvsim.estimate(batch, **DEVICE))
    told = json.loads(json.dumps(attribution.to_dict()))
    assert told["run"]["fresh_ns"] == sum(told["run"]["by_source"]["fresh_ns"].values()) > 0
    assert sum(one["decode_context_ns"] for one in told["trajectories"]) == told["run"]["decode_context_ns"]
    assert [one["tool"] for one in told["tools"]] == [*batch.tool_names, ""]


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("device", [DEVICE, WINDOWED], ids=["full", "windows"])
def test_under_pressure_preemption_and_eviction_are_told_apart(device, asynchronous):
    """Sessions that share a prefix, by priority, in a cache that is too small for those in flight."""
    rows = []
    for number in range(12):
        root = {"prefix": 0, "kept_tokens": 400, "prompt_tokens": 900, "output_tokens": 300, "priority": number % 3}
        rows += [root, {"parent": 2 * number, "kept_tokens": 1200, "prompt_tokens": 1500, "output_tokens": 300}]
        rows[-1] |= {"pause_ns": 10**8, "priority": number % 3}
    batch = turns(rows)
    room = {"max_model_len": 2000, "num_gpu_blocks_override": 400 if device is DEVICE else 700}
    engine = kvsim.EngineConfig(**room, scheduling_policy="priority", async_scheduling=asynchronous)
    run = kvsim.simulate(batch, **device, engine=engine, arrivals="closed:12", evictions=True)
    attribution = assert_adds_up(run)
    assert run.engine.preemptions > 0
    preempted = run.served.preemptions > 0
    assert attribution.turns.decode_beside_ns[preempted].min() > 0
    lost = attribution.evictions
    assert (lost.by >= 0).any()
    assert (lost.recompute_ns[lost.by >= 0] > 0).all()
    again = run.served.hittable_tokens - run.served.cached_tokens
    if device is DEVICE:  # every block that was lost is found in the log
        np.testing.assert_array_equal(
            np.bincount(lost.row, lost.blocks, batch.turns)[again > 0], (again // 16)[again > 0]
        )
        assert (lost.by[np.isin(lost.row, np.flatnonzero(again > 0))] >= 0).all()
