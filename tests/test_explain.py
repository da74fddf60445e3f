"""``kvsim explain`` and ``kvsim top``: text at 80 columns, JSON, CSV, and what bad input gets."""

from __future__ import annotations

import csv
import io
import json
import re
import runpy
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from cases import linear
from rich.cells import cell_len
from typer.testing import CliRunner

import kvsim
from kvsim.commands import app
from kvsim.commands._console import Indented, WholeLines, table
from kvsim.insight import Transcripts, attribute, explain
from kvsim.insight.blame import blame_of_calls
from kvsim.insight.parts import PARTS

LABELLED = Path(__file__).parent / "data" / "labelled"
OPENHANDS = str(LABELLED / "openhands.jsonl.gz")
PRICED = ["-m", "Qwen/Qwen3-8B", "-g", "h100-sxm"]
SCHEDULED = ["--scheduling-policy", "priority", "--no-async-scheduling", "--long-prefill-token-threshold", "256"]


def run(*arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str) -> str:
    """What is said of arguments that are wrong; nothing goes to stdout."""
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, list(arguments))
    assert result.exit_code == 2
    assert not result.stdout
    return " ".join(result.stderr.split())


def test_explain_fits_80_columns_and_has_no_colour_when_piped() -> None:
    text = run("explain", OPENHANDS, *PRICED, "--load", "kv=always", "--try-gpu", "rtx-4090")
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    for said in ("What to change in the agent (10 of", "What to change in the serving", "Patterns", "on rtx-4090"):
        assert said in text
    ranks = [line for line in text.splitlines() if line[:3].strip().isdigit()]
    assert len(ranks) >= 10


def test_explain_as_json_is_what_python_gives() -> None:
    found = json.loads(run("explain", OPENHANDS, *PRICED, "--load", "kv=always", "--json"))
    assert found["schema"] == "kvsim.explain/1"
    transcripts = Transcripts.read(OPENHANDS)
    advice = explain(
        transcripts.batch,
        model="Qwen/Qwen3-8B",
        gpu="h100-sxm",
        load=kvsim.Load(kv="always"),
        transcripts=transcripts,
    )
    assert [saving["name"] for saving in found["agent"]] == [saving.name for saving in advice.agent]
    best = found["agent"][found["top"][0]]
    assert best["saved_model_s"]["value"] == advice.top()[0].saved_s
    assert best["saved_model_s"]["low"] <= best["saved_model_s"]["value"] <= best["saved_model_s"]["high"]
    assert sum(found["attribution_s"].values()) == pytest.approx(found["totals"]["model_s"]["value"])
    patterns = {pattern["name"]: pattern for pattern in found["patterns"]}
    assert patterns["format collapse"]["findings"][0]["span"]["part"] == "calls[0]"


def test_explain_as_csv_is_one_row_a_change() -> None:
    rows = list(csv.DictReader(io.StringIO(run("explain", OPENHANDS, *PRICED, "--csv"))))
    assert {row["kind"] for row in rows} >= {"drop", "truncate", "engine"}
    assert all(float(row["saved_model_s_low"]) <= float(row["saved_model_s_high"]) for row in rows)


def test_explain_of_one_trajectory() -> None:
    text = run("explain", OPENHANDS, *PRICED, "-t", "ponylang__ponyc-4595")
    assert "1 trajectory, 23 turns" in text
    assert "unknown trajectory 'ponylang__ponyc-4'" in refused("explain", OPENHANDS, *PRICED, "-t", "ponylang__ponyc-4")


def test_a_log_without_text_says_so(tmp_path: Path) -> None:
    path = tmp_path / "counts.jsonl"
    linear(6, 3).to_jsonl(path)
    text = run("explain", str(path), *PRICED)
    assert "carries no text" in " ".join(text.split())
    assert "tool mixing" not in text
    assert "the log does not say what it is" in " ".join(text.split())


def test_shared_engines_are_simulated() -> None:
    text = run("explain", OPENHANDS, *PRICED, "--arrivals", "closed:2", "--top", "2")
    assert "2 in flight" in text
    assert "retention" in text
    assert max(map(len, text.splitlines())) <= 80


