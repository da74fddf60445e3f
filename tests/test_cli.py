"""The command line: what it prints for people and programs, and how it fails."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import kvsim
from kvsim.commands import app
from kvsim.commands._format import count, duration, money, plain, shorten
from kvsim.commands.demo import GPUS, MODEL, example

RUN = {"COLUMNS": "80", "NO_COLOR": "1"}


@pytest.fixture
def kvsim_(monkeypatch):
    for name, value in RUN.items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "runs.jsonl"
    example().to_jsonl(path)
    return path


@pytest.fixture
def ask(kvsim_, log):
    return lambda *arguments: kvsim_("estimate", log, "--model", MODEL, "--gpu", "h100-sxm", *arguments)


def loads(text):
    """JSON, refusing the NaN that Python would take."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))


# for people


def test_estimate_says_what_it_read_with_what_it_priced_and_what_it_costs(ask):
    done = ask()
    assert done.exit_code == 0
    for text in (
        "3 trajectories, 105 turns",
        f"{MODEL} (bfloat16) on 1 x h100-sxm",
        "alone in its steps",
        "held-out points",
        "Most expensive trajectories (3 of 3)",
        "if every tool pause evicted",
        "Where the time went",
    ):
        assert text in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_a_load_is_priced_and_said(ask):
    shown = ask("--load", "concurrent=8,kv=always").stdout
    assert "8 sequences in a step" in shown
    assert "tokens prefilled again" in shown
    assert "if every tool pause evicted" not in shown


def test_logged_caching_says_how_many_turns_have_it(kvsim_, ask, tmp_path):
    path = tmp_path / "log.jsonl"
    turns = '{"prompt_tokens": 90, "output_tokens": 1}, {"prompt_tokens": 99, "output_tokens": 1, "cached_tokens": 80}'
    path.write_text('{"id": "one", "turns": [' + turns + "]}\n", encoding="utf-8")
    done = kvsim_("estimate", path, "-m", MODEL, "-g", "h100-sxm", "--load", "kv=logged")
    assert "cached tokens as logged, in 1 of 2 turns" in " ".join(done.stdout.split())
    assert "kv=logged" not in done.stderr
    assert "no turn of the log says how many tokens were cached" in ask("--load", "kv=logged").stderr


def test_turns_are_listed_when_asked_for(ask):
    assert "Most expensive turns (2 of 105)" in ask("--turns", "--top", 2).stdout


def test_gpus_side_by_side_over_what_both_can_serve(ask):
    done = ask("--gpu", "rtx-4090", "--max-model-len", 20_000)
    assert "Totals of the 1 that every GPU can serve" in done.stdout
    assert "rtx-4090" in done.stdout
    assert "beyond the longest context of 20,000 tokens" in done.stderr


def test_a_gpu_that_was_never_measured_is_said_to_be_datasheet_only(ask, kvsim_, log):
    assert "datasheet only: never measured" in kvsim_("estimate", log, "-m", MODEL, "-g", "h100-pcie").stdout


def test_a_card_that_does_not_fit_has_a_column_that_says_so(kvsim_, log):
    asked = ("estimate", log, "-m", "Qwen/Qwen3-32B", "-g", "h200-sxm", "-g", "rtx-4090")
    done = kvsim_(*asked)
    assert done.exit_code == 0
    assert "does not fit" in done.stdout
    assert "rtx-4090" in done.stdout
    assert "tensor_parallel_size=4" in done.stderr
    document = loads(kvsim_(*asked, "--json").stdout)
    assert [one["pricing"]["gpu"] for one in document["estimates"]] == ["h200-sxm"]
    assert any("does not fit" in warning for warning in document["warnings"])


def test_the_same_gpu_twice_is_one(ask):
    assert ask("--gpu", "H100-SXM").stdout == ask().stdout
    entries = loads(ask("-g", "rtx-4090", "-g", "H100-SXM", "--json").stdout)["estimates"]
    assert [one["pricing"]["gpu"] for one in entries] == ["h100-sxm", "rtx-4090"]


def test_a_card_without_a_price_is_said_without_money(kvsim_, log):
    for load in ("kv=never", "kv=ttl:0.5"):
        shown = " ".join(kvsim_("estimate", log, "-m", MODEL, "-g", "a10", "--load", load).stdout.split())
        assert "GPU-seconds, -" not in shown
        assert "- more" not in shown
        assert "model, -" not in shown


