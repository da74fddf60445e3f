"""``kvsim compare``: two halves of tau-bench's airline runs, models beside each other, scores from anywhere."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import kvsim
from kvsim.commands import app
from kvsim.commands._scores import read_scores
from kvsim.errors import InputError
from kvsim.reward.scored import read_scored

DATA = Path(__file__).parent / "data" / "compare"
HALVES = [str(DATA / f"trials-{name}.jsonl.gz") for name in ("0-1", "2-3")]
SCORES = str(DATA / "scores.csv")
PRICED = ["-m", "Qwen/Qwen3-8B", "-g", "h100-sxm"]


@pytest.fixture
def ask(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    return lambda *arguments: CliRunner().invoke(app, ["compare", *map(str, arguments)])


def document(done):
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))


def test_two_runs_of_real_rollouts(ask):
    done = ask(*HALVES, *PRICED, "--scores", SCORES)
    assert done.exit_code == 0, done.output
    for text in (
        "200 rollouts in 2 runs of 50 tasks",
        "trials-2-3 less trials-0-1",
        "43.0 %",
        "41.0 %",
        "given difficulty",
    ):
        assert text in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout
    found = document(ask(*HALVES, *PRICED, "--scores", SCORES, "--json"))
    assert found["schema"] == "kvsim.compare/1"
    first, second = found["runs"]
    labels = read_scores(SCORES)
    for run, path in zip((first, second), HALVES, strict=True):
        batch = kvsim.read(path)
        costs = kvsim.CostTerm("Qwen/Qwen3-8B", "h100-sxm")(batch)
        # Two rollouts of each task, so that means over tasks are means over rollouts.
        assert run["cost"] == pytest.approx(costs.mean())
        assert run["success"] == pytest.approx(np.mean([labels[id].score for id in batch.ids]))
        assert run["cost_low"] < run["cost"] < run["cost_high"]
        assert run["cost_of_success"] == pytest.approx(run["cost"] / run["success"])
    (pair,) = found["pairs"]
    assert pair["tasks"] == 50
    assert pair["cost"] == pytest.approx(second["cost"] - first["cost"])
    assert pair["cost_low"] < pair["cost"] < pair["cost_high"]
    assert len(pair["differences"]) == 50
    assert first["correlation"]["r"] < first["correlation_given_difficulty"]["r"] < 0
    again = document(ask(*HALVES, *PRICED, "--scores", SCORES, "--json"))
    assert again == found
    other = document(ask(*HALVES, *PRICED, "--scores", SCORES, "--json", "--seed", 1))
    assert other["pairs"][0]["cost"] == pair["cost"]
    assert other["pairs"][0]["cost_low"] != pair["cost_low"]


def test_the_page_shows_what_is_printed(ask, monkeypatch):
    root = DATA.parents[2]
    monkeypatch.chdir(root)
    page = (root / "docs" / "compare.md").read_text("utf-8")
    ((command, shown),) = re.findall(r"```console\n\$ kvsim compare (.*)\n((?:.*\n)*?)```", page)
    assert shown.split() == ask(*shlex.split(command)).stdout.split(), "it has changed: python tools/refresh_readme.py"


def test_the_logs_own_rewards_are_those_of_the_file(ask, shared, tmp_path):
    """The raw log says reward and task; the counts that ship and the file of scores say the same."""
    (log,) = (shared / "data" / "traces" / "tau-bench").glob("*.json")
    records = json.loads(log.read_text())
    halves = []
    for name, trials in (("first", (0, 1)), ("second", (2, 3))):
        halves.append(tmp_path / f"{name}.json")
        halves[-1].write_text(json.dumps([record for record in records if record["trial"] in trials]))
    own = document(ask(*halves, *PRICED, "--json"))
    shipped = document(ask(*HALVES, *PRICED, "--scores", SCORES, "--json"))
    for one, other in zip(own["runs"] + own["pairs"], shipped["runs"] + shipped["pairs"], strict=True):
        names = {"name", "path", "first", "second"}
        assert {key: one[key] for key in one.keys() - names} == {key: other[key] for key in other.keys() - names}


def test_one_log_priced_with_two_models(ask):
    models = ["-m", "Qwen/Qwen3-8B", "-m", "Qwen/Qwen3-32B", "-g", "h100-sxm", "--unit", "usd"]
    found = document(ask(HALVES[0], *models, "--scores", SCORES, "--json"))
    small, large = found["runs"]
    assert (small["name"], large["name"]) == ("Qwen3-8B", "Qwen3-32B")
    assert small["success"] == large["success"]
    assert found["pareto_front"] == ["Qwen3-8B"]
    assert found["pairs"][0]["success_low"] == found["pairs"][0]["success_high"] == 0
    alone = document(ask(*HALVES, *PRICED, "--unit", "usd", "--scores", SCORES, "--json"))["runs"][0]
    assert small["cost"] == alone["cost"]
    assert small["correlation_given_difficulty"]["rollouts"] == 100
    paired = ask(*HALVES, *models[:-2], "--scores", SCORES, "--json")
    assert [run["name"] for run in document(paired)["runs"]] == ["trials-0-1, Qwen3-8B", "trials-2-3, Qwen3-32B"]


def test_correct_above_makes_scores_right_or_wrong(ask, tmp_path):
    scores = tmp_path / "scores.jsonl"
    batch = kvsim.read(HALVES[0])
    rows = [{"id": id, "score": number % 5} for number, id in enumerate(batch.ids)]
    scores.write_text("\n".join(map(json.dumps, rows)))
    models = ["-m", "Qwen/Qwen3-8B", "-g", "h100-sxm", "-g", "l40s"]
    assert document(ask(HALVES[0], *models, "--scores", scores, "--json"))["runs"][0]["success"] == 2.0
    whole = document(ask(HALVES[0], *models, "--scores", scores, "--json", "--correct-above", 3))
    assert whole["runs"][0]["success"] == 0.2
    assert whole["runs"][0]["tasks"] == 50  # from ids: task-0-trial-0 and task-0-trial-1 are of task-0
    text = ask(HALVES[0], *models, "--scores", scores).stdout
    assert "points" not in text
    assert "%" not in text.split("Cost against success")[1]


def test_many_runs_are_not_shown_pair_by_pair(ask):
    gpus = [
        part
        for gpu in ("h100-sxm", "l40s", "rtx-4090", "h200-sxm", "b200-sxm", "a100-80gb-sxm")
        for part in ("-g", gpu)
    ]
    done = ask(HALVES[0], "-m", "Qwen/Qwen3-8B", *gpus, "--scores", SCORES, "--top", 0)
    assert done.exit_code == 0, done.output
    assert done.stdout.count(" less ") == 10
    assert "5 more pairs" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_constant_scores_are_said_and_not_correlated(ask, tmp_path):
    scores = tmp_path / "scores.csv"
    scores.write_text("id,score\n" + "".join(f"{id},1\n" for path in HALVES for id in kvsim.read(path).ids))
    done = ask(*HALVES, *PRICED, "--scores", scores)
    assert "success the same everywhere" in done.stdout
    assert "nan" not in done.stdout.lower()
    run = document(ask(*HALVES, *PRICED, "--scores", scores, "--json"))["runs"][0]
    assert run["correlation"]["r"] is None
    assert run["correlation"]["why_not"] == "success the same everywhere"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([HALVES[0], *PRICED], "nothing beside it"),
        ([HALVES[0], HALVES[0], *PRICED], "the same logs"),
        ([*HALVES, HALVES[0], *PRICED, "-m", "Qwen/Qwen3-32B"], "one for each"),
        ([*HALVES, *PRICED], "reward"),
        ([*HALVES, *PRICED, "--scores", SCORES, "--scores", SCORES, "--scores", SCORES], "one for each"),
        ([*HALVES, *PRICED, "--scores", "none.csv"], "none.csv"),
        ([*HALVES, *PRICED, "--scores", SCORES, "--unit", "hours"], "hours"),
    ],
)
def test_what_cannot_be_compared_is_said(ask, arguments, said):
    done = ask(*arguments)
    assert done.exit_code == 2, done.output
    assert said in done.stderr


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("id,score\na,high\n", 2, "score"),
        ("id,score\na,1\n\na,0\n", 4, "id"),
        ("id,score\n,1\n", 2, "id"),
        ("name,score\na,1\n", 2, "id"),
        ('{"id": "a", "score": null}\n', 1, "score"),
        ('{"id": "a", "score": 1}\n{"id": \n', 2, None),
        ("id,score\na,nan\n", 2, "score"),
        ("", None, None),
    ],
)
def test_broken_scores_are_named_by_line(tmp_path, text, line, field):
    path = tmp_path / "scores"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_scores(str(path))
    assert (caught.value.file, caught.value.line, caught.value.field) == (str(path), line, field)


def test_a_trajectory_without_a_score_is_named(ask, tmp_path):
    scores = tmp_path / "scores.csv"
    scores.write_text("id,score\ntask-0-trial-0,true\n")
    done = ask(*HALVES, *PRICED, "--scores", scores)
    assert done.exit_code == 2
    assert "99 of 100 trajectories have no score" in done.stderr


def test_a_log_without_rewards_can_be_given_scores(ask):
    done = ask(*HALVES, *PRICED)
    assert done.exit_code == 2
    assert "Name the field" in done.stderr
    assert "--scores" in done.stderr


def test_records_say_score_and_task_each_in_their_way(tmp_path):
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]
    records = [
        {"task_id": 7, "reward": 0.5},
        {"instance_id": "x-1", "test_result": {"report": {"resolved": True}}},
        {"resolved": False},
    ]
    path = tmp_path / "runs.jsonl"
    path.write_text(
        "\n".join(json.dumps({"id": f"r{n}-trial-3", "messages": turns, **r}) for n, r in enumerate(records))
    )
    (scored,) = read_scored(str(path))
    assert scored.rewards.tolist() == [0.5, 1.0, 0.0]
    assert scored.tasks == ["7", "x-1", "r2"]
