"""Patterns: what detectors find in trajectories labelled by hand, in small logs, and in counts alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import columns, linear

import kvsim
from kvsim.insight import Transcripts, find_patterns
from kvsim.insight.independence import independent_chains
from kvsim.insight.patterns import TEXT_PATTERNS, multiplier
from kvsim.insight.patterns.finding import Finding
from kvsim.insight.patterns.format_collapse import FormatCollapse
from kvsim.insight.patterns.mixing import Mixing
from kvsim.insight.patterns.outcome import outcome
from kvsim.insight.patterns.shell import asks, changes, commands
from kvsim.insight.transcript import Transcript
from kvsim.logs import read, read_with_text

LABELLED = Path(__file__).parent / "data" / "labelled"
MODEL: dict[str, Any] = {"model": "Qwen/Qwen3-8B", "gpu": "h100-sxm"}

#: Precision and recall on the labelled trajectories, as docs/patterns.md states them: true, false, missed.
EXPECTED = {
    "labels.json": {
        "confirmatory tool use": (4, 2, 0),
        "tool mixing": (20, 1, 0),
        "lack of tool priors": (116, 1, 4),
        "format collapse": (6, 1, 1),
        "repeated call": (23, 0, 1),
        "unused response": (1, 2, 1),
    },
    "second_labels.json": {
        "confirmatory tool use": (3, 3, 1),
        "tool mixing": (20, 1, 0),
        "lack of tool priors": (116, 1, 6),
        "format collapse": (6, 1, 0),
        "repeated call": (23, 0, 1),
        "unused response": (1, 2, 1),
    },
}

#: How the two readers agree, as docs/patterns.md states it: decisions, both, first only, second only, Cohen's kappa.
AGREEMENT = {
    "confirmatory tool use": (465, 3, 1, 1, 0.75),
    "tool mixing": (50, 20, 0, 0, 1.00),
    "lack of tool priors": (465, 120, 0, 2, 0.99),
    "format collapse": (584, 6, 1, 0, 0.92),
    "repeated call": (465, 24, 0, 0, 1.00),
    "unused response": (36, 2, 0, 0, 1.00),
}


@pytest.fixture(scope="module")
def labelled() -> Transcripts:
    return Transcripts.read(sorted(map(str, LABELLED.glob("*.gz"))))


def labels_of(name: str) -> dict[str, dict[str, Any]]:
    labels: dict[str, dict[str, Any]] = json.loads((LABELLED / name).read_text())["labels"]
    return labels


def found_at(name: str, transcript: Transcript, findings: Iterable[Finding]) -> set[int]:
    """What fired, as labels say it: numbers of calls, for formats of messages, for mixing 0."""
    spans = [finding.span for finding in findings if finding.span is not None]
    if name == "tool mixing":
        return {0} if spans else set()
    if name == "format collapse":
        return {span.message for span in spans}
    places = set()
    for span in spans:
        for number, call in enumerate(transcript.calls):
            asked = call.message.number == span.message and call.part == span.part and call.begin == span.begin
            if asked or (call.answer is not None and call.answer.number == span.message):
                places.add(number)
                break
    return places


def wanted_at(name: str, transcript: Transcript, label: Any) -> set[int]:
    if name == "tool mixing":
        return {0} if label else set()
    if name == "format collapse":
        calls = transcript.calls
        return {int(at[1:]) if isinstance(at, str) else calls[at].message.number for at in label or ()}
    return set(label or ())


def decided_at(name: str, transcript: Transcript) -> set[int]:
    """What a reader decides about: the trajectory, the model's messages, calls, or calls with long responses."""
    if name == "tool mixing":
        return {0}
    if name == "format collapse":
        return {message.number for message in transcript.wrote()}
    calls = enumerate(transcript.calls)
    if name == "unused response":
        return {number for number, call in calls if call.answer is not None and len(call.answer.said.text) >= 2000}
    return {number for number, _ in calls}