def test_the_demo_tells_its_story(kvsim_):
    done = kvsim_("demo")
    assert done.exit_code == 0
    assert all(gpu in done.stdout for gpu in GPUS)
    assert "more model time" in done.stdout
    assert done.stderr == ""


def test_nothing_priced_is_said(ask):
    done = ask("--max-model-len", 3000)
    assert "None of the trajectories could be priced" in done.stdout
    assert "105 turns beyond the longest context of 3,000" in done.stderr


# for programs


def test_json_agrees_with_the_library(ask):
    given = ("--tensor-parallel-size", 2, "--long-prefill-token-threshold", 512)
    done = ask("--json", "--turns", "--load", "concurrent=4,kv=ttl:0.5", *given)
    document = loads(done.stdout)
    assert document["schema"] == "kvsim.estimate/1"
    (entry,) = document["estimates"]
    engine = kvsim.EngineConfig(tensor_parallel_size=2, long_prefill_token_threshold=512)
    load = kvsim.Load(concurrent=4, kv="ttl:0.5")
    expected = kvsim.estimate(example(), model=MODEL, gpu="h100-sxm", load=load, engine=engine)
    assert [one["usd"] for one in entry["trajectories"]] == expected.usd.tolist()
    assert [one["e2e_s"] for one in entry["turns"]] == expected.turns.e2e_s.tolist()
    assert entry["totals"]["model_s"] == expected.model_s.sum()
    ends = entry["interval"]["totals"]["model_s"]
    assert ends["low"] < entry["totals"]["model_s"] < ends["high"]
    assert entry["pricing"]["load"]["kv"] == "ttl:0.5"
    assert document["input"]["turns"] == 105


def test_a_card_of_ones_own_is_priced_from_its_file_alone(kvsim_, log, tmp_path):
    text = (Path(__file__).parents[1] / "profiles" / "gpus" / "rtx-4090.toml").read_text(encoding="utf-8")
    card = tmp_path / "card.toml"
    card.write_text(text.replace('id = "rtx-4090"', 'id = "mycard"'), encoding="utf-8")
    done = kvsim_("estimate", log, "-m", MODEL, "-g", card)
    assert done.exit_code == 0
    assert "no calibration ships for mycard: that of rtx-4090 taken over" in done.stdout
    assert "not measured on mycard" in done.stderr
    assert kvsim_("profiles", "show", card).exit_code == 0


def test_what_is_unknown_is_null_in_json_and_empty_in_csv(ask):
    entry = loads(ask("--json", "--turns", "--max-model-len", 20_000).stdout)["estimates"][0]
    assert {one["usd"] is None for one in entry["trajectories"]} == {True, False}
    assert entry["status_counts"]["over_max"] == sum(turn["e2e_s"] is None for turn in entry["turns"])
    rows = list(csv.DictReader(io.StringIO(ask("--csv", "--max-model-len", 20_000).stdout)))
    assert [row["usd"] == "" for row in rows] == [one["usd"] is None for one in entry["trajectories"]]


def test_csv_has_a_row_a_trajectory_or_a_turn_for_each_gpu(ask):
    rows = list(csv.DictReader(io.StringIO(ask("--csv", "--gpu", "rtx-4090").stdout)))
    assert [row["gpu"] for row in rows] == ["h100-sxm"] * 3 + ["rtx-4090"] * 3
    assert len(list(csv.DictReader(io.StringIO(ask("--csv", "--turns").stdout)))) == 105


def test_warnings_are_in_the_json_and_on_stderr(ask):
    done = ask("--json", "--max-model-len", 20_000)
    (warning,) = loads(done.stdout)["warnings"]
    assert f"warning: {warning}" in done.stderr


def test_a_price_of_ones_own(ask):
    entry = loads(ask("--json", "--usd-per-hour", 36).stdout)["estimates"][0]
    assert entry["totals"]["usd"] == pytest.approx(entry["totals"]["gpu_s"] / 100)
    assert "(yours)" in ask("--usd-per-hour", 36).stdout


@pytest.mark.parametrize("arguments", [["profiles", "list"], ["profiles", "show", "h100"], ["backends"]])
def test_every_listing_comes_as_json_too(kvsim_, arguments):
    assert loads(kvsim_(*arguments, "--json").stdout)["schema"].startswith("kvsim.")


