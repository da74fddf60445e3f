"""The batch's door: what is accepted, and how each kind of bad input is refused."""

from __future__ import annotations

import numpy as np
import pytest
from cases import batches, columns, linear
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim import Batch, InputError
from kvsim.builder import Builder
from kvsim.trajectory import Ragged, Segments

GOOD = {
    "parent": [-1, 0],
    "kept_tokens": [0, 110],
    "prompt_tokens": [100, 200],
    "output_tokens": [10, 20],
    "pause_ns": [0, 10**9],
    "arrival_ns": [0, 0],
    "trajectory": [0, 0],
}


def test_columns_come_back_as_given():
    batch = Batch.from_columns(**GOOD)
    assert (len(batch), batch.turns) == (1, 2)
    for name, values in GOOD.items():
        assert batch.columns[name].dtype == np.int64
        assert batch.columns[name].tolist() == values
    assert batch.columns["after"].tolist() == [-1, 0]
    assert list(batch.ids) == ["0"]


def test_int64_columns_are_not_copied_and_are_read_only():
    prompt = np.array([100, 200])
    batch = Batch.from_columns(**{**GOOD, "prompt_tokens": prompt})
    assert np.shares_memory(batch.prompt_tokens, prompt)
    with pytest.raises(ValueError, match="read-only"):
        batch.prompt_tokens[0] = 1
    prompt[0] = 100  # the caller's own array stays writable


BAD = [
    ("parent", [-1, 5], "row 1", "parent"),
    ("parent", [-2, 0], "row 0", "parent"),
    ("parent", [1, 0], "cycle", "parent"),
    ("parent", [-1, 1], "cycle", "parent"),
    ("kept_tokens", [0, 111], "111, outside 0 to 110", "kept_tokens"),
    ("kept_tokens", [1, 0], "outside 0 to 0", "kept_tokens"),
    ("kept_tokens", [0, -1], "-1", "kept_tokens"),
    ("prompt_tokens", [100, 0], "0, outside 1", "prompt_tokens"),
    ("prompt_tokens", [100, 90], "outside 0 to 90", "kept_tokens"),
    ("prompt_tokens", [100, 2**40], "outside 1", "prompt_tokens"),
    ("output_tokens", [10, -1], "-1", "output_tokens"),
    ("pause_ns", [0, -5], "-5", "pause_ns"),
    ("pause_ns", [0, 10**18], "outside", "pause_ns"),
    ("arrival_ns", [-1, 0], "-1", "arrival_ns"),
    ("trajectory", [0, 2], "outside|no turn", "trajectory"),
    ("trajectory", [1, 1], "trajectory 0 has no turn", "trajectory"),
    ("prompt_tokens", [100.0, float("nan")], "nan", "prompt_tokens"),
    ("prompt_tokens", [100.0, float("inf")], "inf", "prompt_tokens"),
    ("prompt_tokens", [100.5, 200.0], "100.5", "prompt_tokens"),
    ("prompt_tokens", ["a", "b"], "dtype", "prompt_tokens"),
    ("prompt_tokens", [[100, 200]], "dimensions", "prompt_tokens"),
    ("prompt_tokens", [100], "1 rows where 'parent' has 2", "prompt_tokens"),
    ("prompt_tokens", np.array([2**63, 5], np.uint64), "2\\^63", "prompt_tokens"),
    ("after", [-1, 7], "row 1", "after"),
    ("waits_for", [[1], []], "cycle", "waits_for"),
    ("waits_for", [[], [9]], "9", "waits_for"),
    ("prefix", [-1, 0], "row 1", "prefix"),
    ("cached_tokens", [101, -1], "101", "cached_tokens"),
    ("ttft_ns", [-2, -1], "-2", "ttft_ns"),
    ("priority", [2**31, 0], "outside", "priority"),
    ("segments", [[("user", -1, 101)], []], "101", "segments"),
    ("segments", [[("human", -1, 1)], []], "human", "segments"),
    ("segments", Segments(*(np.array(part) for part in ([0, 1, 1], [9], [-1], [1]))), "9", "segments"),
    ("segments", [[("user", -1, 5.9)], []], "5.9", "segments"),
    ("waits_for", [[], [0.9]], "0.9", "waits_for"),
    ("waits_for", Ragged(np.array([0, 0, 500]), np.array([0])), "do not pack", "waits_for"),
    ("waits_for", Ragged(np.array([1, 0, 1]), np.array([0])), "do not pack", "waits_for"),
    ("tool", [3, -5], "-5", "tool"),
    ("estimated_tokens", [111, 0], "111", "estimated_tokens"),
]


@pytest.mark.parametrize(("name", "values", "message", "field"), BAD, ids=[f"{b[0]}-{b[2]}" for b in BAD])
def test_bad_columns_are_refused(name, values, message, field):
    with pytest.raises(InputError, match=message) as refused:
        Batch.from_columns(**{**GOOD, name: values})
    assert refused.value.field == field
    assert refused.value.remedy


