"""A real Ray cluster of two machines' processes on this one: what comes out is what comes out here, whoever is killed.

One test after the other on one cluster; the last takes a machine away.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import kvsim
import kvsim.scale
from kvsim.calibrate.robust import Parameter, fit
from kvsim.commands import app
from kvsim.commands.demo import MODEL, example
from kvsim.errors import InputError, KvsimError
from kvsim.scale import cluster as cluster_module
from kvsim.scale import on_ray
from kvsim.scale.cluster import Cluster

ray = pytest.importorskip("ray")
pq = pytest.importorskip("pyarrow.parquet")

FILES = 1000
BROKEN = (17, 500, 501, 998)
HOW = {"model": "meta-llama/Llama-3.1-8B-Instruct", "gpu": "h100-sxm"}
MACHINE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def two_machines():
    """A head and another machine, of one core each."""
    from ray.cluster_utils import Cluster as Processes

    before = os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Processes(initialize_head=True, head_node_args={**MACHINE, "include_dashboard": False})
    made.other = made.add_node(**MACHINE)
    with Cluster(made.address):
        yield made
    made.shutdown()
    os.environ.pop("RAY_USAGE_STATS_ENABLED")
    if before is not None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = before


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Many short runs, a few of them broken."""
    folder = tmp_path_factory.mktemp("log")
    random = np.random.default_rng(1)
    for number in range(FILES):
        turns, end = [], 0
        for turn in range(int(random.integers(1, 6))):
            prompt, output = end + int(random.integers(20, 3000)), int(random.integers(1, 300))
            before = {"parent": turn - 1, "kept_tokens": end, "pause_s": float(random.integers(0, 90))} if turn else {}
            turns.append({**before, "prompt_tokens": prompt, "output_tokens": output})
            end = prompt + output
        text = json.dumps({"id": f"run-{number}", "turns": turns})
        (folder / f"{number:04}.jsonl").write_text(text[:-9] if number in BROKEN else text)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_cluster_is_an_error_that_says_what_to_do():
    if ray.is_initialized():
        pytest.skip("this process is on a cluster already")
    with pytest.raises(InputError, match=r"no Ray cluster at 'auto'.*ray start --head"):
        Cluster("auto")


def test_a_log_of_a_thousand_files_survives_killed_workers(two_machines, log, tmp_path):
    """Complete, equal to the run on one core, no shard twice."""
    told, killed = [], []

    def progress(priced, done, total):
        told.append((priced.shard.name, done, total))
        processes[priced.process] += 1
        if done in (150, 300, 450):
            os.kill(priced.process, signal.SIGKILL)
            killed.append(priced.process)

    processes = Counter()
    on_cluster = kvsim.scale.price(
        log, tmp_path / "cluster", **HOW, turns=True, lenient=True, ray=two_machines.address, progress=progress
    )
    assert len(killed) == 3
    assert len(processes) > 3, "those that were killed were replaced"
    assert os.getpid() not in processes
    assert [done for _, done, _ in told] == list(range(1, FILES + 1))
    assert len({name for name, _, _ in told}) == FILES

    here = kvsim.scale.price(log, tmp_path / "here", **HOW, turns=True, lenient=True)
    assert contents(tmp_path / "cluster") == contents(tmp_path / "here")
    assert on_cluster.as_object() == here.as_object()
    assert here.read.dropped.total() == len(BROKEN)
    assert here.read.adds_up
    table = pq.read_table(tmp_path / "cluster" / "trajectories").to_pydict()
    assert len(table["id"]) == len(set(table["id"])) == FILES - len(BROKEN)
    batch = kvsim.read(log, lenient=True)
    whole = dict(zip(batch.ids, kvsim.estimate(batch, **HOW).gpu_s.tolist(), strict=True))
    assert dict(zip(table["id"], table["gpu_s"], strict=True)) == whole


def test_the_first_broken_file_stops_a_strict_run(two_machines, log, tmp_path):
    with pytest.raises(InputError) as expected:
        kvsim.read(log)
    few = sorted(log.iterdir())[:60]
    with pytest.raises(InputError) as found:
        kvsim.scale.price(few, tmp_path / "out", **HOW, ray=two_machines.address)
    assert str(found.value) == str(expected.value)


def test_sweeps_come_out_alike(two_machines, tmp_path):
    points = [{"arrivals": f"closed:{number}"} for number in (1, 2, 3)] * 4
    asked = {"model": MODEL, "gpu": "rtx-4090", "keep": lambda run: (run.engine, run.served.finish_ns.tolist())}
    expected = list(kvsim.scale.sweep(example(), points, **asked))
    assert list(kvsim.scale.sweep(example(), points, ray=two_machines.address, **asked)) == expected
    with pytest.raises(InputError, match="point 0"):
        next(kvsim.scale.sweep(example(), ["closed:1"], ray=two_machines.address, **asked))

    log = tmp_path / "runs.jsonl"
    example().to_jsonl(log)
    written = []
    for where in (("--threads", "1"), ("--ray", two_machines.address)):
        path = tmp_path / f"{where[0]}.csv"
        arguments = ["sweep", log, "-m", MODEL, "-g", "rtx-4090", "-g", "l40s", "--cliff", "--csv", path, *where]
        done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
        assert done.exit_code == 0, done.output
        written.append((done.stdout, path.read_bytes()))
    assert written[0] == written[1]


def test_resampled_fits_come_out_alike(two_machines):
    random = np.random.default_rng(5)
    x, groups = random.uniform(1, 9, 60), np.arange(60) // 6
    measured = 2.0 * x + 3.0 + random.normal(0, 0.2, 60)

    def model(values, rows):
        return values["a"] * x[rows] + values["b"]

    asked = (model, measured, groups, {name: Parameter(1.0, 1e-3, 1e3) for name in "ab"})
    expected = fit(*asked)
    with kvsim.scale.resampling(two_machines.address):
        found = fit(*asked)
    assert (found.values, found.intervals) == (expected.values, expected.intervals)


def test_work_that_kills_whoever_does_it_ends_with_an_error(two_machines, log, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "RETRIES", 1)
    monkeypatch.setattr(on_ray, "RETRIES", 1)
    with Cluster(two_machines.address) as cluster, pytest.raises(KvsimError, match=r"workers died 2 times.*memory"):
        list(cluster.map(lambda item: os.kill(os.getpid(), signal.SIGKILL), [1]))

    class Deadly:
        @property
        def format(self):
            os.kill(os.getpid(), signal.SIGKILL)

    file = sorted(log.iterdir())[0]
    shards = kvsim.scale.shards.shards_of(file)
    store = kvsim.scale.store.Store(tmp_path / "out")
    store.begin("0", {}, shards)
    ((number, error),) = on_ray.price_on(two_machines.address, [(0, shards[0], "0")], Deadly(), store)
    assert (number, type(error)) == (0, KvsimError)
    assert f"{file}: workers died 2 times" in str(error)


def test_a_machine_is_lost(two_machines, log, tmp_path):
    few = sorted(log.iterdir())[:200]

    def progress(priced, done, total):
        if done == 60:
            two_machines.remove_node(two_machines.other, allow_graceful=False)

    asked = {**HOW, "lenient": True}
    kvsim.scale.price(few, tmp_path / "cluster", **asked, ray=two_machines.address, progress=progress)
    kvsim.scale.price(few, tmp_path / "here", **asked)
    assert contents(tmp_path / "cluster") == contents(tmp_path / "here")
