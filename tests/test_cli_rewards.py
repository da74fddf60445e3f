"""``kvsim rewards``: rewards of finished rollouts against their costs, in text, JSON and a plot."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from reward_cases import MODEL
from typer.testing import CliRunner

import kvsim
from kvsim.commands import app
from kvsim.errors import InputError, MissingExtraError
from kvsim.report import figures
from kvsim.reward import plot
from kvsim.reward.scored import read_scored


def rollout(answer: str, calls: int, score: float, number: int) -> dict:
    messages = [{"role": "user", "content": "What is it? " * 30}]
    for call in range(calls):
        asked = {"id": str(call), "type": "function", "function": {"name": "search", "arguments": "{}"}}
        messages.append({"role": "assistant", "content": "", "tool_calls": [asked]})
        messages.append({"role": "tool", "tool_call_id": str(call), "content": "found " * 200})
    messages.append({"role": "assistant", "content": answer})
    return {"id": f"rollout {number}", "messages": messages, "score": score}


@pytest.fixture
def folder(tmp_path):
    runs = {"step 1": [(4, 1.0), (5, 0.0)], "step 2": [(1, 1.0), (2, 1.0)], "step 3": [(0, 0.0), (0, 0.0)]}
    for name, rollouts in runs.items():
        lines = [json.dumps(rollout("It is.", calls, score, at)) for at, (calls, score) in enumerate(rollouts)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def ask(monkeypatch, folder):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    model = ["-m", MODEL["model"], "-g", MODEL["gpu"]]
    return lambda *arguments: CliRunner().invoke(app, ["rewards", str(folder), *model, *map(str, arguments)])


def test_runs_are_compared(ask, folder):
    done = ask("--duration", "search=2", "--unit", "latency_s")
    assert done.exit_code == 0, done.output
    assert "6 rollouts of 3 files" in done.output
    rows = {line.split()[1]: line for line in done.output.splitlines() if line.strip().startswith("step")}
    assert "none passed" in rows["3.jsonl"]
    assert rows["2.jsonl"].rstrip().endswith("yes")
    assert not rows["1.jsonl"].rstrip().endswith("yes")
    assert "tool pause nobody measured: the declared duration (12 times)" in done.stderr


def test_json_has_every_rollout(ask, folder):
    done = ask("--json", "--reward", "score")
    found = json.loads(done.stdout)
    assert found["schema"] == "kvsim.rewards/1"
    assert [run["correct_share"] for run in found["runs"]] == [0.5, 1.0, 0.0]
    assert found["runs"][2]["cost_of_pass"] is None
    assert found["pareto_front"] == [str(folder / "step 3.jsonl"), str(folder / "step 2.jsonl")]
    term = kvsim.CostTerm(**MODEL)
    for run in found["runs"]:
        costs = term(kvsim.read(run["file"]))
        assert [row["cost"] for row in run["trajectories"]] == costs.tolist()
        assert run["mean_cost"] == costs.mean()
    assert found["runs"][0]["tool_productivity"] == 1 / 9


def test_rewards_have_to_be_there(ask, folder):
    done = ask("--reward", "accuracy")
    assert done.exit_code == 2
    assert "score" in done.stderr
    assert ask("--duration", "search").exit_code == 2


def test_records_have_to_be_rollouts(folder):
    (folder / "session.json").write_text(json.dumps(rollout("Yes.", 1, 1.0, 0)["messages"]))
    with pytest.raises(InputError):
        read_scored(folder / "session.json")
    scored = read_scored(folder / "step 1.jsonl")
    assert scored[0].rewards.tolist() == [1.0, 0.0]


def test_the_plot_shows_rollouts_means_and_front(ask, folder):
    pytest.importorskip("plotly", reason="plotting needs plotly")
    path = folder / "rewards.html"
    done = ask("-o", path)
    assert done.exit_code == 0, done.output
    text = path.read_text()
    assert "rollout 1" in text
    assert "Pareto front" in text
    assert ask("-o", path).exit_code == 2
    assert ask("-o", path, "--force").exit_code == 0
    runs = {
        "a": plot.Run(np.array([1.0, 3.0]), np.array([0.0, 1.0]), ["x", "y"]),
        "b": plot.Run(np.array([5.0]), np.array([0.2]), ["z"]),
        "c": plot.Run(np.array([9.0]), np.array([0.9]), ["w"]),
    }
    figure = plot.reward_against_cost(runs, "usd")
    front = figure.data[-1]
    assert (list(front.x), list(front.y)) == ([2.0, 9.0], [0.5, 0.9])
    assert len(figure.data) == 2 * 3 + 1
    assert figure.layout.xaxis.title.text == "cost: US dollars"
    with pytest.raises(InputError, match="runs"):
        plot.reward_against_cost({}, "usd")


def test_a_plot_without_plotly_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'kvsim\[report\]'"):
        figures.require_plotly()
