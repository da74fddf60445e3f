"""Sweeps on threads: the same results in the same order, each point simulated once."""

from __future__ import annotations

import threading
from itertools import count

import numpy as np
import pytest
from typer.testing import CliRunner

import kvsim
from kvsim.commands import app
from kvsim.commands.demo import MODEL, example
from kvsim.commands.sweep import _asked
from kvsim.commands.sweep._serving import Server
from kvsim.cores import cores, free_bytes, in_order
from kvsim.errors import InputError, UnknownNameError

GPU = "rtx-4090"
"""The example's three contexts do not fit on it together."""

POINTS = [
    {"arrivals": f"closed:{1 + number % 3}", "retention": name} for number, name in enumerate(["lru", "drop"] * 6)
]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "runs.jsonl"
    example().to_jsonl(path)
    return path


def sweep(log, *arguments, gpu=GPU):
    asked = ["sweep", log, "-m", MODEL, "-g", gpu, *arguments]
    return CliRunner().invoke(app, list(map(str, asked)), env={"COLUMNS": "80", "NO_COLOR": "1"})


@pytest.mark.parametrize("threads", [1, 3, "auto"])
def test_each_point_is_a_simulation_in_order(threads):
    batch = example()
    runs = list(kvsim.sweep(batch, POINTS, model=MODEL, gpu=GPU, threads=threads))
    for point, run in zip(POINTS, runs, strict=True):
        alone = kvsim.simulate(batch, model=MODEL, gpu=GPU, **point)
        assert run.engine == alone.engine
        np.testing.assert_array_equal(run.served.finish_ns, alone.served.finish_ns)
    kept = kvsim.sweep(batch, POINTS, model=MODEL, gpu=GPU, threads=threads, keep=lambda run: run.engine)
    assert list(kept) == [run.engine for run in runs]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_point_that_cannot_be_raises_in_its_turn(threads):
    points = [{}, {}, {"retention": "lruu"}, {}]
    runs = kvsim.sweep(example(), points, model=MODEL, gpu=GPU, arrivals="closed:2", threads=threads)
    assert next(runs).engine == next(runs).engine
    with pytest.raises(UnknownNameError, match="lruu"):
        next(runs)
    for wrong, said in (({"gpu": GPU}, r"\['gpu'\] as all"), ("closed:1", "is a str")):
        with pytest.raises(InputError, match=f"point 0 .*{said}"):
            next(kvsim.sweep(example(), [wrong], model=MODEL, gpu=GPU, threads=threads))
    with pytest.raises(InputError, match="'threads'"):
        kvsim.sweep(example(), [], model=MODEL, gpu=GPU, threads=0)


def test_work_is_taken_in_order_and_not_far_ahead():
    begun = []
    lock = threading.Lock()

    def work(item):
        with lock:
            begun.append(item)
        return item * item

    made = in_order(work, count(), threads=2)  # without end
    assert [next(made) for _ in range(50)] == [number * number for number in range(50)]
    made.close()
    assert len(begun) < 70


@pytest.mark.parametrize(
    "arguments",
    [
        ("--concurrency", "1,2,3", "--retention", "lru,drop,pin", "-g", "h100-sxm"),
        ("--cliff", "-g", "l40s", "-g", "h100-sxm"),
        ("--break-even", "--pause-scale", "0.1,1,10"),
        ("-m", "Qwen/Qwen3-32B", "--concurrency", "1,2"),  # does not fit
    ],
    ids=["grid", "cliff", "break-even", "misfit"],
)
def test_the_command_writes_the_same_bytes_on_any_number_of_threads(log, tmp_path, arguments):
    written = []
    for threads in ("1", "4", "auto"):
        path = tmp_path / f"{threads}.csv"
        done = sweep(log, *arguments, "--threads", threads, "--csv", path, "--json")
        assert done.exit_code == 0, done.output
        written.append((done.stdout, path.read_bytes()))
    assert written[0] == written[1] == written[2]


def test_points_are_served_once_and_not_where_the_file_has_them(log, tmp_path, monkeypatch):
    served = []
    whole = Server.__call__
    monkeypatch.setattr(Server, "__call__", lambda self, point: (served.append(point), whole(self, point))[1])
    path = tmp_path / "points.csv"
    for concurrency, new in (("1,2", 2), ("1,2,3", 1)):
        served.clear()
        assert sweep(log, "--concurrency", concurrency, "--threads", "4", "--csv", path).exit_code == 0
        assert len(served) == len(set(served)) == new


@pytest.mark.parametrize("threads", ["1", "4"])
def test_strict_sweeps_stop_at_the_first_point_that_cannot_be(tmp_path, threads):
    """Points before it are in the file, those after it are not, however far ahead they were served."""
    short, path = tmp_path / "short.jsonl", tmp_path / "points.csv"
    turns = [{"prompt_tokens": 900, "output_tokens": 20}, {"parent": 0, "prompt_tokens": 90, "output_tokens": 2}]
    kvsim.Batch.from_trajectories([{"id": "a", "turns": turns}]).to_jsonl(short)
    asked = ("--concurrency", "1", "--blocks", "100,70,9,99", "--strict", "--threads", threads, "--csv", path)
    done = sweep(short, *asked, gpu="h100-sxm")
    assert (done.exit_code, "tokens" in done.stderr) == (2, True), done.output
    assert [line.split(",")[3] for line in path.read_text().splitlines()[1:]] == ["100", "70"]


def test_the_number_of_threads_is_checked_and_bounded_by_memory(log):
    for wrong in ("0", "many", "-1"):
        done = sweep(log, "--concurrency", "1", "--threads", wrong)
        assert (done.exit_code, "threads" in done.stderr) == (2, True), done.output
    assert _asked.threads_of("auto", 1, "native") == cores()
    assert _asked.threads_of("auto", 1, "cuda") == 256
    assert _asked.threads_of("auto", free_bytes(), "cuda") == _asked.threads_of("auto", free_bytes(), "native") == 1
    assert _asked.threads_of("3", free_bytes(), "native") == 3


def test_whoever_asks_is_one_of_the_threads():
    """No more of them than were asked for, the caller among them; what fails on any of them comes in its turn."""
    together = threading.Barrier(2, timeout=10)
    who = []

    def work(item):
        if item < 8:
            together.wait()  # passes only while two are at work
        who.append(threading.get_ident())
        if item == 9:
            raise ValueError(item)
        return item

    made = in_order(work, range(20), threads=2)
    assert [next(made) for _ in range(9)] == list(range(9))
    assert set(who) > {threading.get_ident()}
    assert len(set(who)) == 2
    with pytest.raises(ValueError, match="9"):
        next(made)
