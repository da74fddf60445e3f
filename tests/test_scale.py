"""Prices shard by shard: what one estimate says, in files that are there whole or not at all, however a run ended."""

from __future__ import annotations

import gzip
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import kvsim
import kvsim.scale
from kvsim.calibrate.resampling import mapping
from kvsim.calibrate.robust import Parameter, fit
from kvsim.commands import app
from kvsim.errors import ExtrapolationError, InputError, MissingExtraError, UnknownNameError
from kvsim.scale import parts

pq = pytest.importorskip("pyarrow.parquet")

DATA = Path(__file__).parent / "data" / "logs"
HOW = {"model": "meta-llama/Llama-3.1-8B-Instruct", "gpu": ("h100-sxm", "rtx-4090")}


def split(folder: Path, files: int) -> list[Path]:
    """Real coding sessions, one a file."""
    folder.mkdir()
    sessions = gzip.decompress((DATA / "kv-cache-tester" / "sessions.jsonl.gz").read_bytes()).decode().splitlines()
    paths = []
    for number, session in enumerate(sessions[:files]):
        paths.append(folder / f"{number:03}.jsonl")
        paths[-1].write_text(session + "\n", encoding="utf-8")
    return paths


@pytest.fixture
def log(tmp_path):
    split(tmp_path / "log", 12)
    return tmp_path / "log"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_prices_are_those_of_one_estimate(log, tmp_path):
    manifest = kvsim.scale.price(log, tmp_path / "out", **HOW, turns=True)
    batch = kvsim.read(log)
    assert manifest.counts["turns"] == batch.turns
    assert manifest.read == batch.report
    for gpu in HOW["gpu"]:
        estimate = kvsim.estimate(batch, model=HOW["model"], gpu=gpu)
        found = pq.read_table(tmp_path / "out" / "trajectories", filters=[("gpu", "=", gpu)]).to_pydict()
        row = {name: number for number, name in enumerate(found["id"])}
        assert len(row) == len(batch)
        order = [row[name] for name in batch.ids]
        for name in ("latency_s", "gpu_s", "usd", "kv_byte_s", "cached_tokens"):
            np.testing.assert_array_equal(np.array(found[name])[order], getattr(estimate, name), err_msg=name)
        assert [Path(found["file"][number]).name for number in order] == [f"{n:03}.jsonl" for n in range(12)]
        turns = pq.read_table(tmp_path / "out" / "turns", filters=[("gpu", "=", gpu)]).to_pydict()
        key = sorted(range(batch.turns), key=lambda at: (row[turns["trajectory"][at]], turns["row"][at]))
        mine = [(row[batch.ids[t]], n) for n, t in enumerate(batch.trajectory.tolist())]
        order = [n for _, n in sorted(mine)]
        np.testing.assert_array_equal(np.array(turns["e2e_s"])[key], estimate.turns.e2e_s[order])
        sums = manifest.prices[gpu]["totals"]
        assert sums["trajectories"] == estimate.priced.sum()
        assert sums["gpu_s"] == pytest.approx(np.nansum(estimate.gpu_s), rel=1e-12)
        assert manifest.prices[gpu]["status_counts"] == estimate.status_counts
        assert manifest.prices[gpu]["extremes"] == estimate.extremes
    assert kvsim.scale.Manifest.load(tmp_path / "out").as_object() == manifest.as_object()


class InterruptError(Exception):
    pass


def interrupted_after(number):
    def progress(priced, done, total):
        if done == number:
            raise InterruptError

    return progress


