"""The report's page as text: its data are the result's to the nanosecond, and names from logs stay text."""

from __future__ import annotations

import base64
import gzip
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from report_cases import GPU, HOSTILE, MODEL, named, one_too_long, page
from typer.testing import CliRunner

import kvsim
from kvsim import Batch
from kvsim.commands import app
from kvsim.commands.demo import example
from kvsim.report.page.packing import pack_columns

pytest.importorskip("jinja2", reason="the report needs jinja2")
pytest.importorskip("plotly", reason="the report needs plotly")

from kvsim.report.page import render

PARTS = ("queue_ns", "fresh_ns", "recompute_ns", "decode_base_ns", "decode_context_ns", "decode_beside_ns")


class Scripts(HTMLParser):
    """The contents of script elements by id, and whatever would load or run something else."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.by_id: dict[str, str] = {}
        self.scripts = 0
        self.outside: list[str] = []
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "script":
            self.scripts += 1
            self._open = given.get("id", "")
        self.outside += [
            f"{tag} {name}={value}" for name, value in attrs if name in ("src", "srcset") or name[:2] == "on"
        ]
        if tag in ("link", "iframe", "object", "embed", "img", "base") or (tag == "a" and given["href"][0] != "#"):
            self.outside.append(f"{tag} {given}")

    def handle_endtag(self, tag):
        if tag == "script":
            self._open = None

    def handle_data(self, data):
        if self._open:
            self.by_id[self._open] = self.by_id.get(self._open, "") + data


def unpacked(text):
    """The facts and columns of a page, read anew."""
    scripts = Scripts(text).by_id
    facts, planes = (gzip.decompress(base64.b64decode(scripts[id])) for id in ("facts-data", "columns-data"))
    facts = json.loads(facts)
    return facts, read_columns(planes, facts["columns"])


def read_columns(content, specs):
    columns, at = {}, 0
    for spec in specs:
        rows, values = spec["rows"], [spec["low"]] * spec["rows"]
        for plane in range(spec["planes"]):
            values = [value + (byte << 8 * plane) for value, byte in zip(values, content[at : at + rows], strict=True)]
            at += rows
        columns[spec["name"]] = np.array(values, np.int64)
    assert at == len(content)
    return columns


@given(
    st.dictionaries(
        st.text(max_size=3),
        arrays.arrays(np.int64, st.integers(0, 9), elements=st.integers(-(2**61), 2**61)),
        max_size=4,
    )
)
def test_columns_come_back(columns):
    content, specs = pack_columns(columns)
    back = read_columns(content, specs)
    assert back.keys() == columns.keys()
    for name, column in columns.items():
        np.testing.assert_array_equal(back[name], column)


WAYS = {
    "estimate": {},
    "evicted": {"load": "concurrent=8,mean_context=9000,kv=always"},
    "ttl": {"load": "kv=ttl:1"},
    "simulation": {"arrivals": "closed:2"},
    "replicas": {"arrivals": "poisson:0.01", "replicas": 2, "router": "sticky"},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_data_sum_to_the_results_totals(way):
    batch = example()
    made = page(batch, **way)
    facts, columns = unpacked(render(made))
    assert facts["ids"] == list(batch.ids)
    owner = np.repeat(np.arange(len(batch)), columns["trajectory.turns"])
    for name in (*PARTS, "tool_ns"):
        sums = np.bincount(owner, columns[name], len(batch)).astype(np.int64)
        np.testing.assert_array_equal(sums, made.attribution.trajectories[name])
    model_ns = sum(columns[name].sum() for name in PARTS)
    assert model_ns / 1e9 == pytest.approx(made.result.model_s.sum(), rel=1e-12)
    np.testing.assert_array_equal(columns["trajectory.latency_ns"], np.rint(made.result.latency_s * 1e9))
    assert columns["gpu_ns"].sum() / 1e9 == pytest.approx(made.result.gpu_s.sum(), rel=1e-9)
    assert columns["kv_byte_s"].sum() == pytest.approx(made.result.kv_byte_s.sum(), rel=1e-9)
    np.testing.assert_array_equal(columns["cached_tokens"], made.result.turns.cached_tokens)
    assert ("replica" in facts["turn_columns"]) == ("arrivals" in way)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_blame_is_the_attributions_and_adds_up(way):
    tight = {"engine": kvsim.EngineConfig(num_gpu_blocks_override=2_500)} if "arrivals" in way else {}
    made = page(example(), **way, **tight)
    facts, columns = unpacked(render(made))
    attribution = made.attribution
    for name in ("fresh_ns", "recompute_ns", "decode_context_ns"):
        np.testing.assert_array_equal(columns[f"call.{name}"], attribution.tool_calls[name])
        assert sum(facts["tool_totals"][name]) == attribution.tools[name].sum()
    at = list(facts["tools"]).index("execute_bash")
    assert facts["tool_totals"]["calls"][facts["tool_totals"]["tool"].index(at)] == attribution.tools.calls[at]
    fresh = sum(columns[f"trajectory.fresh.{name}"].sum() for name in facts["sources"])
    assert fresh == columns["fresh_ns"].sum()
    if "arrivals" in way:
        lost = sum(part["value"] for part in facts["evictions"]["by_time"])
        assert lost == pytest.approx(columns["recompute_ns"].sum() / 1e9, rel=1e-12)
    else:
        assert facts["evictions"] is None


def test_rows_in_any_order_are_sorted_by_trajectory():
    batch = Batch.from_columns(
        parent=[-1, -1, 1, 0],
        kept_tokens=[0, 0, 60, 60],
        prompt_tokens=[50, 51, 90, 91],
        output_tokens=[10, 10, 10, 10],
        pause_ns=[0, 0, 10**9, 2 * 10**9],
        arrival_ns=[0, 5 * 10**9, 0, 0],
        trajectory=[1, 0, 0, 1],
        ids=["b", "a"],
    )
    _, columns = unpacked(render(page(batch)))
    assert columns["prompt_tokens"].tolist() == [51, 90, 50, 91]
    assert columns["parent"].tolist() == [0, 1, 0, 1]
    assert columns["release_ns"][[0, 2]].tolist() == [0, 0]
    assert columns["trajectory.start_ns"].tolist() == [5 * 10**9, 0]


def test_names_are_text_and_nothing_else():
    plain = Scripts(render(page(named(["a"], ["t"]))))
    text = render(page(named(HOSTILE, HOSTILE)))
    found = Scripts(text)
    assert found.scripts == plain.scripts
    assert not found.outside
    assert "alert(1)" not in text
    facts, _ = unpacked(text)
    assert facts["ids"] == list(HOSTILE)
    assert facts["tools"] == list(HOSTILE)


def test_what_a_page_says_of_its_input_is_text(tmp_path):
    name = "<script>alert(4)</script>&\"'.jsonl"
    hidden = tmp_path / name.replace("/", "\u2215")
    hidden.write_text('{"id": "a", "turns": [{"prompt_tokens": 0}]}\n{"id": "b", "turns": [{"prompt_tokens": 5}]}\n')
    output = tmp_path / "report.html"
    done = CliRunner().invoke(app, ["report", str(hidden), "--lenient", "-m", MODEL, "-g", GPU, "-o", str(output)])
    assert done.exit_code == 0, done.output
    text = output.read_text(encoding="utf-8")
    assert "alert(4)" in text  # the warning names the file
    assert "<script>alert(4)" not in text
    assert not Scripts(text).outside


def test_only_the_pages_own_scripts_may_run_and_nothing_may_be_fetched():
    text = render(page(example()))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "unsafe" not in policy.replace("style-src &#39;unsafe-inline&#39;", "")


EMPTY = Batch.from_trajectories([])
ONE = Batch.from_trajectories([{"id": "one", "turns": [{"prompt_tokens": 1, "output_tokens": 1}]}])


@pytest.mark.parametrize("batch", [EMPTY, ONE, one_too_long()], ids=["empty", "one", "one too long"])
@pytest.mark.parametrize("way", [{}, {"arrivals": "closed:2"}], ids=["estimate", "simulation"])
@pytest.mark.filterwarnings("error")
def test_small_and_unpriced_batches_have_pages(batch, way):
    made = page(batch, **way, cliff=True)
    text = render(made)
    facts, columns = unpacked(text)
    assert facts["ids"] == list(batch.ids)
    assert len(columns["status"]) == batch.turns
    assert "NaN" not in Scripts(text).by_id["summary"]
    if batch.turns == 3:
        assert columns["status"].tolist() == [0, 0, 1]
        assert columns["trajectory.latency_ns"][1] == -1
        assert "beyond the longest context" in text


def test_the_same_page_gives_the_same_bytes():
    assert render(page(example(), cliff=True)) == render(page(example(), cliff=True))


def test_the_cliff_is_the_sweeps():
    found = page(example(), cliff=True, engine=kvsim.EngineConfig(num_gpu_blocks_override=2_500)).cliff
    assert found.in_flight == [1, 2, 3]
    assert found.reuse_share[0] == 1.0
    assert found.reuse_share[-1] < 0.9
    assert page(example()).cliff is None


def test_longer_survival_means_less_recompute():
    survival = page(example()).survival
    assert survival.recompute_s[0] > 40
    assert survival.recompute_s[-1] == 0
    assert sorted(survival.recompute_s, reverse=True) == survival.recompute_s


def conversation(number, response):
    """A run that calls a tool twice with the same arguments, with hostile text in what it says and reads."""
    messages = [{"role": "user", "content": "Look it up."}]
    for call in range(2):
        asked = {
            "id": str(call),
            "type": "function",
            "function": {"name": "look</script>", "arguments": '{"at": "<b>"}'},
        }
        messages.append({"role": "assistant", "content": "", "tool_calls": [asked]})
        messages.append({"role": "tool", "tool_call_id": str(call), "content": response})
    return {"id": f"run {number}", "messages": [*messages, {"role": "assistant", "content": "Done."}]}


def test_patterns_are_listed_with_the_words_they_fired_on(tmp_path):
    from kvsim.insight import Transcripts

    log = tmp_path / "runs.jsonl"
    answers = ["Error: </script><script>alert(5)</script> is unknown", "found it"]
    runs = [conversation(number, answers[number % 2]) for number in range(6)]
    log.write_text("\n".join(map(json.dumps, runs)) + "\n")
    said = Transcripts.read(log)
    made = page(said.batch, transcripts=said)
    text = render(made)
    assert "alert(5)" not in text
    assert not Scripts(text).outside
    patterns = unpacked(text)[0]["patterns"]
    assert patterns["with_text"] == 6
    by_name = {pattern["name"]: pattern for pattern in patterns["found"]}
    assert [pattern.name for pattern in made.advice.patterns] == list(by_name)
    failed = by_name["lack of tool priors"]
    assert (failed["looked_at"], failed["fired"], failed["occurrences"]) == (6, 3, 6)
    assert failed["findings"]["trajectory"] == [0, 0, 2, 2, 4, 4]
    assert failed["findings"]["turn"] == [0, 1] * 3 or failed["findings"]["turn"] == [1, 2] * 3
    assert "alert(5)" in failed["findings"]["excerpt"][0]
    repeated = by_name["repeated call"]
    assert repeated["fired"] > 0
    assert repeated["findings"]["excerpt"][0] == '{"at": "<b>"}'


@pytest.fixture
def ask(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    log = tmp_path / "runs.jsonl"
    example().to_jsonl(log)
    command = ["report", str(log), "-m", MODEL, "-g", GPU, "-o", str(tmp_path / "report.html")]
    return lambda *arguments: CliRunner().invoke(app, [*command, *arguments])


def test_the_command_writes_a_page_once(ask, tmp_path):
    output = tmp_path / "report.html"
    assert ask().exit_code == 0
    text = output.read_bytes()
    again = ask("--arrivals", "closed:2")
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert output.read_bytes() == text
    assert ask("--arrivals", "closed:2", "--force").exit_code == 0
    assert b"simulation: 2 in flight" in output.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--retention", "drop"], "--arrivals closed:16"),
        (["--load", "kv=always", "--arrivals", "closed:2"], "not both"),
        (["--arrivals", "closed:none"], "arrivals"),
        (["--arrivals", "closed:2", "--retention", "keep"], "retention"),
        (["-g", "h1000"], "h100"),
        (["-o", "/nowhere/at/all.html"], "no such folder"),
        (["--max-model-len", "9000", "--strict"], "max_model_len"),
    ],
)
def test_what_cannot_be_asked_for_is_said(ask, arguments, said):
    done = ask(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize("package", ["jinja2", "plotly"])
def test_a_missing_package_names_the_extra(ask, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    done = ask()
    assert done.exit_code == 3
    assert f"the report needs {package}: pip install 'kvsim[report]'" in done.stderr
