"""The neutral trace file: byte-equal round trips, exact times, and refusals that say where and why."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvsim.builder import Builder
from kvsim.errors import InputError
from kvsim.logs import read
from kvsim.logs.neutral import lines
from kvsim.trajectory import SEGMENT_KINDS, Batch

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
NS = st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 10**15), st.integers(0, 10**6).map(lambda s: s * 10**9))


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Random DAGs of turns with every optional column, rows of several trajectories interleaved."""
    builder = Builder()
    ids = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    for id in ids:
        builder.trajectory(id)
    owners = draw(st.permutations([*range(len(ids)), *draw(st.lists(st.integers(0, len(ids) - 1), max_size=8))]))
    tools, prefixes = st.none() | st.sampled_from(["bash", 'a"\\b', "ü"]), st.none() | st.sampled_from(["p", "q/1"])
    lengths: list[int] = []
    for owner in owners:
        row = len(lengths)
        some = st.integers(0, row - 1) if row else st.nothing()
        parent = draw(st.just(-1) | some)
        after = draw(st.sampled_from([parent, -1]) | some)
        prompt, output = draw(st.integers(1, 5000)), draw(st.integers(0, 500))
        prefix = draw(prefixes) if parent < 0 else None
        most = min(prompt, lengths[parent]) if parent >= 0 else prompt if prefix else 0
        kept = draw(st.integers(0, most))
        segments, left = [], prompt - kept
        for kind in draw(st.lists(st.sampled_from(SEGMENT_KINDS), max_size=3)):
            tokens = draw(st.integers(0, left))
            left -= tokens
            segments.append((kind, draw(tools), tokens))
        builder.turn(
            trajectory=owner,
            parent=parent,
            after=after,
            kept_tokens=kept,
            prompt_tokens=prompt,
            output_tokens=output,
            pause_ns=draw(NS),
            arrival_ns=draw(NS),
            waits_for=draw(st.lists(some, max_size=3)) if row else [],
            prefix=prefix,
            tool=draw(tools),
            priority=draw(st.integers(-2, 2)),
            segments=segments,
            cached_tokens=draw(st.integers(-1, prompt)),
            ttft_ns=draw(st.just(-1) | NS),
            e2e_ns=draw(st.just(-1) | NS),
            estimated_tokens=draw(st.integers(0, prompt - kept + output)),
        )
        lengths.append(prompt + output)
    return builder.build()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=batches())
def test_round_trip_is_byte_equal(batch: Batch, tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    batch.to_jsonl(first)
    again = read(first)
    again.to_jsonl(second)
    assert first.read_bytes() == second.read_bytes()
    assert again.turns == batch.turns
    assert list(again.ids) == list(batch.ids)
    assert sorted(again.prompt_tokens) == sorted(batch.prompt_tokens)
    assert again.report is not None
    assert again.report.adds_up
    if (batch.trajectory[1:] >= batch.trajectory[:-1]).all():  # rows stand as in the file: every column comes back
        assert (
            {name: column.tolist() for name, column in again.columns.items()}
            == {name: column.tolist() for name, column in batch.columns.items()}
            or batch.tool_names != again.tool_names
            or batch.prefix_names != again.prefix_names
        )


def test_lines_are_what_json_dumps_writes(tmp_path: Path) -> None:
    lines_by_hand = [
        {
            "id": "a",
            "arrival_s": 1.5,
            "prefix": "shared",
            "turns": [
                {"kept_tokens": 400, "prompt_tokens": 900, "output_tokens": 120},
                {"parent": 0, "kept_tokens": 1020, "prompt_tokens": 1500, "output_tokens": 80, "pause_s": 2.0},
                {"parent": 0, "after": 1, "kept_tokens": 1020, "prompt_tokens": 1100, "output_tokens": 1},
            ],
        },
        {
            "id": "größe",
            "turns": [
                {"parent": "a/1", "after": None, "kept_tokens": 7, "prompt_tokens": 9, "output_tokens": 0},
                {
                    "parent": 0,
                    "kept_tokens": 9,
                    "prompt_tokens": 30,
                    "output_tokens": 2,
                    "pause_s": 0.25,
                    "waits_for": ["a/2"],
                    "tool": "bash",
                    "priority": -1,
                    "segments": [{"kind": "tool", "tool": "bash", "tokens": 20}, {"kind": "user", "tokens": 1}],
                    "cached_tokens": 0,
                    "ttft_s": 0.125,
                    "e2e_s": 1.0,
                    "estimated_tokens": 3,
                },
            ],
        },
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines_by_hand)
    path = tmp_path / "hand.jsonl"
    path.write_text(text, encoding="utf-8")
    batch = read(path)
    assert "".join(lines(batch)) == text
    assert batch.parent.tolist() == [-1, 0, 0, 1, 3]
    assert batch.after.tolist() == [-1, 0, 1, -1, 3]
    assert batch.arrival_ns.tolist() == [1_500_000_000, 0, 0, 0, 0]
    assert batch.waits_for is not None
    assert batch.waits_for[4] == [2]


@pytest.mark.parametrize(
    ("text", "ns"),
    [("1e-05", 10_000), ("0.123456789", 123_456_789), ("2", 2 * 10**9), ("1234567.000000001", 1234567 * 10**9 + 1)],
)
def test_times_are_read_exactly(tmp_path: Path, text: str, ns: int) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": "a", "arrival_s": ' + text + ', "turns": [' + TURN + "]}\n")
    assert read(path).arrival_ns.tolist() == [ns]