# profiles, backends, convert


def test_profiles_lists_every_gpu_and_model(kvsim_):
    shown = kvsim_("profiles").stdout
    assert all(name in shown for name in kvsim.gpus())
    assert "Qwen/Qwen3-8B" in shown


def test_profiles_show_names_the_source_of_each_number(kvsim_):
    shown = kvsim_("profiles", "show", "H100").stdout
    assert "989 TFLOP/s" in shown
    assert "[1]" in shown
    assert "datasheet" in shown
    assert "Evidence" in shown


def test_profiles_show_derives_a_models_sizes(kvsim_):
    shown = kvsim_("profiles", "show", "Qwen3-8B").stdout
    assert "8.19 B parameters" in shown
    assert "144 KiB a token in bfloat16" in shown


def test_backends_says_why_not(kvsim_):
    shown = kvsim_("backends").stdout
    assert "native" in shown
    assert "cuda" in shown
    found = {one["name"]: one for one in loads(kvsim_("backends", "--json").stdout)["backends"]}
    assert all(one["available"] or one["reason"] for one in found.values())


def test_convert_writes_what_estimate_prices_alike_and_does_not_overwrite(kvsim_, logs, tmp_path):
    source, target = logs / "openhands" / "output.excerpt.jsonl", tmp_path / "out.jsonl"
    done = kvsim_("convert", source, "-o", target)
    assert done.exit_code == 0
    assert "Wrote" in done.stdout
    before = target.read_bytes()
    refused = kvsim_("convert", source, "-o", target)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert kvsim_("convert", source, "-o", target, "--force").exit_code == 0
    assert target.read_bytes() == before
    prices = [
        loads(kvsim_("estimate", path, "-m", MODEL, "-g", "h100", "--json").stdout)["estimates"][0]["totals"]
        for path in (source, target)
    ]
    assert prices[0] == prices[1]


# failing


def fails(done, code, *texts):
    assert done.exit_code == code
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    for text in texts:
        assert text in done.stderr


def test_an_unknown_gpu_is_answered_with_a_near_one(kvsim_, log):
    fails(kvsim_("estimate", log, "-m", MODEL, "-g", "h1000"), 2, "'h1000'", "did you mean 'h100-sxm'")


def test_an_unknown_model_is_answered_with_a_near_one(kvsim_, log):
    fails(kvsim_("estimate", log, "-m", "qwen3-8", "-g", "h100"), 2, "did you mean 'Qwen/Qwen3-8B'")


def test_part_of_a_models_name_is_answered_with_a_few_that_hold_it(kvsim_, log):
    done = kvsim_("estimate", log, "-m", "Llama", "-g", "h100")
    fails(done, 2, "did you mean 'meta-llama/")
    assert len(done.stderr) < 300


def test_a_model_like_none_is_answered_briefly(kvsim_, log):
    done = kvsim_("estimate", log, "-m", "zzzzzz", "-g", "h100")
    fails(done, 2, "'kvsim profiles list' shows all")
    assert len(done.stderr) < 400


def test_a_missing_file_is_named(kvsim_):
    fails(kvsim_("estimate", "nowhere.jsonl", "-m", MODEL, "-g", "h100"), 2, "nowhere.jsonl: there is no such file")


def test_a_broken_line_is_named_by_file_and_line_and_can_be_left_out(kvsim_, log, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text(log.read_text() + '{"id": "bad", "turns": [{"prompt_tokens": -3, "output_tokens": 1}]}\n')
    fails(kvsim_("estimate", broken, "-m", MODEL, "-g", "h100"), 2, f"{broken}:4", "prompt_tokens")
    done = kvsim_("estimate", broken, "-m", MODEL, "-g", "h100", "--lenient")
    assert done.exit_code == 0
    assert "1 broken record left out" in done.stderr


def test_a_model_that_does_not_fit_names_the_number_of_gpus_that_would_do(kvsim_, log):
    done = kvsim_("estimate", log, "-m", "Qwen/Qwen3-32B", "-g", "rtx-4090")
    fails(done, 2, "does not fit on 1 x rtx-4090", "GiB short", "tensor_parallel_size=4")


def test_strict_stops_at_what_cannot_be_priced(ask):
    fails(ask("--strict", "--max-model-len", 20_000), 2, "over max")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--load", "concurrent=many"), "'many' is no number"),
        (("--load", "kv=sometimes"), "unknown KV survival"),
        (("--dtype", "bf8"), "dtype"),
        (("--json", "--csv"), "Choose one"),
        (("--backend", "abacus"), "unknown backend"),
        (("--calibration", "missing.toml"), "missing.toml"),
    ],
)
def test_wrong_options_are_refused_with_a_reason(ask, arguments, text):
    fails(ask(*arguments), 2, text)