@pytest.mark.parametrize("reader", EXPECTED)
@pytest.mark.parametrize("pattern", TEXT_PATTERNS, ids=[pattern.name for pattern in TEXT_PATTERNS])
def test_detectors_beside_labels_by_hand(pattern, reader, labelled) -> None:
    labels = labels_of(reader)
    assert {transcript.id for transcript in labelled.by_trajectory.values()} == set(labels)
    hit = false = missed = 0
    for transcript in labelled.by_trajectory.values():
        got = found_at(pattern.name, transcript, pattern.find(transcript))
        want = wanted_at(pattern.name, transcript, labels[transcript.id].get(pattern.name))
        hit, false, missed = hit + len(got & want), false + len(got - want), missed + len(want - got)
    assert (hit, false, missed) == EXPECTED[reader][pattern.name]


@pytest.mark.parametrize("name", [pattern.name for pattern in TEXT_PATTERNS])
def test_two_readers_beside_each_other(name, labelled) -> None:
    first, second = labels_of("labels.json"), labels_of("second_labels.json")
    decisions = both = only_first = only_second = 0
    for transcript in labelled.by_trajectory.values():
        one = wanted_at(name, transcript, first[transcript.id].get(name))
        other = wanted_at(name, transcript, second[transcript.id].get(name))
        places = decided_at(name, transcript)
        assert one | other <= places
        decisions, both = decisions + len(places), both + len(one & other)
        only_first, only_second = only_first + len(one - other), only_second + len(other - one)
    agreed = 1 - (only_first + only_second) / decisions
    share, other_share = (both + only_first) / decisions, (both + only_second) / decisions
    chance = share * other_share + (1 - share) * (1 - other_share)
    kappa = (agreed - chance) / (1 - chance)
    assert (decisions, both, only_first, only_second, round(kappa, 2)) == AGREEMENT[name]


def test_spans_hold_what_fired(labelled) -> None:
    for pattern in TEXT_PATTERNS:
        for transcript in labelled.by_trajectory.values():
            for finding in pattern.find(transcript):
                span = finding.span
                assert span is not None
                assert span.trajectory == transcript.number
                message = transcript.messages[span.message]
                assert (span.turn, span.row) == (message.turn, message.row)
                call = int(span.part[6:-1]) if span.part.startswith("calls[") else None
                text = message.said.calls[call].arguments if call is not None else getattr(message.said, span.part)
                assert 0 <= span.begin <= span.end <= len(text)
                assert labelled.batch.trajectory[finding.row] == transcript.number


@pytest.mark.parametrize("path", sorted(LABELLED.glob("*.gz")), ids=lambda path: path.name)
def test_a_batch_is_the_same_with_and_without_text(path: Path) -> None:
    with_text, said = read_with_text(str(path))
    plain = read(str(path))
    assert with_text.columns.keys() == plain.columns.keys()
    for name, column in plain.columns.items():
        np.testing.assert_array_equal(with_text.columns[name], column)
    assert set(said) == set(range(plain.turns))


