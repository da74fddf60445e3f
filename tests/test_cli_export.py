"""``kvsim export``: what it writes, and when it refuses to."""

from __future__ import annotations

import pytest
from trace_events import of, read_trace
from typer.testing import CliRunner

from kvsim.commands import app
from kvsim.commands.demo import MODEL, example


@pytest.fixture
def ask(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)
    example().to_jsonl("runs.jsonl")

    def run(*arguments):
        return CliRunner().invoke(app, ["export", "runs.jsonl", "-m", MODEL, "-g", "h100-sxm", *map(str, arguments)])

    return run


def test_trajectories_alone(ask, tmp_path):
    done = ask("--perfetto", "-o", "trace.json", "--load", "kv=always")
    assert done.exit_code == 0, done.output
    assert "3 trajectories, 105 turns" in done.stdout
    assert "trace.json" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    events = read_trace(tmp_path / "trace.json")
    assert len(of(events, "turn")) == 105
    assert any(event["name"] == "recompute" for event in of(events, "phase"))


def test_trajectories_on_shared_engines(ask, tmp_path):
    done = ask("--perfetto", "-o", "trace.json.gz", "--arrivals", "closed:3", "--replicas", 2, "--bins", 20)
    assert done.exit_code == 0, done.output
    assert "3 in flight" in " ".join(done.stdout.split())
    events = read_trace(tmp_path / "trace.json.gz")
    assert {event["pid"] for event in events} == {1, 2}
    bins = {event["ts"] for event in events if event["ph"] == "C"}
    assert 2 < len(bins) <= 20


def test_spans(ask, tmp_path):
    done = ask("--otlp", "-o", "spans.jsonl", "--begins", "2026-01-02T03:04:05Z")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "spans.jsonl").read_text().count('"invoke_agent"') == 2 * 3


def test_a_file_is_not_overwritten_unless_told(ask, tmp_path):
    (tmp_path / "trace.json").write_text("mine")
    assert ask("--perfetto", "-o", "trace.json").exit_code == 2
    assert (tmp_path / "trace.json").read_text() == "mine"
    assert ask("--perfetto", "-o", "trace.json", "--force").exit_code == 0
    read_trace(tmp_path / "trace.json")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--perfetto or --otlp"),
        (("--perfetto", "--otlp"), "--perfetto or --otlp"),
        (("--perfetto", "--retention", "drop"), "--arrivals"),
        (("--perfetto", "--arrivals", "closed:2", "--load", "kv=always"), "--load or --arrivals"),
        (("--otlp", "--begins", "soon"), "no date"),
        (("--perfetto", "--arrivals", "closed:0"), "closed"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(ask, tmp_path, arguments, said):
    done = ask("-o", "out", *arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "out").exists()