def test_a_backend_that_is_not_there_has_its_own_exit_code(ask):
    from kvsim.backends import unavailable_reason

    if unavailable_reason("cuda") is None:
        pytest.skip("CUDA runs here")
    fails(ask("--backend", "cuda"), 3, "cuda: ")


def test_an_interrupt_ends_quietly(ask, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("kvsim.logs.read", interrupt)
    done = ask()
    assert done.exit_code == 130
    assert "Traceback" not in done.output


# validate


def test_validate_counts_steps_and_refuses_empty_folders(kvsim_, request, tmp_path):
    data = request.path.parent / "data" / "vllm_steps"
    good = kvsim_("validate", "--vllm-steps", data)
    assert good.exit_code == 0
    assert good.stdout.splitlines()[-1] == "1 runs, 797 steps, 544 evictions, 9 preemptions: 0 steps differ"
    assert kvsim_("validate", "--vllm-steps", tmp_path).exit_code == 2


def test_validate_in_closed_loop_reports_what_was_fitted_and_held_out(kvsim_, request, tmp_path):
    pytest.importorskip("scipy")
    data = request.path.parent / "data" / "vllm_closed_loop"
    good = kvsim_("validate", "--closed-loop", data)
    assert good.exit_code == 0
    lines = good.stdout.splitlines()
    assert "| vllm_closed_loop | llama-8l-512h | micro_m1 | 866 " in good.stdout
    assert sum(line.startswith("Held out: ") for line in lines) == 2
    assert "1 of 1 runs without eviction have equal cached tokens in every turn" in lines
    assert lines[-1].endswith("of 3 runs have a mean E2E within 5% or within their repeats' spread")
    assert kvsim_("validate", "--closed-loop", tmp_path).exit_code == 2


def test_validate_takes_one_kind_of_comparison(kvsim_, tmp_path):
    assert kvsim_("validate", "--vllm-steps", tmp_path, "--closed-loop", tmp_path).exit_code == 2


# as a program


def test_version_and_help(tmp_path):
    def shown(*arguments):
        command = [sys.executable, "-m", "kvsim", *arguments]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", check=True, env=os.environ | RUN, cwd=tmp_path
        ).stdout

    assert shown("--version").strip() == f"kvsim {kvsim.__version__}"
    assert "estimate" in shown("--help")
    assert "--no-enable-prefix-caching" in shown("estimate", "--help")


def test_help_imports_nothing_that_computes(tmp_path):
    code = "import sys, kvsim.commands; print([name for name in ('numpy', 'msgspec') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


def test_a_reader_that_goes_away_is_no_error(log, tmp_path):
    command = f"{sys.executable} -m kvsim estimate {log} -m {MODEL} -g h100 --json --turns | head -c 100"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert len(done.stdout) == 100
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_a_full_disk_is_a_message(form, log, tmp_path):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "kvsim", "estimate", str(log), "-m", MODEL, "-g", "h100", *form]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


# numbers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0"),
        (0.64, "640 ms"),
        (0.9999, "1.0 s"),
        (24.23, "24.2 s"),
        (99.96, "100 s"),
        (599.6, "10m 00s"),
        (3599.7, "1h 00m"),
        (52_748, "14h 39m"),
        (86_400 * 3.2, "3d 05h"),
        (math.nan, "-"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_other_numbers():
    assert [money(x) for x in (0, 1e-6, 0.001234, 0.08864)] == ["$0", "<$0.0001", "$0.00123", "$0.0886"]
    assert [money(x) for x in (12.34, 1234.4)] == ["$12.34", "$1,234"]
    assert [plain(x) for x in (0, 1e-6, 0.01234, 1.234, 1234)] == ["0", "<0.0001", "0.0123", "1.23", "1,234"]
    assert (count(1, "turn"), count(1234, "turn")) == ("1 turn", "1,234 turns")
    assert shorten("trajectory", 8) == "tra…tory"
