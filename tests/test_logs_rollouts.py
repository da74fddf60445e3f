"""Rollouts that trainers dump: TRL's Parquet, verl, verl-tool, SkyRL, slime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvsim.errors import InputError
from kvsim.logs import read
from kvsim.logs.messages import NO_OUTPUT, TEMPLATE_TOKENS, from_messages
from kvsim.logs.rollout_text import cut
from kvsim.logs.turns import NO_PAUSE

CALL = '<tool_call>\n{"name": "search", "arguments": {"q": "x"}}\n</tool_call>'
RESPONSE = "<tool_response>\nfound " + "it " * 40 + "\n</tool_response>"
QWEN = f"I look.\n{CALL}<|im_end|>\n<|im_start|>user\n{RESPONSE}<|im_end|>\n<|im_start|>assistant\nDone.<|im_end|>"
QWEN_STRIPPED = f"I look.\n{CALL}\nuser\n{RESPONSE}\nassistant\nDone."
LLAMA = (
    '{"name": "search", "parameters": {}}<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\nfound'
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nDone.<|eot_id|>"
)
EXACT = [
    {"prompt_tokens": 50, "output_tokens": 7},
    {"prompt_tokens": 80, "output_tokens": 9, "pause_s": 1.5, "tools": ["search"]},
]


def characters(text: str) -> int:
    return -(-len(text) * 2 // 7)  # characters / 3.5, rounded up


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("text", "written", "read_between"),
    [
        (QWEN, ["I look.\n" + CALL, "Done.<|im_end|>"], [RESPONSE]),
        (QWEN_STRIPPED, ["I look.\n" + CALL, "Done."], [RESPONSE]),
        (LLAMA, ['{"name": "search", "parameters": {}}', "Done.<|eot_id|>"], ["found"]),
        (
            "<search>x</search><information>y</information>z",
            ["<search>x</search>", "z"],
            ["<information>y</information>"],
        ),
        ("no tool at all", ["no tool at all"], []),
        ("", [""], []),
        (CALL, [CALL], []),
    ],
)
def test_cutting_text(text: str, written: list[str], read_between: list[str]) -> None:
    found = cut(text)
    assert [piece.strip() for piece in found.written] == written
    assert [piece.strip() for piece in found.read] == read_between


def test_verl(tmp_path: Path) -> None:
    rollout = {"input": "user\nhi\nassistant\n", "output": QWEN_STRIPPED, "gts": "x", "score": 1.0, "step": 3}
    recorded = rollout | {"kvsim_turns": json.dumps(EXACT), "uid": "a_0_0"}
    batch = read(lines(tmp_path / "3.jsonl", rollout, rollout | {"output": ""}, recorded))
    first = characters(rollout["input"])
    output = characters("I look.\n" + CALL)
    prompt = first + output + characters(RESPONSE) + TEMPLATE_TOKENS
    assert batch.prompt_tokens.tolist() == [first, prompt, first, 50, 80]
    assert batch.output_tokens.tolist() == [output, characters("Done."), 0, 7, 9]
    assert batch.kept_tokens.tolist() == [0, first + output, 0, 0, 57]
    assert batch.pause_ns.tolist() == [0, 0, 0, 0, 1_500_000_000]
    assert batch.tool is not None
    assert [batch.tool_names[number] for number in batch.tool[[1, 4]]] == ["search", "search"]
    assert batch.estimated_tokens is not None
    assert batch.estimated_tokens[3:].tolist() == [0, 0]
    assert (batch.estimated_tokens[:3] > 0).all()
    assert batch.report is not None
    assert batch.report.formats == {"verl": 1}
    assert batch.report.flagged == {NO_PAUSE: 1, NO_OUTPUT: 1}
    assert batch.report.adds_up
    assert batch.ids[2] == "a_0_0"


def test_bad_turns_name_file_and_line(tmp_path: Path) -> None:
    rollout = {"input": "a", "output": "b", "score": 1.0, "step": 3, "kvsim_turns": '[{"prompt_tokens": -3}]'}
    path = lines(tmp_path / "3.jsonl", rollout | {"kvsim_turns": EXACT}, rollout)
    with pytest.raises(InputError) as caught:
        read(path)
    assert (caught.value.file, caught.value.line, caught.value.field) == (str(path), 2, "kvsim_turns")
    report = read(path, lenient=True).report
    assert report is not None
    assert report.dropped == {"kvsim_turns": 1}


def test_verl_tool(tmp_path: Path) -> None:
    observation = "\n```output\n42\n```\n"
    record = {
        "id": 7,
        "data_source": "torl",
        "prompt": "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        "response": f"```python\nprint(42)\n```{observation}So 42.<|im_end|>",
        "ground_truth": "42",
        "score": {"score": 1.0, "accuracy": 1},
        "reward": 1.0,
        "tool_interact_info": [
            {"obs": "", "reward": None, "processing_time_ms": 5.0},
            {"obs": observation, "reward": None, "processing_time_ms": 1500.0, "queue_time_ms": 500.0, "done": 0},
        ],
        "extra_info": {"id": 7},
    }
    untimed = record | {"id": None, "tool_interact_info": [{"obs": observation}]}
    path = tmp_path / "torl-step-1.json"
    path.write_text(json.dumps([record, untimed, record | {"tool_interact_info": None, "response": QWEN}], indent=4))
    batch = read(path)
    assert batch.trajectory.tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.pause_ns.tolist() == [0, 2_000_000_000, 0, 0, 0, 0]
    assert batch.output_tokens[0] == characters("```python\nprint(42)\n```\n")
    assert batch.report is not None
    assert batch.report.formats == {"verl-tool": 1}
    assert batch.report.flagged == {NO_PAUSE: 2}
    assert batch.ids[0] == "torl-step-1:7"


def test_skyrl(tmp_path: Path) -> None:
    rollout = {
        "input_prompt": "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        "output_response": QWEN,
        "score": 1.0,
        "stop_reason": "stop",
        "env_class": "search",
        "env_extras": {},
        "data_source": "nq",
    }
    lines(tmp_path / "nq.jsonl", rollout, rollout)
    lines(tmp_path / "aggregated_results.jsonl", {"eval/all/avg_score": 0.5, "eval/nq/pass_at_1": 0.5})
    batch = read(tmp_path)
    assert (len(batch), batch.turns) == (2, 4)
    assert batch.report is not None
    assert batch.report.formats == {"skyrl": 2}
    assert batch.report.skipped == {"metrics of a whole evaluation": 1}
    assert batch.report.adds_up


def test_slime(logs: Path) -> None:
    batch = read(logs / "slime" / "0.pt")
    assert batch.trajectory.tolist() == [0, 0, 0, 1, 2]
    assert batch.prompt_tokens.tolist() == [5, 12, 16, 4, 3]
    assert batch.output_tokens.tolist() == [3, 2, 1, 6, 0]
    assert batch.pause_ns.tolist() == [0, 1_500_000_000, 1_500_000_000, 0, 0]
    assert batch.estimated_share == 0
    assert batch.ids == ["0:40", "0:41", "0:42"]
    assert batch.report is not None
    assert batch.report.formats == {"slime": 1}
    assert batch.report.adds_up


@pytest.mark.parametrize("end", [40, -40, -1])
def test_damaged_archives(logs: Path, tmp_path: Path, end: int) -> None:
    path = tmp_path / "0.pt"
    path.write_bytes((logs / "slime" / "0.pt").read_bytes()[:end])
    with pytest.raises(InputError, match=r"torch\.save"):
        read(path)
    assert len(read(path, lenient=True)) == 0


def test_an_archive_runs_nothing(tmp_path: Path) -> None:
    import pickle
    import zipfile

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.write_text, (tmp_path / "run", "it ran"))

    sample = {"tokens": [1, 2, 3], "response_length": 1, "rollout_routed_experts": Evil(), "index": None}
    with zipfile.ZipFile(tmp_path / "1.pt", "w") as archive:
        archive.writestr("1/data.pkl", pickle.dumps({"rollout_id": 1, "samples": [sample]}))
    batch = read(tmp_path / "1.pt")
    assert (batch.prompt_tokens.tolist(), batch.output_tokens.tolist()) == ([2], [1])
    assert not (tmp_path / "run").exists()


@pytest.fixture
def parquet() -> Any:
    pytest.importorskip("pyarrow", reason="needs the parquet extra")
    import pyarrow.parquet

    return pyarrow


CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "search", "arguments": {"q": "x"}}}],
    },
    {"role": "tool", "name": "search", "content": "sun " * 30},
    {"role": "assistant", "content": "Sun."},
]


def table(parquet: Any, path: Path, **columns: list[Any]) -> Path:
    parquet.parquet.write_table(parquet.table(columns), path)
    return path


def test_trl_messages(parquet: Any, tmp_path: Path) -> None:
    completions = [CHAT[1:], [{"role": "assistant", "content": ""}], CHAT[1:]]
    path = table(
        parquet,
        tmp_path / "completions_00004.parquet",
        step=[4, 4, 4],
        prompt=[CHAT[:1]] * 3,
        completion=completions,
        good=[1.0, 0.0, 1.0],
        kvsim_turns=[None, None, json.dumps(EXACT)],
        advantage=[0.1, -0.1, 0.0],
    )
    batch = read(tmp_path)
    expected = from_messages([[*CHAT[:1], *completion] for completion in completions[:2]])
    assert batch.prompt_tokens.tolist() == [*expected.prompt_tokens.tolist(), 50, 80]
    assert batch.output_tokens.tolist() == [*expected.output_tokens.tolist(), 7, 9]
    assert batch.pause_ns.tolist() == [0, 0, 0, 0, 1_500_000_000]
    assert batch.ids == ["step 4: 0", "step 4: 1", "step 4: 2"]
    assert batch.report is not None
    assert batch.report.formats == {"trl": 1}
    assert batch.report.adds_up
    assert read(path, "trl").prompt_tokens.tolist() == batch.prompt_tokens.tolist()


def test_trl_texts(parquet: Any, tmp_path: Path) -> None:
    path = table(parquet, tmp_path / "c.parquet", step=[1], prompt=["a" * 35], completion=["b" * 7], advantage=[0.0])
    batch = read(path)
    assert (batch.prompt_tokens.tolist(), batch.output_tokens.tolist()) == ([10], [2])


def test_trl_damage(parquet: Any, tmp_path: Path) -> None:
    path = table(parquet, tmp_path / "c.parquet", step=[1], prompt=["a"], completion=["b"], advantage=[0.0])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="Parquet"):
        read(path)
    table(parquet, path, step=[1, 1], prompt=["a", None], completion=["b", "c"], advantage=[0.0, 0.0])
    with pytest.raises(InputError, match="row 1"):
        read(path)
    batch = read(path, lenient=True)
    assert len(batch) == 1
    assert batch.report is not None
    assert batch.report.adds_up