TURN = '{"prompt_tokens": 5, "output_tokens": 1}'
BROKEN = {
    "ten decimals": (
        '{"id": "a", "turns": [{"prompt_tokens": 5, "output_tokens": 1, "pause_s": 0.0000000001}]}',
        "turns[0].pause_s",
    ),
    "float noise": ('{"id": "a", "arrival_s": 0.30000000000000004, "turns": [' + TURN + "]}", "arrival_s"),
    "negative time": (
        '{"id": "a", "turns": [{"prompt_tokens": 5, "output_tokens": 1, "pause_s": -1}]}',
        "turns[0].pause_s",
    ),
    "absurd time": ('{"id": "a", "arrival_s": 1e30, "turns": [' + TURN + "]}", "arrival_s"),
    "absurdly small": ('{"id": "a", "arrival_s": 1e-99999, "turns": [' + TURN + "]}", "arrival_s"),
    "time as text": (
        '{"id": "a", "turns": [{"prompt_tokens": 5, "output_tokens": 1, "pause_s": "NaN"}]}',
        "turns[0].pause_s",
    ),
    "time as text at the top": ('{"id": "a", "arrival_s": "Infinity", "turns": [' + TURN + "]}", "arrival_s"),
    "time of an absurd exponent": (
        '{"id": "a", "arrival_s": 1e9999999999999999999, "turns": [' + TURN + "]}",
        "arrival_s",
    ),
    "NaN": ('{"id": "a", "arrival_s": NaN, "turns": [' + TURN + "]}", None),
    "negative count": ('{"id": "a", "turns": [{"prompt_tokens": -5, "output_tokens": 1}]}', "turns[0].prompt_tokens"),
    "fraction": ('{"id": "a", "turns": [{"prompt_tokens": 5.5, "output_tokens": 1}]}', "turns[0].prompt_tokens"),
    "absurd count": ('{"id": "a", "turns": [{"prompt_tokens": 1e30, "output_tokens": 1}]}', "turns[0].prompt_tokens"),
    "text for count": ('{"id": "a", "turns": [{"prompt_tokens": "5", "output_tokens": 1}]}', "turns[0].prompt_tokens"),
    "missing count": ('{"id": "a", "turns": [{"prompt_tokens": 5}]}', "turns[0].output_tokens"),
    "no prompt": ('{"id": "a", "turns": [{"prompt_tokens": 0, "output_tokens": 1}]}', "prompt_tokens"),
    "no turns": ('{"id": "a", "turns": []}', "turns"),
    "unknown key": ('{"id": "a", "turns": [{"prompt_tokens": 5, "output_tokens": 1, "pauses": 2}]}', "turns[0].pauses"),
    "unknown top key": ('{"id": "a", "ids": 1, "turns": [' + TURN + "]}", "ids"),
    "no such turn": (
        '{"id": "a", "turns": [{"parent": 3, "prompt_tokens": 5, "output_tokens": 1}]}',
        "turns[0].parent",
    ),
    "no such line": ('{"id": "a", "turns": [{"parent": "b/0", "prompt_tokens": 5, "output_tokens": 1}]}', "parent"),
    "bad reference": ('{"id": "a", "turns": [{"parent": "good/x", "prompt_tokens": 5, "output_tokens": 1}]}', "parent"),
    "kept too much": (
        '{"id": "a", "turns": [' + TURN + ', {"parent": 0, "kept_tokens": 7, "prompt_tokens": 9, "output_tokens": 1}]}',
        "kept_tokens",
    ),
    "cycle": (
        '{"id": "a", "turns": [{"parent": 1, "prompt_tokens": 5, "output_tokens": 1},'
        ' {"parent": 0, "prompt_tokens": 5, "output_tokens": 1}]}',
        "parent",
    ),
    "unknown kind": (
        '{"id": "a", "turns": [{"prompt_tokens": 5, "output_tokens": 1, "segments": [{"kind": "x", "tokens": 1}]}]}',
        "turns[0].segments",
    ),
    "same id": ('{"id": "good", "turns": [' + TURN + "]}", "id"),
    "trailing garbage": ('{"id": "a", "turns": [' + TURN + "]} x", None),
    "cut off": ('{"id": "a", "turns": [{"prompt_tokens"', None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_lines_are_refused_or_dropped(tmp_path: Path, name: str) -> None:
    text, field = BROKEN[name]
    path = tmp_path / "broken.jsonl"
    good, last = ('{"id": "' + id + '", "turns": [' + TURN + "]}" for id in ("good", "last"))
    path.write_text("\n".join([good, text, last]) + "\n")
    with pytest.raises(InputError) as caught:
        read(path, "neutral")
    assert caught.value.file == str(path)
    assert caught.value.line == 2
    assert caught.value.field == field
    assert caught.value.remedy
    batch = read(path, "neutral", lenient=True)
    assert list(batch.ids) == ["good", "last"]
    assert batch.report is not None
    assert batch.report.adds_up
    assert batch.report.dropped.total() == 1


@pytest.mark.parametrize(
    ("value", "problem"),
    [("1e9", "outside 0 to 100000000 s"), ("-1", "outside"), ("0.1234567891", "nine decimals"), ('"1"', "no number")],
)
def test_what_is_wrong_with_a_time(tmp_path: Path, value: str, problem: str) -> None:
    path = tmp_path / "time.jsonl"
    path.write_text('{"id": "a", "arrival_s": ' + value + ', "turns": [' + TURN + "]}\n")
    with pytest.raises(InputError, match=problem):
        read(path, "neutral")


@pytest.mark.parametrize("name", ["cycle", "no such turn", "kept too much"])
def test_remedies_speak_of_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(BROKEN[name][0] + "\n")
    with pytest.raises(InputError) as caught:
        read(path, "neutral")
    assert "row number" not in str(caught.value)
    assert ("other-id/3" in caught.value.remedy) == (name != "kept too much")


def test_objects_may_hold_what_computing_gives() -> None:
    turns = [
        {"prompt_tokens": np.int64(5), "output_tokens": np.int32(1), "pause_s": 0.1 + 0.2},
        {"parent": np.int64(0), "prompt_tokens": 9, "output_tokens": 1, "pause_s": np.float64(0.1) + 0.2},
    ]
    batch = Batch.from_trajectories([{"id": "a", "arrival_s": np.float32(0.5), "turns": turns}])
    assert batch.pause_ns.tolist() == [300_000_000, 300_000_000]
    assert batch.arrival_ns.tolist() == [500_000_000, 0]
    with pytest.raises(InputError):
        Batch.from_trajectories([{"id": "a", "arrival_s": float("nan"), "turns": turns}])


def test_a_bad_figure_that_is_not_needed(tmp_path: Path) -> None:
    path = tmp_path / "figures.jsonl"
    more = '"cached_tokens": 50, "ttft_s": -1, "segments": [{"kind": "user", "tokens": 50}]'
    path.write_text('{"id": "a", "turns": [{"prompt_tokens": 10, "output_tokens": 1, ' + more + "}]}\n")
    with pytest.raises(InputError):
        read(path, "neutral")
    batch = read(path, "neutral", lenient=True)
    assert (batch.turns, batch.cached_tokens, batch.ttft_ns, batch.segments) == (1, None, None, None)
    assert batch.report is not None
    assert batch.report.flagged.total() == 3


def test_what_depends_on_a_dropped_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "chain.jsonl"
    path.write_text(
        '{"id": "c", "turns": [{"parent": "b/0", "prompt_tokens": 5, "output_tokens": 1}]}\n'
        '{"id": "b", "turns": [{"parent": "a/0", "prompt_tokens": 5, "output_tokens": 1}]}\n'
        '{"id": "a", "turns": [{"prompt_tokens": -1, "output_tokens": 1}]}\n'
        '{"id": "d", "turns": [{"prompt_tokens": 1, "output_tokens": 1}]}\n'
    )
    batch = read(path, lenient=True)
    assert list(batch.ids) == ["d"]
    assert batch.report is not None
    assert batch.report.adds_up
    assert batch.report.dropped.total() == 3


def test_ids_that_clash_across_files_get_a_number(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text(
            '{"id": "a", "turns": [' + TURN + ']}\n{"id": "b", "turns": '
            '[{"parent": "a/0", "kept_tokens": 6, "prompt_tokens": 6, "output_tokens": 1}]}\n'
        )
    batch = read(tmp_path)
    assert list(batch.ids) == ["a", "b", "a#2", "b#2"]
    assert batch.parent.tolist() == [-1, 0, -1, 2]


def test_writing_replaces_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    Batch.from_columns(
        parent=[-1], kept_tokens=[0], prompt_tokens=[1], output_tokens=[1], pause_ns=[0], arrival_ns=[0], trajectory=[0]
    ).to_jsonl(path)
    assert path.read_text() == '{"id": "0", "turns": [{"prompt_tokens": 1, "output_tokens": 1}]}\n'
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]


def test_many_broken_lines_are_left_out_in_one_go(tmp_path: Path) -> None:
    bad: dict[str, dict[str, Any]] = {
        "kept": {"kept_tokens": 3},
        "cycle": {"parent": 0},
        "next": {"parent": "cycle-{i}/0"},
        "waits": {"waits_for": ["next-{i}/0"]},
        "segments": {"parent": None, "kept_tokens": 5},
        "good": {},
    }
    path = tmp_path / "many.jsonl"
    turn = {"prompt_tokens": 5, "output_tokens": 1}
    with path.open("w") as stream:
        for i in range(400):
            for name, more in bad.items():
                text = json.dumps({"id": f"{name}-{i}", "turns": [turn | more]})
                stream.write(text.replace("{i}", str(i)) + "\n")
    began = time.process_time()
    batch = read(path, lenient=True)
    assert time.process_time() - began < 2
    assert list(batch.ids) == [f"good-{i}" for i in range(400)]
    assert batch.report is not None
    assert batch.report.adds_up
    assert batch.report.dropped == {"kept_tokens": 800, "parent": 1200}


def test_a_long_chain_behind_a_broken_line(tmp_path: Path) -> None:
    path = tmp_path / "chain.jsonl"
    turn = {"prompt_tokens": 5, "output_tokens": 1}
    with path.open("w") as stream:
        stream.write(json.dumps({"id": "0", "turns": [turn | {"kept_tokens": 1}]}) + "\n")
        for i in range(1, 5000):
            stream.write(json.dumps({"id": str(i), "turns": [turn | {"parent": f"{i - 1}/0"}]}) + "\n")
        stream.write(json.dumps({"id": "good", "turns": [turn]}) + "\n")
    began = time.process_time()
    batch = read(path, lenient=True)
    assert time.process_time() - began < 2
    assert list(batch.ids) == ["good"]
    assert batch.report is not None
    assert batch.report.dropped == {"kept_tokens": 5000}
