"""``kvsim simulate`` and ``kvsim sweep``: what they print and write is what the library computes."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import kvsim
from kvsim.commands import app
from kvsim.commands.demo import MODEL, example
from kvsim.commands.sweep._break_even import crossings
from kvsim.commands.sweep._rows import COLUMNS
from kvsim.simulation import ROUTERS

DOCS = Path(__file__).parents[1] / "docs"
GPU = "rtx-4090"
"""The example's three contexts do not fit on it together."""


@pytest.fixture
def kvsim_(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("simulate") / "runs.jsonl"
    example().to_jsonl(path)
    return path


@pytest.fixture
def serve(kvsim_, log):
    return lambda *arguments: kvsim_("simulate", log, "-m", MODEL, "-g", GPU, "--arrivals", "closed:3", *arguments)


@pytest.fixture
def sweep(kvsim_, log):
    return lambda *arguments: kvsim_("sweep", log, "-m", MODEL, "-g", GPU, *arguments)


@pytest.fixture(scope="module")
def run():
    return kvsim.simulate(example(), model=MODEL, gpu=GPU, arrivals="closed:3")


def loads(text):
    """JSON, refusing the NaN that Python would take."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def fails(done, code, *texts):
    assert done.exit_code == code
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    for text in texts:
        assert text in done.stderr


# simulate


def test_the_totals_are_the_librarys(serve, run):
    done = serve("--json")
    document = loads(done.stdout)
    assert document["schema"] == "kvsim.simulate/1"
    engine, totals = document["engine"], document["totals"]
    makespan_s = run.turns.finish_s.max() - run.turns.release_s.min()
    assert engine["turns"] == 105
    assert engine["makespan_s"] == pytest.approx(makespan_s, rel=1e-12)
    assert engine["turns_per_s"] == pytest.approx(105 / makespan_s, rel=1e-12)
    assert engine["busy_share"] == pytest.approx(run.engine.busy_s / makespan_s, rel=1e-12)
    assert engine["hit_rate"] == run.engine.hit_rate
    for name in ("busy_s", "steps", "evicted_blocks", "preemptions", "peak_blocks", "usable_blocks"):
        assert engine[name] == getattr(run.engine, name)
    cached, lost = run.cached_tokens.sum(), run.recomputed_tokens.sum()
    assert lost > 0
    assert engine["reuse_share"] == cached / (cached + lost)
    assert engine["recompute_share"] == lost / run.batch.prompt_tokens.sum()
    sums = ("model_s", "queue_s", "fresh_prefill_s", "recompute_s", "decode_s", "gpu_s", "usd", "kv_byte_s", "joules")
    for name in (*sums, "latency_s", "cached_tokens", "recomputed_tokens"):
        assert totals[name] == pytest.approx(getattr(run, name).sum(), rel=1e-14)
        assert [one[name] for one in document["trajectories"]] == getattr(run, name).tolist()
    assert document["pricing"]["model"] == MODEL
    assert document["traffic"]["arrivals"] == "closed:3"
    assert [f"warning: {said}" for said in document["warnings"]] == done.stderr.splitlines()


def test_the_distributions_are_the_librarys(serve, run):
    found = loads(serve("--json").stdout)["distributions"]
    for name in ("ttft_s", "e2e_s", "queue_s", "decode_s", "latency_s"):
        values = run.latency_s if name == "latency_s" else run.turns[name]
        assert found[name]["mean"] == pytest.approx(values.mean(), rel=1e-14)
        assert [found[name][f"p{part}"] for part in (50, 90, 99)] == np.quantile(values, [0.5, 0.9, 0.99]).tolist()


def test_the_most_turns_at_once_are_counted_one_by_one(serve, run):
    spans = list(zip(run.served.scheduled_ns.tolist(), run.served.finish_ns.tolist(), strict=True))
    most = max(sum(begun <= now < ended for begun, ended in spans) for now, _ in spans)
    assert loads(serve("--json").stdout)["engine"]["peak_sequences"] == most > 1


def test_people_read_it_at_80_columns_without_colour(serve):
    done = serve("--timeline", 100, "--replicas", 2)
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout
    assert "…" not in done.stdout.split("Slowest trajectories")[0]
    for text in (
        "3 trajectories, 105 turns",
        f"{MODEL} (bfloat16) on 1 x {GPU}",
        "3 in flight",
        "held-out points",
        "of prompt tokens were cached",
        "time to first token",
        "queue",
        "KV use",
        "Slowest trajectories (3 of 3)",
    ):
        assert text in done.stdout


def test_what_was_evicted_is_said(serve, run):
    shown = " ".join(serve().stdout.split())
    assert f"{run.recomputed_tokens.sum():,} tokens prefilled again" in shown
    assert f"{run.engine.evicted_blocks:,} blocks evicted, 0 preemptions" in shown


@pytest.mark.parametrize("router", ROUTERS)
def test_replicas_are_told_apart(kvsim_, log, router):
    asked = ("--arrivals", "closed:3", "--replicas", 2, "--router", router)
    document = loads(kvsim_("simulate", log, "-m", MODEL, "-g", GPU, *asked, "--json").stdout)
    expected = kvsim.simulate(example(), model=MODEL, gpu=GPU, arrivals="closed:3", replicas=2, router=router)
    assert [one["busy_s"] for one in document["replicas"]] == [one.busy_s for one in expected.replicas]
    assert [one["turns"] for one in document["replicas"]] == np.bincount(expected.turns.replica).tolist()
    shares = [one["busy_share"] for one in document["replicas"]]
    assert document["engine"]["busy_share"] == pytest.approx(sum(shares) / 2)


def test_turns_and_timeline_are_written_and_not_over_other_files(serve, run, tmp_path):
    turns, timeline = tmp_path / "turns.csv", tmp_path / "timeline.csv"
    asked = ("--turns", turns, "--timeline", 50, "--timeline-csv", timeline)
    document = loads(serve(*asked, "--json").stdout)
    assert [float(row["ttft_s"]) for row in rows(turns)] == run.turns.ttft_s.tolist()
    assert len(rows(timeline)) == len(document["timeline"]) == math.ceil(run.engine.end_s / 50)
    assert [float(row["kv_use"]) for row in rows(timeline)] == [one["kv_use"] for one in document["timeline"]]
    before = turns.read_bytes()
    fails(serve(*asked), 2, "turns.csv", "--force")
    assert serve(*asked, "--force").exit_code == 0
    assert turns.read_bytes() == before


def test_turns_beyond_a_limit_are_counted_and_left_out_of_sums(serve, tmp_path):
    done = serve("--max-model-len", 20_000, "--json", "--turns", tmp_path / "turns.csv")
    document = loads(done.stdout)
    expected = kvsim.simulate(
        example(), model=MODEL, gpu=GPU, arrivals="closed:3", engine=kvsim.EngineConfig(max_model_len=20_000)
    )
    assert document["status_counts"] == expected.status_counts
    assert document["engine"]["turns"] == expected.status_counts["ok"] < 105
    assert document["totals"]["trajectories"] == expected.served_whole.sum() < 3
    assert document["totals"]["gpu_s"] == np.nansum(expected.gpu_s)
    assert [one["latency_s"] is None for one in document["trajectories"]] == np.isnan(expected.latency_s).tolist()
    assert sum(row["ttft_s"] == "" for row in rows(tmp_path / "turns.csv")) == expected.status_counts["over_max"]
    assert "beyond the longest context of 20,000 tokens: not served" in done.stderr
    fails(serve("--max-model-len", 20_000, "--strict"), 2, "over max")
    assert "None of the turns could be served" in serve("--max-model-len", 100).stdout


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("--arrivals", "bursts"), ("'bursts'", "arrivals", "closed:64")),
        (("--retention", "lruu"), ("retention", "lru")),
        (("--router", "random"), ("router", "round-robin")),
        (("--speedup", 0), ("speedup", "above 0")),
        (("--stagger", -1), ("stagger_s", "0 or more")),
        (("--backend", "abacus"), ("backend", "native")),
        (("--timeline", 0), ("timeline_s",)),
        (("--timeline-csv", "bins.csv"), ("timeline_csv", "--timeline SECONDS")),
        (("--gpu", "h1000"), ("'h1000'",)),
        (("--model", "Qwen/Qwen3-32B"), ("does not fit", "tensor_parallel_size=4")),
    ],
)
def test_wrong_options_of_simulate_are_refused_with_field_and_remedy(serve, arguments, texts):
    fails(serve(*arguments), 2, *texts)


# sweep


def test_each_row_is_a_simulation(sweep, tmp_path):
    path = tmp_path / "points.csv"
    axes = ("--gpu", "h100-sxm", "--concurrency", "1,3", "--retention", "lru,drop", "--pause-scale", "1,10")
    done = sweep(*axes, "--csv", path, "--json")
    document = loads(done.stdout)
    assert document["schema"] == "kvsim.sweep/1"
    points = document["points"]
    asked = itertools.product((GPU, "h100-sxm"), ("lru", "drop"), (1.0, 10.0), ("closed:1", "closed:3"))
    assert [(one["gpu"], one["retention"], one["pause_scale"], one["arrivals"]) for one in points] == list(asked)
    for one, row in zip(points, rows(path), strict=True):
        batch = example().scale_pauses(one["pause_scale"])
        expected = kvsim.simulate(
            batch, model=MODEL, gpu=one["gpu"], arrivals=one["arrivals"], retention=one["retention"]
        )
        assert one["ttft_s_mean"] == pytest.approx(expected.turns.ttft_s.mean(), rel=1e-14)
        assert one["latency_s_p90"] == np.quantile(expected.latency_s, 0.9)
        assert one["gpu_s"] == expected.totals["gpu_s"]
        assert one["evicted_blocks"] == expected.engine.evicted_blocks
        assert one["recomputed_tokens"] == expected.recomputed_tokens.sum()
        assert one["mean_pause_s"] == batch.pause_ns[batch.after >= 0].mean() / 1e9
        told = {name: None if row[name] == "" else kind(row[name]) for name, kind in COLUMNS.items()}
        assert told == one


def test_capacities_in_tokens_are_blocks(sweep):
    tokens, blocks = (
        loads(sweep("--arrivals", "closed:3", *axis, "--json").stdout)["points"]
        for axis in (("--kv-tokens", "40000,48000", "--block-size", 32), ("--blocks", "1250,1500", "--block-size", 32))
    )
    assert tokens == blocks
    assert [one["kv_capacity_tokens"] for one in tokens] == [40_000, 48_000]


def test_points_that_cannot_be_are_rows(kvsim_, log, tmp_path):
    models = (MODEL, "Qwen/Qwen2.5-72B-Instruct", "google/gemma-4-26B-A4B")
    asked = ("sweep", log, *(part for model in models for part in ("-m", model)), "-g", "h100-sxm")
    done = kvsim_(*asked, "--concurrency", 2, "--csv", tmp_path / "points.csv")
    assert done.exit_code == 0
    assert "does not fit" in done.stdout
    assert "1 point without a result: Qwen/Qwen2.5-72B-Instruct does not fit" in done.stderr
    found = rows(tmp_path / "points.csv")
    assert [row["status"] for row in found] == ["ok", "does_not_fit", "refused"]
    assert "tensor_parallel_size=2" in found[1]["reason"]
    assert found[1]["turns_per_s"] == ""
    fails(kvsim_(*asked, "--concurrency", 2, "--strict"), 2, "does not fit")


def test_a_sweep_without_any_result_says_why(kvsim_, log):
    done = kvsim_("sweep", log, "-m", "Qwen/Qwen3-32B", "-g", GPU, "--cliff")
    assert done.exit_code == 0
    assert "does not fit" in done.stdout
    assert "tensor_parallel_size=4" in done.stderr


def test_people_read_a_sweep_at_80_columns(sweep):
    done = sweep("-g", "h100-sxm", "-m", "Qwen/Qwen3-8B", "--concurrency", "1,3", "--retention", "lru,drop")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in done.stdout
    assert len([line for line in lines if line.startswith(("Qwen/", "meta-"))]) == 16


def test_the_same_command_gives_the_same_bytes(sweep, tmp_path):
    written = []
    for name in ("one.csv", "two.csv"):
        done = sweep("--arrivals", "poisson:0.01,closed:2", "--replicas", "1,2", "--csv", tmp_path / name, "--json")
        written.append((done.stdout, (tmp_path / name).read_bytes()))
    assert written[0] == written[1]


def test_a_rerun_takes_rows_from_the_file(sweep, tmp_path):
    path = tmp_path / "points.csv"
    first = sweep("--concurrency", "1,2", "--csv", path, "--json")
    lines = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    lines[1][lines[0].index("gpu_s")] = "12345.0"
    path.write_text("".join(",".join(line) + "\n" for line in lines), encoding="utf-8")
    again = loads(sweep("--concurrency", "1,2,3", "--csv", path, "--json").stdout)["points"]
    assert again[0]["gpu_s"] == 12345.0, "the row was computed anew"
    assert again[1] == loads(first.stdout)["points"][1]
    assert len(rows(path)) == 3


def test_a_row_that_was_cut_off_is_written_anew(sweep, tmp_path):
    path = tmp_path / "points.csv"
    sweep("--concurrency", "1,2", "--csv", path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert sweep("--concurrency", "1,2", "--csv", path).exit_code == 0
    assert path.read_bytes() == whole


def test_the_table_of_another_sweep_is_refused(sweep, tmp_path):
    path = tmp_path / "points.csv"
    sweep("--concurrency", "1", "--csv", path)
    before = path.read_bytes()
    for other in (("--block-size", 32), ("--usd-per-hour", 9), ("--seed", 1), ("--speedup", 2)):
        fails(sweep("--concurrency", "1", "--csv", path, *other), 2, "points.csv", "another file")
    assert path.read_bytes() == before
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    fails(sweep("--concurrency", "1", "--csv", path), 2, "no table of a sweep")


def test_an_interrupted_sweep_goes_on_where_it_ended(log, tmp_path):
    path, whole = tmp_path / "cut.csv", tmp_path / "whole.csv"
    points = 150
    command = [sys.executable, "-m", "kvsim", "sweep", str(log), "-m", MODEL, "-g", GPU, "--concurrency", "2"]
    command += ["--blocks", ",".join(str(2200 + number) for number in range(points))]
    environment = os.environ | {"PYTHONPATH": str(Path(kvsim.__file__).parents[1])}

    def begin(target):
        return subprocess.Popen(
            [*command, "--csv", str(target)],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in background jobs
        )

    running = begin(path)
    patience = time.monotonic() + 60
    while not (path.exists() and path.read_bytes().count(b"\n") > 5) and time.monotonic() < patience:
        time.sleep(0.001)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert "Traceback" not in err
    cut = path.read_bytes()
    assert 5 < cut.count(b"\n") <= points, "it was over before the interrupt"
    for target in (path, whole):
        again = begin(target)
        again.communicate(timeout=120)
        assert again.returncode == 0
    assert path.read_bytes() == whole.read_bytes()
    assert path.read_bytes().startswith(cut)


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("--concurrency", "1,two"), ("concurrency", "'two'", "1,2,4,8")),
        (("--concurrency", "0"), ("concurrency", "whole numbers from 1")),
        (("--blocks", "1"), ("blocks", "null block")),
        (("--kv-tokens", "31"), ("kv_tokens", "whole numbers from 32")),
        (("--blocks", "9", "--kv-tokens", "99"), ("kv_tokens", "Choose one")),
        (("--replicas", "0"), ("replicas",)),
        (("--pause-scale", "0"), ("pause_scale", "above 0")),
        (("--arrivals", "bursts"), ("arrivals", "closed:64")),
        (("--retention", "lru,lruu"), ("retention", "lruu")),
        (("--router", "random"), ("router", "sticky")),
        (("--cliff", "--break-even"), ("Choose one",)),
        (("--cliff", "--arrivals", "poisson:1"), ("arrivals", "--concurrency")),
        (("--break-even", "--retention", "lru"), ("retention", "drop")),
        (("--gpu", "h1000"), ("'h1000'",)),
        (("--calibration", "mine.toml", "--gpu", "h100-sxm"), ("calibration", "--gpu once")),
        (("--speedup", -1), ("speedup",)),
        (("--csv", "/nowhere/points.csv", "--concurrency", "1"), ("cannot be written",)),
    ],
)
def test_wrong_options_of_sweep_are_refused_with_field_and_remedy(sweep, arguments, texts):
    fails(sweep(*arguments), 2, *texts)


# the presets


@pytest.fixture(scope="module")
def sessions(request):
    return request.path.parent / "data" / "logs" / "kv-cache-tester" / "sessions.jsonl.gz"


def reuse(batch, in_flight):
    run = kvsim.simulate(batch, model=MODEL, gpu="h100-sxm", arrivals=f"closed:{in_flight}")
    cached, lost = run.cached_tokens.sum(), run.recomputed_tokens.sum()
    return cached / (cached + lost)


def test_the_cliff_is_where_half_of_reuse_is_gone(kvsim_, sessions):
    done = kvsim_("sweep", sessions, "-m", MODEL, "-g", "h100-sxm", "--cliff", "--json")
    (cliff,) = loads(done.stdout)["cliffs"]
    batch = kvsim.read(sessions)
    assert cliff["collapses_at"] > 2
    assert reuse(batch, cliff["collapses_at"]) < 0.5 <= reuse(batch, cliff["collapses_at"] - 1)
    tried = [int(one["arrivals"].partition(":")[2]) for one in loads(done.stdout)["points"]]
    assert tried == sorted(set(tried))
    assert {1, 2, 4, 8, 16, 32, len(batch)} <= set(tried)
    assert cliff["reuse_share_at_most_in_flight"] == reuse(batch, len(batch))


def test_the_cliff_is_named(kvsim_, sessions, sweep):
    done = kvsim_("sweep", sessions, "-m", MODEL, "-g", "h100-sxm", "-g", "l40s", "--cliff")
    assert done.stdout.count("reuse collapses at") == 2
    assert "reuse does not collapse" in sweep("--cliff").stdout
    assert "reuse collapses at 1 in flight" in sweep("--cliff", "--retention", "drop").stdout


def test_the_break_even_is_between_the_first_policy_and_the_last(kvsim_, sessions):
    asked = ("sweep", sessions, "-m", MODEL, "-g", "h100-sxm", "--break-even", "--pause-scale", "0.01,0.1,1")
    for policies in ("lru,drop", "drop,lru"):
        done = kvsim_(*asked, "--retention", policies)
        assert "no break-even, lru is ahead of drop over all mean pauses" in " ".join(done.stdout.split())
        assert max(map(len, done.stdout.splitlines())) <= 80
        (found,) = loads(kvsim_(*asked, "--retention", policies, "--json").stdout)["break_evens"]
        assert found["by_model_s"] == {"break_even_s": None, "stretches": [{"from_pause_s": 0, "ahead": "lru"}]}
        assert (found["keeping"], found["dropping"]) == tuple(policies.split(","))
        assert found["fastest"] == "lru"


def test_by_default_twice_the_cache_is_wanted(kvsim_, sessions):
    asked = ("sweep", sessions, "-m", MODEL, "-g", "h100-sxm", "--break-even", "--retention", "lru,drop", "--json")
    points = loads(kvsim_(*asked).stdout)["points"]
    batch = kvsim.read(sessions)
    longest = [(batch.prompt_tokens + batch.output_tokens)[batch.trajectory == one].max() for one in range(len(batch))]
    number = math.ceil(2 * points[0]["kv_capacity_tokens"] / np.mean(longest))
    assert {one["arrivals"] for one in points} == {f"closed:{number}"}
    assert len({one["pause_scale"] for one in points}) == 7


def test_a_log_without_pauses_has_no_break_even(kvsim_, logs):
    mooncake = logs / "mooncake" / "conversation_trace.head200.jsonl"
    asked = ("sweep", mooncake, "-m", MODEL, "-g", "h100-sxm", "--break-even", "--retention", "lru,drop")
    fails(kvsim_(*asked), 2, "pause_s")


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([-1, -1, -1], []),
        ([1, 1, 1], []),
        ([-1, 1, 1], [math.sqrt(10)]),
        ([1, -1, 3], [math.sqrt(10), 10 ** (1 + 1 / 4)]),
        ([-1, 0, 1], [10.0]),
        ([1, 1, -1], [10**1.5]),
    ],
)
def test_crossings_are_interpolated_in_logarithms(gains, expected):
    assert crossings([1.0, 10.0, 100.0], gains) == pytest.approx(expected)


def test_scaled_pauses_are_all_that_changes():
    batch = example()
    scaled = batch.scale_pauses(2.5)
    assert scaled.pause_ns.tolist() == [round(pause * 2.5) for pause in batch.pause_ns.tolist()]
    assert all((scaled.columns[name] == batch.columns[name]).all() for name in batch.columns if name != "pause_ns")
    assert not batch.scale_pauses(0).pause_ns.any()
    for wrong in (-1, math.nan, math.inf):
        with pytest.raises(kvsim.InputError, match="pause_ns"):
            batch.scale_pauses(wrong)
    with pytest.raises(kvsim.InputError, match="pause_ns"):
        batch.scale_pauses(1e12)


# the documents


def documented(section):
    text = (DOCS / "json.md").read_text(encoding="utf-8")
    return text.partition(f"## kvsim {section} --json")[2].partition("\n## ")[0]


def test_every_field_of_a_simulation_is_documented(serve):
    document = loads(serve("--json", "--timeline", 100).stdout)
    told = documented("simulate") + documented("estimate")
    for part in (document, document["engine"], document["distributions"], document["traffic"], document["replicas"][0]):
        for name in part:
            assert name in told
    for name in (*document["totals"], *document["trajectories"][0], *document["timeline"][0]):
        assert name in told


def test_every_column_of_a_sweep_is_documented(sweep):
    document = loads(sweep("--concurrency", "1", "--json").stdout)
    told = documented("sweep") + documented("simulate") + documented("estimate")
    for name in (*document, *(column.replace("_mean", "") for column in COLUMNS)):
        assert name in told or name.rpartition("_")[2] in ("p50", "p90", "p99")
    for one in (sweep("--cliff", "--json"), sweep("--break-even", "--retention", "lru,drop", "--json")):
        found = loads(one.stdout)
        for name in (found["cliffs"] or found["break_evens"])[0]:
            assert name in told