def test_top_lists_trajectories_tools_calls_and_models() -> None:
    path = str(LABELLED / "tau-bench.json.gz")
    text = run("top", path, *PRICED, "-m", "Qwen/Qwen3-32B", "--top", "3")
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    for said in ("Models", "Trajectories (3 of 16)", "Tools, by what", "Tool calls, by what"):
        assert said in text
    found = json.loads(run("top", path, *PRICED, "--json", "--top", "3"))
    assert [len(found[name]) for name in ("models", "trajectories", "tools", "calls")] == [1, 3, 3, 3]
    costs = [call["model_s"]["value"] for call in found["calls"]]
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("how", [["--arrivals", "closed:3"], ["--arrivals", "poisson:2", *SCHEDULED]])
def test_top_of_shared_engines_is_what_their_attribution_blames(how: list[str]) -> None:
    """To the nanosecond, evictions by others included: the cache holds about one of the three trajectories."""
    arguments = ["top", OPENHANDS, *PRICED, *how, "--num-gpu-blocks-override", "3000", "--top", "1000"]
    found = json.loads(run(*arguments, "--json"))
    traffic = found["traffic"]
    engine = kvsim.EngineConfig(num_gpu_blocks_override=3000)
    if len(how) > 2:
        engine = replace(engine, scheduling_policy="priority", async_scheduling=False, long_prefill_token_threshold=256)
    batch = kvsim.read(OPENHANDS)
    made = attribute(kvsim.simulate(batch, model=PRICED[1], gpu=PRICED[3], engine=engine, evictions=True, **traffic))
    for part, whole in (
        ("fresh", made.run_sources.fresh_ns.tool[0]),
        ("decode_context", made.run_sources.decode_context_ns.tool[0]),
        ("recompute", made.tool_calls.recompute_ns.sum()),
    ):
        assert whole > 0
        for name in ("tools", "calls"):
            assert sum(round(1e9 * one[f"{part}_s"]) for one in found[name]) == whole
    assert [call["row"] for call in found["calls"]] == [call.row for call in blame_of_calls(made)]
    model_s = [one["model_s"] for one in found["trajectories"]]
    assert model_s == sorted(model_s, reverse=True)
    assert sum(round(1e9 * seconds) for seconds in model_s) == sum(made.run[name][0] for name in PARTS)
    text = run(*arguments)
    assert max(map(len, text.splitlines())) <= 80
    for said in ("3 in flight" if len(how) == 2 else "Poisson", "queue", "Tools, by what is blamed on their responses"):
        assert said in text


def test_top_says_where_nobody_wrote_down_who_evicted_what(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["top", OPENHANDS, *PRICED, "--arrivals", "closed:3", "--num-gpu-blocks-override", "3000", "--json"]
    said = "who evicted what was not written down"
    assert not [line for line in json.loads(run(*arguments))["warnings"] if said in line]
    monkeypatch.setattr("kvsim.commands._asked.EVICTION_TURNS", 10)
    assert [line for line in json.loads(run(*arguments))["warnings"] if said in line]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["explain", "nothing.json", *PRICED], "no such file"),
        (["explain", OPENHANDS, "-m", "Qwen/Qwen3-8", "-g", "h100-sxm"], "unknown model"),
        (["explain", OPENHANDS, *PRICED, "--json", "--csv"], "both want stdout"),
        (["explain", OPENHANDS, *PRICED, "--by", "joules"], "nothing to rank by"),
        (["explain", OPENHANDS, *PRICED, "--load", "kv=never", "--arrivals", "closed:2"], "not both"),
        (["explain", OPENHANDS, *PRICED, "--scheduling-policy", "priority"], "nobody waits in an estimate"),
        (
            ["report", OPENHANDS, *PRICED, "-o", "none.html", "--no-cliff", "--scheduling-policy", "priority"],
            "nobody waits in an estimate",
        ),
        (["top", OPENHANDS, *PRICED, "--load", "kv=forever"], "unknown KV survival"),
        (["top", OPENHANDS, *PRICED, "--load", "kv=never", "--arrivals", "closed:2"], "not both"),
        (["top", OPENHANDS, *PRICED, "--retention", "drop"], "options of traffic are of a simulation"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], problem: str) -> None:
    assert problem in refused(*arguments)


FINDINGS = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "refresh_findings.py"))
SHOWN = FINDINGS["SHOWN"].findall(FINDINGS["PAGE"].read_text(encoding="utf-8"))
CORPORA = FINDINGS["CORPORA"]


