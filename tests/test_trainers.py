"""What trainers hold of their rollouts, as turns: marks, masks, clocks, and the fields of each trainer."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import kvsim
from kvsim.errors import InputError
from kvsim.logs.turns import dump, kept_tokens, load
from kvsim.trainers import (
    ToolClock,
    Turn,
    TurnMarks,
    art,
    measured_share,
    openrlhf,
    price,
    skyrl,
    slime,
    turns_of_mask,
    verifiers,
    verl_tool,
)
from kvsim.trainers.verl import ComputeScore

#: A prompt of 5 tokens; the model wrote 3, read 4, wrote 2, read 2, wrote 1; then 2 tokens nobody answered.
MASK = [1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 0]
COUNTS = [(5, 3), (12, 2), (16, 1)]

EOS, BEGIN, ASSISTANT = 9, 7, 8
USER = 6
MARKS = TurnMarks(begin=(BEGIN, ASSISTANT), end=frozenset({EOS}), opens=(BEGIN, USER))


def counts(turns: list[Turn]) -> list[tuple[int, int]]:
    return [(turn.prompt_tokens, turn.output_tokens) for turn in turns]


@pytest.fixture(scope="module")
def term() -> kvsim.CostTerm:
    return kvsim.CostTerm("Qwen/Qwen3-8B", "h100-sxm", unit="latency_s")


def test_masks_to_turns() -> None:
    turns = turns_of_mask(5, MASK, pauses_s=[1.5], tools=[["a", "b"]])
    assert counts(turns) == COUNTS
    assert [turn.pause_s for turn in turns] == [0.0, 1.5, None]
    assert [turn.tools for turn in turns] == [[], ["a", "b"], []]
    assert [turn.pause_s for turn in turns_of_mask(5, MASK, total_pause_s=3.0)] == [0.0, 1.5, 1.5]


@pytest.mark.parametrize("mask", [[], [0, 0, 0], np.zeros(4, np.int8)])
def test_nothing_written_is_one_turn_without_output(mask: Any) -> None:
    assert counts(turns_of_mask(5, mask)) == [(5, 0)]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, 2, EOS], [(0, 3)]),
        ([1, 2], [(0, 2)]),  # cut before it ended
        ([1, EOS, 3, 4, EOS, 5, BEGIN, ASSISTANT, 6, EOS], [(0, 2), (8, 10)]),  # responses end like turns do
        ([1, EOS, 3, BEGIN, ASSISTANT], [(0, 2), (5, 5)]),  # cut before it wrote again
        ([1, BEGIN, ASSISTANT, 2, EOS], [(0, 5)]),  # a model may write the mark itself
        ([1, EOS, 3, BEGIN, 4, BEGIN, ASSISTANT, 5], [(0, 2), (7, 8)]),
        ([1, EOS, 3, 4], [(0, 2)]),
        ([1, 2, BEGIN, USER, 3, EOS, BEGIN, ASSISTANT, 4], [(0, 2), (8, 9)]),  # cut, and answered all the same
        ([1, EOS, 2, BEGIN, USER, 3, EOS, BEGIN, ASSISTANT, BEGIN, 4], [(0, 2), (9, 11)]),
        ([EOS, BEGIN, ASSISTANT, EOS, BEGIN, ASSISTANT, EOS], [(0, 1), (3, 4), (6, 7)]),
        ([], [(0, 0)]),
    ],
)
def test_marks_of_a_template(ids: list[int], expected: list[tuple[int, int]]) -> None:
    assert MARKS.stretches(ids) == expected


def test_marks_find_what_a_mask_says() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        ids: list[int] = []
        mask: list[int] = []
        turns = int(rng.integers(1, 6))
        for number in range(turns):
            written = [*rng.integers(10, 20, rng.integers(0, 5)).tolist(), EOS]
            read = [*rng.integers(9, 20, rng.integers(0, 5)).tolist(), BEGIN, ASSISTANT]
            ids += written + (read if number + 1 < turns else [])
            mask += [1] * len(written) + ([0] * len(read) if number + 1 < turns else [])
        begins, ends = zip(*MARKS.stretches(ids), strict=True)
        found = np.zeros(len(ids), int)
        for begin, end in zip(begins, ends, strict=True):
            found[begin:end] = 1
        assert found.tolist() == mask


def test_turns_as_text() -> None:
    turns = turns_of_mask(5, MASK, pauses_s=[1.5, None], tools=[["a"]])
    assert load(dump(turns)) == turns
    assert load([{"prompt_tokens": 5, "output_tokens": 3}]) == [Turn(5, 3)]
    for bad in ("[", '[{"prompt_tokens": -1, "output_tokens": 0}]', [{"prompt_tokens": 1}], 7):
        with pytest.raises(InputError, match="kvsim_turns"):
            load(bad)


def test_what_is_kept_of_the_turn_before() -> None:
    kept = [kept_tokens(Turn(prompt, 1), Turn(8, 2)) for prompt in (20, 10, 9, 8, 3, 0)]
    assert kept == [10, 10, 8, 8, 0, 0]
    assert kept_tokens(Turn(20, 1), None) == 0


def test_costs_are_those_of_the_batch(term: kvsim.CostTerm) -> None:
    turns = turns_of_mask(5, MASK, pauses_s=[1.5, 0.5])
    batch = kvsim.Batch.from_columns(
        parent=[-1, 0, 1],
        kept_tokens=[0, 8, 14],
        prompt_tokens=[5, 12, 16],
        output_tokens=[3, 2, 1],
        pause_ns=[0, 1_500_000_000, 500_000_000],
        arrival_ns=[0, 0, 0],
        trajectory=[0, 0, 0],
    )
    assert price(term, [turns, turns]).trajectories.tolist() == [float(term(batch)[0])] * 2


def test_pauses_that_nobody_measured() -> None:
    rollouts = [turns_of_mask(5, MASK, pauses_s=[None, 0.5], tools=[["a", "b"]]), turns_of_mask(5, MASK[:3])]
    assert measured_share(rollouts).tolist() == [0.5, 1.0]
    without, declared, named = (
        kvsim.CostTerm("Qwen/Qwen3-8B", "h100-sxm", unit="latency_s", durations=durations)
        for durations in (None, {"*": 2.0}, {"a": 1.0, "b": 3.0})
    )
    base = price(without, rollouts)
    assert base.assumptions
    assert price(declared, rollouts).trajectories - base.trajectories == pytest.approx([2.0, 0.0])
    assert price(named, rollouts).trajectories - base.trajectories == pytest.approx([3.0, 0.0])
    unnamed = [turns_of_mask(5, MASK)]
    assert price(declared, unnamed).trajectories - price(without, unnamed).trajectories == pytest.approx([4.0])


def sleepy(seconds: float) -> str:
    """Sleep."""
    time.sleep(seconds)
    if seconds > 0.04:
        raise ValueError("too long")
    return "slept"


async def dreamy(seconds: float) -> str:
    """Sleep beside others."""
    await asyncio.sleep(seconds)
    return "dreamt"


def test_a_clock_times_tools() -> None:
    clock = ToolClock()
    slow, beside = clock.wrap([sleepy, dreamy])
    assert (slow.__name__, slow.__doc__) == ("sleepy", "Sleep.")
    assert slow(0.02) == "slept"
    assert slow(seconds=0.02) == "slept"
    with pytest.raises(ValueError, match="too long"):
        slow(seconds=0.05)

    async def together() -> list[str]:
        return await asyncio.gather(beside(seconds=0.03), beside(seconds=0.01))

    assert asyncio.run(together()) == ["dreamt", "dreamt"]
    call, failed = ("sleepy", {"seconds": 0.02}, "slept"), ("sleepy", {"seconds": 0.05}, "{'error': 'too long'}")
    assert 0.04 <= (clock.pause_s([call, call]) or 0) < 0.06 + 0.5
    assert clock.pause_s([call]) is None, "each call is taken once"
    assert (clock.pause_s([failed]) or 0) >= 0.05
    dreams = [("dreamy", {"seconds": seconds}, "dreamt") for seconds in (0.03, 0.01)]
    assert 0.03 <= (clock.pause_s(dreams) or 0) < 0.04 + 0.5
    assert clock.pause_s([("made up", {}, "no such tool")]) == 0.0, "what is no tool was never run"
    slow(0.0)
    clock.forget()
    assert clock.pause_s([("sleepy", {"seconds": 0.0}, "slept")]) is None


def test_openrlhf() -> None:
    response = {"observation_tokens": list(range(19)), "action_ranges": [(5, 8), (12, 14), (16, 17)]}
    assert counts(openrlhf.turns(response)) == COUNTS
    assert [turn.pause_s for turn in openrlhf.turns(response, pauses_s=[2.0])] == [0.0, 2.0, None]
    assert counts(openrlhf.turns(response | {"action_ranges": [(5, 5)]})) == [(5, 0)]
    assert counts(openrlhf.turns(response | {"action_ranges": []})) == [(19, 0)]


def test_slime() -> None:
    sample = {"tokens": [0] * 19, "response_length": 14, "loss_mask": MASK, "non_generation_time": 3.0, "index": 2}
    assert counts(slime.turns(sample)) == COUNTS
    assert [turn.pause_s for turn in slime.turns(SimpleNamespace(**sample))] == [0.0, 1.5, 1.5]
    assert counts(slime.turns(sample | {"loss_mask": None})) == [(5, 14)]
    with pytest.raises(InputError, match="response_length"):
        slime.turns(sample | {"response_length": 13})


def test_skyrl() -> None:
    output = {
        "prompt_token_ids": [[0] * 5, [0] * 4],
        "response_ids": [[0] * 14, []],
        "loss_masks": [MASK, []],
        "trajectory_time_splits": {"llm": [1.0, 1.0], "env": [3.0, 0.0]},
    }
    first, second = skyrl.rollouts(output)
    assert (counts(first), counts(second)) == (COUNTS, [(4, 0)])
    assert [turn.pause_s for turn in first] == [0.0, 1.5, 1.5]
    stepwise = output | {"trajectory_time_splits": {"env": [[1.0, 2.0], []]}}
    assert [turn.pause_s for turn in skyrl.rollouts(stepwise)[0]] == [0.0, 1.0, 2.0]
    untimed = {name: value for name, value in output.items() if name != "trajectory_time_splits"}
    assert [turn.pause_s for turn in skyrl.rollouts(untimed)[0]] == [0.0, None, None]


def test_verl_tool() -> None:
    calls: list[dict[str, Any]] = [
        {"obs": "found", "processing_time_ms": 1500.0, "queue_time_ms": 500.0},
        {"obs": "", "processing_time_ms": 1000.0},  # leaves no gap
        {"obs": "more", "processing_time_ms": 250.0},
        {"obs": "last", "processing_time_ms": 99.0, "done": 1},
    ]
    assert [turn.pause_s for turn in verl_tool.turns(5, MASK, calls)] == [0.0, 2.0, 1.25]
    assert [turn.pause_s for turn in verl_tool.turns(5, MASK, [{"obs": "found"}, *calls[2:]])] == [0.0, None, 0.25]
    assert counts(verl_tool.turns(5, MASK, [])) == COUNTS


def call(start: float, end: float, prompt: int, cached: int | None, output: int) -> SimpleNamespace:
    usage = SimpleNamespace(prompt_tokens=prompt, cached_input_tokens=cached, completion_tokens=output)
    return SimpleNamespace(usage=usage, time=SimpleNamespace(start=start, end=end))


def test_verifiers() -> None:
    failed = SimpleNamespace(usage=None, time=SimpleNamespace(start=1.5, end=1.6))
    trace = SimpleNamespace(
        calls=[call(3.0, 4.0, 4, 8, 2), failed, call(0.0, 1.0, 5, None, 3), call(3.5, 0.0, 16, 0, 1)]
    )
    turns = verifiers.turns(trace)
    assert counts(turns) == COUNTS
    assert [turn.pause_s for turn in turns] == [0.0, 2.0, None]
    with pytest.raises(InputError, match="usage"):
        verifiers.turns(SimpleNamespace(calls=[failed]))


class _Message(SimpleNamespace):
    def model_dump(self, **how: Any) -> dict[str, Any]:
        return dict(self.__dict__)


def test_art() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "search", "arguments": "{}"}}]
    said = _Message(role="assistant", content="", tool_calls=calls), _Message(role="assistant", content="done")
    trajectory = SimpleNamespace(
        messages_and_choices=[
            {"role": "user", "content": "go"},
            SimpleNamespace(message=said[0]),
            {"role": "tool", "tool_call_id": "1", "content": "found"},
            SimpleNamespace(message=said[1]),
        ],
        metrics={"search_duration": 1.5, "score": 3.0},
    )
    assert [message["role"] for message in art.messages(trajectory)] == ["user", "assistant", "tool", "assistant"]
    assert art.tool_s(trajectory) == [1.5, None]
    assert art.tool_s(SimpleNamespace(messages_and_choices=trajectory.messages_and_choices, metrics={})) == [None, None]


def right(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **more: Any) -> Any:
    return {"score": float(solution_str == ground_truth), "seen": len(solution_str)}


def test_compute_score_of_verl(term: kvsim.CostTerm) -> None:
    turns = turns_of_mask(5, MASK, pauses_s=[1.5, None])
    cost = float(price(term, [turns]).trajectories[0])
    score = ComputeScore(right, term, weight=0.5)
    given = score(data_source="d", solution_str="4", ground_truth="4", extra_info={"kvsim_turns": dump(turns)})
    assert given == {
        "score": 1 - 0.5 * cost,
        "seen": 1,
        "kvsim_quality": 1.0,
        "kvsim_cost": cost,
        "kvsim_measured_pauses": 0.5,
        "kvsim_turns": dump(turns),
    }
    batch = score.batch(["d"] * 2, ["4", "5"], ["4"] * 2, [{"kvsim_turns": dump(turns)}] * 2)
    assert [one["score"] for one in batch] == [1 - 0.5 * cost, -0.5 * cost]
    combined = ComputeScore(right, term, combine=lambda scores, costs: scores * np.exp(-costs))
    assert combined("d", "5", "4", {"kvsim_turns": dump(turns)})["score"] == 0.0
    with pytest.raises(InputError, match="kvsim_turns"):
        score("d", "4", "4", {})

    async def later(**facts: Any) -> float:
        return 0.0

    with pytest.raises(InputError, match="coroutine"):
        ComputeScore(later, term)