def test_a_run_goes_on_where_an_earlier_one_ended(log, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    kvsim.scale.price(log, whole, **HOW, turns=True)
    with pytest.raises(InterruptError):
        kvsim.scale.price(log, cut, **HOW, turns=True, progress=interrupted_after(7))
    assert not (cut / "manifest.json").exists()
    with pytest.raises(InputError, match="no manifest of finished prices"):
        kvsim.scale.Manifest.load(cut)
    done = sorted((cut / "trajectories").glob("*.parquet"))
    assert len(done) == 7
    done[0].write_bytes(done[0].read_bytes()[:-9])  # a machine that went down while it wrote
    (cut / "trajectories" / ".part-0123").write_bytes(b"what a killed process left")
    seen = []
    kvsim.scale.price(log, cut, **HOW, turns=True, progress=lambda *told: seen.append(told))
    assert [total for _, _, total in seen] == [12] * 12
    assert [number for _, number, _ in seen] == list(range(1, 13))
    assert sum(priced.process is None for priced, _, _ in seen) == 6
    assert contents(cut) == contents(whole)


def test_changed_files_are_priced_anew_and_more_files_add_theirs(log, tmp_path):
    out = tmp_path / "out"

    def price():
        fresh = []
        kvsim.scale.price(log, out, **HOW, progress=lambda priced, *_: fresh.append(priced.process is not None))
        return sum(fresh)

    assert price() == 12
    assert price() == 0
    with open(log / "003.jsonl", "a", encoding="utf-8") as file:
        file.write('{"id": "more", "turns": [{"prompt_tokens": 9, "output_tokens": 9}]}\n')
    (log / "0025.jsonl").write_bytes((log / "002.jsonl").read_bytes())
    assert price() == 2
    assert kvsim.scale.Manifest.load(out).counts["trajectories"] == 14
    fresh = tmp_path / "fresh"
    kvsim.scale.price(log, fresh, **HOW)
    assert contents(fresh) == contents(out)


def test_folders_of_anything_else_are_refused(log, tmp_path):
    out = tmp_path / "out"
    kvsim.scale.price(log, out, **HOW)
    before = contents(out)
    for other in ({"gpu": "h100-sxm"}, {"turns": True}, {"load": kvsim.Load(kv="ttl:3")}, {"usd_per_hour": 1.0}):
        with pytest.raises(InputError, match="another model, GPU, load, option"):
            kvsim.scale.price(log, out, **HOW | other)
    with pytest.raises(InputError, match=r"prices of 11 shards of other files, among them .*jsonl"):
        kvsim.scale.price(log / "000.jsonl", out, **HOW)
    assert contents(out) == before
    (out / "asked.json").unlink()
    with pytest.raises(InputError, match="nobody asked for"):
        kvsim.scale.price(log, out, **HOW)
    (out / "asked.json").write_text("[]")
    with pytest.raises(InputError, match="none of kvsim's"):
        kvsim.scale.price(log, out, **HOW)
    with pytest.raises(InputError, match="cannot be made"):
        kvsim.scale.price(log, log / "000.jsonl", **HOW)
    for wrong, said in ({"gpu": ["h100-sxm"] * 2}, "different GPUs"), ({"together": 0}, "'together'"):
        with pytest.raises(InputError, match=said):
            kvsim.scale.price(log, tmp_path / "new", **HOW | wrong)


def test_broken_files_stop_the_run_or_are_counted(log, tmp_path):
    (log / "004.jsonl").write_text('{"id": "a", "turns": [{"prompt_tokens": 0, "output_tokens": 1}]}\n')
    (log / "009.jsonl").write_text("not JSON\n")
    (log / "empty.jsonl").write_text("")
    with pytest.raises(InputError) as expected:
        kvsim.read(log)
    with pytest.raises(InputError) as found:
        kvsim.scale.price(log, tmp_path / "strict", **HOW)
    assert str(found.value) == str(expected.value)
    assert len(list((tmp_path / "strict" / "trajectories").glob("*.parquet"))) == 4
    manifest = kvsim.scale.price(log, tmp_path / "lenient", **HOW, lenient=True)
    report = kvsim.read(log, lenient=True).report
    assert manifest.read == report
    assert manifest.read.adds_up
    assert manifest.read.dropped.total() == 3
    assert len(manifest.shards) == 13
    assert pq.read_table(tmp_path / "lenient" / "trajectories").num_rows == 2 * 10
    schemas = {pq.read_schema(path).remove_metadata() for path in (tmp_path / "lenient").rglob("*.parquet")}
    assert len(schemas) == 1, "empty parts have the same columns"


def test_strict_prices_name_the_file(log, tmp_path):
    with pytest.raises(InputError, match=r"000\.jsonl, field 'prompt_tokens': .*over max"):
        kvsim.scale.price(log, tmp_path / "out", model="Qwen/Qwen3-8B", gpu="h100-sxm", strict=True)


def test_files_that_share_something_are_read_together(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / "log" / folder).mkdir(parents=True)
        for name in ("1", "2"):
            turn = {"kept_tokens": 4096, "prompt_tokens": 5000, "output_tokens": 9}
            one = {"id": folder + name, "prefix": folder, "turns": [turn]}
            (tmp_path / "log" / folder / f"{name}.jsonl").write_text(json.dumps(one) + "\n")
    cached = {}
    for together in (1, 2, 4, "folder"):
        manifest = kvsim.scale.price(tmp_path / "log", tmp_path / f"{together}", **HOW, together=together)
        cached[together, len(manifest.shards)] = manifest.prices["h100-sxm"]["totals"]["cached_tokens"]
    assert cached == {(1, 4): 0, (2, 2): 8192, (4, 1): 8192, ("folder", 2): 8192}


def test_errors_cross_processes_whole():
    for error in (
        InputError("is 0", file="a.jsonl", line=3, field="prompt_tokens", remedy="Correct it"),
        UnknownNameError("GPU", "h1000", ["h100-sxm"]),
        ExtrapolationError(["One.", "Two."]),
        MissingExtraError("pyarrow", "scale", "writing Parquet"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.__dict__) == (type(error), str(error), error.__dict__)
        assert again.exit_code == error.exit_code


def test_resampled_fits_do_not_depend_on_how_they_are_mapped():
    random = np.random.default_rng(5)
    x, groups = random.uniform(1, 9, 60), np.arange(60) // 6
    measured = 2.0 * x + 3.0 + random.normal(0, 0.2, 60)
    asked = (lambda v, rows: v["a"] * x[rows] + v["b"], measured, groups)
    parameters = {name: Parameter(1.0, 1e-3, 1e3) for name in "ab"}
    expected = fit(*asked, parameters)
    order = []

    def last_first(work, draws):
        made = {number: (order.append(number), work(draw))[1] for number, draw in reversed(list(enumerate(draws)))}
        return [made[number] for number in sorted(made)]

    with mapping(last_first):
        found = fit(*asked, parameters)
    assert order == sorted(order, reverse=True) != []
    assert found.intervals == expected.intervals
    assert expected.intervals["a"][0] < expected.intervals["a"][1]


def command(*arguments):
    asked = list(map(str, arguments))
    return CliRunner().invoke(app, asked, env={"COLUMNS": "80", "NO_COLOR": "1"})


def test_the_command_writes_and_sums_up(log, tmp_path):
    (log / "004.jsonl").write_text("not JSON\n")
    asked = ["estimate", log, "-m", HOW["model"], "-g", "h100-sxm", "-g", "rtx-4090", "--lenient", "--turns"]
    out = tmp_path / "out"
    done = command(*asked, "--parquet", out)
    assert done.exit_code == 0, done.output
    assert "12 files in 12 shards" in done.stdout
    assert "1 broken record left out" in done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    again = command(*asked, "--parquet", out)
    assert "12 of them from an earlier run" in again.stdout
    document = json.loads(command(*asked, "--parquet", out, "--json").stdout)
    assert document["schema"] == "kvsim.prices/1"
    assert document == json.loads((out / "manifest.json").read_bytes())
    kvsim.scale.price(log, tmp_path / "library", **HOW, turns=True, lenient=True)
    assert contents(out) == contents(tmp_path / "library")
    for wrong, said in (
        (("--ray", "local"), "--parquet"),
        (("--parquet", out, "--csv"), "Choose one"),
        (("--parquet", out, "--together", "some"), "together"),
    ):
        failed = command(*asked, *wrong)
        assert (failed.exit_code, said in failed.stderr) == (2, True), failed.output


def test_a_sweep_in_parquet_is_the_sweep_in_csv(tmp_path):
    log = split(tmp_path / "log", 5)[0].parent
    asked = ["sweep", log, "-m", HOW["model"], "-g", "h100-sxm", "--blocks", "9999,20000"]
    assert command(*asked, "--concurrency", "1,2", "--parquet", tmp_path / "points").exit_code == 0
    before = contents(tmp_path / "points")
    cut = sorted((tmp_path / "points" / "points").iterdir())[0]
    cut.write_bytes(b"PAR1")
    more = ("--concurrency", "1,2,4")
    first = command(*asked, *more, "--parquet", tmp_path / "points", "--threads", "3", "--json")
    second = command(*asked, *more, "--csv", tmp_path / "points.csv", "--json")
    assert first.stdout == second.stdout != ""
    after = contents(tmp_path / "points")
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: data for name, data in before.items() if name != "manifest.json"
    }
    points = json.loads(after["manifest.json"])["points"]
    assert [point["arrivals"] for point in points] == ["closed:1", "closed:2", "closed:4"] * 2
    table = pq.read_table(tmp_path / "points" / "points")
    assert table.num_rows == len(points) == 6
    failed = command(*asked, "--seed", "7", "--concurrency", "1", "--parquet", tmp_path / "points")
    assert (failed.exit_code, "other logs, options" in failed.stderr) == (2, True)
    failed = command(*asked, "--parquet", tmp_path / "points", "--csv", tmp_path / "points.csv")
    assert (failed.exit_code, "Choose one" in failed.stderr) == (2, True)


def test_what_is_missing_is_said_in_one_sentence(log, tmp_path, monkeypatch):
    parts.pyarrow.cache_clear()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"writing Parquet needs pyarrow: pip install 'kvsim\[scale\]'"):
        kvsim.scale.price(log, tmp_path / "out", **HOW)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"a cluster needs Ray: pip install 'kvsim\[scale\]'"):
        list(kvsim.scale.sweep(kvsim.read(log), [{}], ray="auto", keep=len))