@pytest.mark.parametrize(("command", "shown"), SHOWN, ids=[command.split()[2] for command, _ in SHOWN])
def test_what_was_found_is_what_commands_print(
    command: str, shown: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(command)[1:]
    if words[1] in CORPORA:
        shared: Path = request.getfixturevalue("shared")
        (tmp_path / words[1]).symlink_to((shared / CORPORA[words[1]]).resolve())
    else:
        (tmp_path / "tests").symlink_to(Path(__file__).parent)
    monkeypatch.chdir(tmp_path)
    assert run(*words).split() == shown.split(), "it has changed: python tools/refresh_findings.py"


HOSTILE = {
    "id": "\x1b[31mred\nline \u202e" + "日本語" * 40,
    "turns": [
        {"prompt_tokens": 1000, "output_tokens": 10},
        {
            "parent": 0,
            "kept_tokens": 1010,
            "prompt_tokens": 3000,
            "output_tokens": 5,
            "pause_s": 1,
            "tool": "\x1b]0\a\n",
        },
    ],
}


@pytest.mark.parametrize(
    "arguments",
    [
        ["estimate", "--turns"],
        ["top"],
        ["top", "--arrivals", "closed:1"],
        ["explain"],
        ["simulate", "--arrivals", "closed:1"],
    ],
)
def test_names_from_logs_move_no_cursor_and_push_no_number_out_of_the_line(
    arguments: list[str], tmp_path: Path
) -> None:
    log = tmp_path / "hostile.jsonl"
    log.write_text(json.dumps(HOSTILE) + "\n", encoding="utf-8")
    shown = run(arguments[0], str(log), *PRICED, *arguments[1:])
    assert "\\x1b" in shown
    assert [line for line in shown.splitlines() if not line.isprintable() or cell_len(line) > 80] == []
    assert re.findall(r"\.\d*(?:ms|s| m)?…(?!\d)", shown) == [], "a number was cut"


def test_a_narrow_console_cuts_no_number_and_folds_what_can_be_folded() -> None:
    out = io.StringIO()
    console = WholeLines(file=out, width=30, highlight=False)
    shown = table()
    shown.add_column("what", min_width=8)
    for heading in ("responses", "cost"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_row("a name of several words", "1,234,567,890", "$123.4567")
    console.print(shown)
    console.print(Indented(shown))
    assert out.getvalue().count("1,234,567,890  $123.4567") == 2
    assert "a name of several" not in out.getvalue()


@pytest.mark.parametrize(
    "how",
    [
        ["--load", "concurrent=8,kv=ttl:60", "--kv-cache-dtype", "fp8", "--long-prefill-token-threshold", "512"],
        ["--arrivals", "closed:2"],
        ["--arrivals", "poisson:4", "--seed", "3", "--replicas", "2", "--router", "sticky", *SCHEDULED],
    ],
)
def test_all_commands_come_to_the_same_total(how: list[str], tmp_path: Path) -> None:
    priced = [OPENHANDS, *PRICED, *how]
    total = json.loads(run("explain", *priced, "--json"))["totals"]
    trace = tmp_path / "trace.json"
    run("export", "--perfetto", *priced, "-o", str(trace))
    phases = [one for one in json.loads(trace.read_text())["traceEvents"] if one.get("cat") == "phase"]
    assert sum(round(1e3 * one["dur"]) for one in phases) == round(1e9 * total["model_s"]["value"])
    if "--arrivals" in how:
        found = json.loads(run("simulate", *priced, "--json"))["totals"]
    else:
        found = json.loads(run("estimate", *priced, "--json"))["estimates"][0]["totals"]
    assert json.loads(run("top", *priced, "--json"))["models"][0]["totals"] == found
    for unit, ends in total.items():
        assert found[unit] == pytest.approx(ends["value"], rel=1e-12)


@pytest.mark.parametrize(
    ("way", "unlike"),
    [
        (["--load", "concurrent=8"], SCHEDULED[3:]),
        (["--arrivals", "closed:3"], SCHEDULED[3:]),
        (["--arrivals", "closed:3"], ["--no-async-scheduling"]),
    ],
)
def test_options_of_the_scheduler_bear_on_what_is_explained(way: list[str], unlike: list[str]) -> None:
    without, with_it = (
        json.loads(run("explain", OPENHANDS, *PRICED, *way, *more, "--json"))["totals"]["model_s"]["value"]
        for more in ([], unlike)
    )
    assert without != with_it