def test_text_follows_rows_that_lenient_reading_leaves_out(tmp_path: Path) -> None:
    good = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "first"}]
    bad = {"messages": [*good, {"role": "assistant", "content": "x"}], "usage": [{"prompt_tokens": 1}]}
    path = tmp_path / "log.jsonl"
    lines = [{"messages": good}, bad, {"messages": [*good[:1], {"role": "assistant", "content": "last"}]}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    batch, said = read_with_text(str(path), lenient=True)
    assert batch.turns == 2
    assert [said[row].wrote.text for row in range(2)] == ["first", "last"]


def log(tmp_path: Path, *steps: tuple[str, dict[str, Any] | str, str], tools: list[Any] | None = None) -> Transcripts:
    """A log of calls (tool, arguments, response)."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Do it."}]
    for number, (tool, given, answer) in enumerate(steps):
        text = given if isinstance(given, str) else json.dumps(given)
        call = {"id": f"c{number}", "function": {"name": tool, "arguments": text}}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": answer})
    messages.append({"role": "assistant", "content": "Done."})
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"messages": messages, "tools": tools or []}))
    return Transcripts.read(str(path))


SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}},
            "required": ["query"],
        },
    },
}


@pytest.mark.parametrize(
    ("tool", "given", "fault"),
    [
        ("search", {"query": "x"}, None),
        ("search", '{"query": "x"', "no JSON"),
        ("search", {"limit": 3}, "query missing"),
        ("search", {"query": "x", "limit": "3"}, "limit is no integer"),
        ("serach", {"query": "x"}, "no tool is called"),
    ],
)
def test_calls_that_break_their_definitions(tmp_path: Path, tool: str, given: Any, fault: str | None) -> None:
    transcripts = log(tmp_path, (tool, given, "found"), tools=[SEARCH])
    findings = list(FormatCollapse().find(transcripts.by_trajectory[0]))
    assert [fault in finding.detail for finding in findings] == ([True] if fault else [])


def test_search_and_visits_are_one_kind(tmp_path: Path) -> None:
    transcripts = log(tmp_path, ("search", {"q": "x"}, "found"), ("visit", {"url": "x"}, "page"))
    assert not list(Mixing().find(transcripts.by_trajectory[0]))


@pytest.mark.parametrize(
    ("command", "answer", "kind"),
    [
        ("ls /none", "ls: cannot access '/none': No such file or directory", "failed"),
        ("grep -r x .", "", "empty"),
        ("mkdir a && touch a/b", "", None),
        ("echo hi > f", "", None),
        ("cat f", "Error handling is explained in chapter 3.\nIt is long.\nAnd goes on.\nEnd.", "failed"),
        ("pytest -q", "2 failed, 3 passed\nERROR tests/x.py", None),
        ("python x.py", "Traceback (most recent call last):\n  File 1\nValueError: bad", "failed"),
        ("find . -name x -exec sed -i s/a/b/ {} \\;", "", None),
    ],
)
def test_outcomes_of_commands(tmp_path: Path, command: str, answer: str, kind: str | None) -> None:
    call = log(tmp_path, ("bash", {"command": command}, answer)).by_trajectory[0].calls[0]
    found = outcome(call)
    assert (found.kind if found is not None else None) == kind


def test_what_commands_do() -> None:
    assert commands("cd a && FOO=1 ls -l | head -3; git log") == ["cd a", "ls -l", "head -3", "git log"]
    assert asks("cd a && grep -n x f")
    assert not asks("sed -i s/a/b/ f")
    assert changes("cat <<'EOF' > f\nrm -rf /\nEOF")
    assert not changes("grep 'a > b' f 2>/dev/null")
    assert changes("pip install x")


def test_independent_look_ups_are_found_and_dependent_ones_are_not(tmp_path: Path) -> None:
    transcripts = log(
        tmp_path,
        ("get_user", {"id": "anna"}, '{"orders": ["A17X", "B20Y"]}'),
        ("get_order", {"id": "A17X"}, '{"item": "lamp"}'),
        ("get_order", {"id": "B20Y"}, '{"item": "chair"}'),
        ("cancel_order", {"id": "B20Y"}, "cancelled"),
    )
    assert independent_chains(transcripts) == [(1, 2)]


def test_patterns_of_counts() -> None:
    hour = 3600 * 10**9
    batch = columns(
        [
            {"prompt_tokens": 9000, "output_tokens": 100},
            {"parent": 0, "kept_tokens": 9100, "prompt_tokens": 9500, "output_tokens": 50, "pause_ns": hour},
            {"parent": 1, "kept_tokens": 64, "prompt_tokens": 9900, "output_tokens": 50, "pause_ns": 10**9},
            {"parent": 2, "kept_tokens": 64, "prompt_tokens": 1500, "output_tokens": 50},
        ]
    )
    found = {pattern.name: pattern for pattern in find_patterns(kvsim.estimate(batch, **MODEL))}
    assert [finding.row for finding in found["pause past break-even"].findings] == [1]
    assert [finding.row for finding in found["prefix edit"].findings] == [2]
    assert found["tool mixing"].looked_at == 0


def test_multipliers_are_ratios_with_intervals() -> None:
    random = np.random.default_rng(1)
    one, other = random.gamma(2.0, 2.0, 400), random.gamma(2.0, 1.0, 600)
    found = multiplier(one, other)
    assert found is not None
    assert found.value == pytest.approx(one.mean() / other.mean())
    assert found.low < found.value < found.high
    assert found.low < 2.0 < found.high
    assert multiplier(one[:1], other) is None
    assert multiplier(one, other) == found  # the same numbers, the same draws


def test_a_model_without_text_gets_patterns_of_counts_only() -> None:
    batch = linear(5, 4)
    found = find_patterns(kvsim.estimate(batch, **MODEL), Transcripts(batch, {}))
    assert {pattern.name for pattern in found if pattern.looked_at} == {"pause past break-even", "prefix edit"}