def test_pauses_that_would_overflow_a_clock_are_refused():
    rows = 30
    with pytest.raises(InputError, match="overflow"):
        columns([{"parent": row - 1, "pause_ns": 10**17, "prompt_tokens": 5} for row in range(rows)])


def test_a_long_cycle_is_found_wherever_it_hides():
    rows = [{"parent": row - 1} for row in range(1000)]
    rows[400]["after"] = 900
    with pytest.raises(InputError, match="cycle") as refused:
        columns(rows)
    row = int(str(refused.value).split("row ")[1].split(":")[0])
    assert 400 <= row <= 900


def test_two_trajectories_of_one_name_are_refused():
    two = {**GOOD, "parent": [-1, -1], "kept_tokens": [0, 0], "trajectory": [0, 1]}
    with pytest.raises(InputError, match="two trajectories are called 'a'"):
        Batch.from_columns(**two, ids=["a", "a"])


def test_tool_numbers_need_no_names():
    batch = Batch.from_columns(**GOOD, tool=[2**40, -1])
    assert batch.tool_names[2**40] == str(2**40)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50)), min_size=1, max_size=30))
def test_shared_tokens_are_the_longest_earlier_root_of_the_prefix(roots):
    rows = [{"prefix": name, "kept_tokens": kept, "prompt_tokens": 60} for name, kept in roots]
    expected = []
    for number, (name, kept) in enumerate(roots):
        expected.append(min(kept, max((other for n, other in roots[:number] if n == name), default=0)))
    assert columns(rows).shared_tokens.tolist() == expected


def test_select_takes_masks_and_refuses_numbers_out_of_range():
    batch = linear(3, 4)
    assert batch.select(np.array([False, True, False, True])).ids == batch.select([1, 3]).ids
    for wrong in ([4], [-1], [0.5]):
        with pytest.raises(InputError, match="trajectory"):
            batch.select(wrong)


def test_select_renumbers_and_refuses_dangling_references():
    batch = linear(3, 4)
    chosen = batch.select([1, 3])
    assert len(chosen) == 2
    assert chosen.ids == ["1", "3"]
    assert chosen.parent.tolist() == [-1, 0, 1, -1, 3, 4]
    np.testing.assert_array_equal(chosen.prompt_tokens[:3], batch.prompt_tokens[3:6])
    forked = columns([{}, {"parent": 0, "trajectory": 1}])
    with pytest.raises(InputError, match="left out"):
        forked.select([1])


@settings(max_examples=100, deadline=None)
@given(batches())
def test_selecting_everything_changes_nothing(batch):
    same = batch.select(np.arange(len(batch)))
    assert same.columns.keys() == batch.columns.keys()
    for name, column in batch.columns.items():
        np.testing.assert_array_equal(same.columns[name], column)


def test_builder_names_file_and_line():
    builder = Builder()
    builder.trajectory("run-7", file="log.jsonl", line=12)
    with pytest.raises(InputError, match=r"log\.jsonl:12, field 'prompt_tokens'"):
        builder.turn(prompt_tokens=0, output_tokens=1)
    row = builder.turn(prompt_tokens=10, output_tokens=5)
    builder.turn(prompt_tokens=20, output_tokens=5, parent=row, kept_tokens=16)
    with pytest.raises(InputError, match=r"log\.jsonl:12.*turn 1 of trajectory 'run-7'.*outside 0 to 15"):
        builder.build()


def test_builder_rolls_back_to_a_mark():
    builder = Builder()
    builder.trajectory("kept")
    builder.turn(prompt_tokens=10, output_tokens=5, segments=[("user", None, 10)])
    mark = builder.mark()
    builder.trajectory("dropped")
    builder.turn(prompt_tokens=10, output_tokens=5, waits_for=[0], tool="bash", segments=[("user", None, 3)])
    builder.roll_back(mark)
    batch = builder.build()
    assert list(batch.ids) == ["kept"]
    assert batch.waits_for is None
    assert batch.tool is None


def test_an_empty_builder_makes_an_empty_batch():
    assert len(Builder().build()) == 0


def test_python_objects_make_a_batch():
    turns = [
        {"prompt_tokens": 900, "output_tokens": 120},
        {"parent": 0, "kept_tokens": 1020, "prompt_tokens": 1500, "output_tokens": 80, "pause_s": 0.1},
    ]
    batch = Batch.from_trajectories([{"id": "a", "turns": turns}, {"id": "b", "arrival_s": 1.5, "turns": turns}])
    assert batch.parent.tolist() == [-1, 0, -1, 2]
    assert batch.pause_ns.tolist() == [0, 10**8, 0, 10**8]
    assert batch.arrival_ns.tolist() == [0, 0, 1_500_000_000, 0]
    for broken in ({"prompt_tokens": -1}, {"prompt_tokens": float("nan")}, {"promt_tokens": 1}):
        with pytest.raises(InputError, match="trajectories:1"):
            Batch.from_trajectories([{"id": "a", "turns": turns}, {"id": "b", "turns": [{**turns[0], **broken}]}])
