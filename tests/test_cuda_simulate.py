"""Simulations on a CUDA device have the bits of the C++ core: in the host emulation, and on a card if there is one."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from random import Random
from threading import Event

import numpy as np
import pytest
from cases import linear
from emulation import is_emulated
from engine_cases import any_case, case, cases, draw_case, sessions, turns
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import kvsim
from kvsim.backends import cuda
from kvsim.backends.engine_kernels import REPLICA_TOTALS, Served
from kvsim.backends.gathering import Gathered
from kvsim.backends.serving import serve, timeline_of
from kvsim.commands import app
from kvsim.errors import BackendUnavailableError, InputError
from kvsim.together import MOST, group_size

CASES = cases()
DRAWS = int(os.environ.get("KVSIM_CUDA_DRAWS", "300"))
PLENTY = 1 << 30
SMALL = 2000
"""Bytes that no simulation can do with."""
MODEL = {"model": "Qwen/Qwen3-8B", "gpu": "h100-sxm"}


def timed(one):
    """The same, its blocks counted in about seven bins."""
    _, totals = serve("native")(*one)
    end_ns = int(totals[:, REPLICA_TOTALS.index("end_ns")].max(initial=0))
    return one._replace(timeline=timeline_of(one.fleet.replicas, end_ns // 7 + 1, end_ns))


def copied(one):
    return one._replace(timeline=type(one.timeline)(*(np.copy(part) for part in one.timeline)))


def assert_simulated_alike(module, given_cases, arena_bytes=0):
    mine = [timed(one) for one in given_cases]
    theirs = [copied(one) for one in mine]
    made = module.simulate([tuple(one) for one in mine], arena_bytes)
    assert len(made) == len(mine)
    for one, other, (columns, totals) in zip(mine, theirs, made, strict=True):
        expected, expected_totals = serve("native")(*other)
        np.testing.assert_array_equal(np.array(totals, np.int64), expected_totals)
        np.testing.assert_equal(one.timeline, other.timeline)
        for name, found, wanted in zip(Served._fields, columns, expected, strict=True):
            np.testing.assert_array_equal(found, wanted, err_msg=name)
            assert found.dtype == wanted.dtype


@pytest.mark.parametrize("arena_bytes", [0, SMALL], ids=["usual memory", "memory runs out"])
@pytest.mark.parametrize("name", CASES)
def test_cases_are_simulated_alike(cuda_module, name, arena_bytes):
    again = cuda_module.simulations_run_again()
    assert_simulated_alike(cuda_module, [CASES[name]], arena_bytes)
    assert (cuda_module.simulations_run_again() > again) == (arena_bytes == SMALL)


@settings(max_examples=DRAWS, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=any_case, arena_bytes=st.sampled_from([0, SMALL]))
def test_whatever_is_drawn_is_simulated_alike(cuda_module, drawn, arena_bytes):
    """KVSIM_CUDA_DRAWS says how many simulations."""
    assert_simulated_alike(cuda_module, [drawn], arena_bytes)


def test_many_run_side_by_side_whatever_their_groups(cuda_module):
    random = Random(20)
    drawn = [draw_case(random) for _ in range(150)]
    assert {one.settings.windows.size > 1 or one.settings.windows[0] > 0 for one in drawn} == {False, True}
    assert_simulated_alike(cuda_module, drawn)


def test_a_small_card_takes_them_in_chunks(emulated):
    """Seven of one kind, three at a time: the last chunk is partial."""
    same = [CASES[next(iter(CASES))]] * 7
    emulated.release_memory()
    assert_simulated_alike(emulated, same[:1])
    one_bytes = emulated.counts()["device_bytes"]
    emulated.release_memory()
    emulated.pretend(4 * one_bytes)
    before = emulated.counts()
    assert_simulated_alike(emulated, same)
    after = emulated.counts()
    assert after["kernels"] - before["kernels"] == 3
    assert after["most_device_bytes"] <= 4 * one_bytes


def test_arrays_that_several_read_are_copied_once(emulated):
    one = case(sessions(4, [(30, 9)]), max_num_batched_tokens=8192)
    arena_bytes, used = 400_000, []
    for count in (1, 10):
        emulated.release_memory()
        again = emulated.simulations_run_again()
        emulated.simulate([tuple(one)] * count, arena_bytes)
        assert emulated.simulations_run_again() == again
        used.append(emulated.counts()["device_bytes"])
    assert one.law.step.nbytes > 65_000
    assert used[1] - used[0] < 9 * (arena_bytes + 10_000)


def test_none_and_an_empty_batch(cuda_module):
    assert cuda_module.simulate([]) == []
    empty = case(turns([]))
    assert_simulated_alike(cuda_module, [empty, CASES[next(iter(CASES))]])


def test_one_that_does_not_fit_is_an_error_that_names_the_way_out(emulated):
    backend, one = cuda.CudaBackend(emulated), case(sessions(8, [(30, 9), (11, 5)]))
    emulated.release_memory()
    emulated.pretend(50_000)
    with pytest.raises(BackendUnavailableError, match=r"a simulation needs .* MiB can be had; backend='native'"):
        backend.simulate([tuple(one)])
    emulated.pretend(PLENTY)
    assert_simulated_alike(emulated, [one])


def test_memory_is_given_back(emulated):
    emulated.release_memory()
    before = emulated.counts()["device_bytes"]
    assert_simulated_alike(emulated, [CASES[next(iter(CASES))]])
    assert emulated.counts()["device_bytes"] > before  # kept for the next call
    emulated.release_memory()
    assert emulated.counts()["device_bytes"] == before


# ---- By name ----


ASKED = [
    {"arrivals": "closed:3", "timeline_s": 0.5},
    {"arrivals": "poisson:2", "retention": "ttl:2", "replicas": 2, "router": "prefix-aware"},
    {"arrivals": "batch:4", "retention": "offload:4@20"},
    {"model": "openai/gpt-oss-20b", "arrivals": "closed:2"},
]


def assert_same_run(found, native):
    np.testing.assert_equal(found.latency_s, native.latency_s)
    if native.bin_ns:
        for name in native.timeline:
            np.testing.assert_array_equal(found.timeline[name], native.timeline[name], err_msg=name)
    assert found.turns.keys() == native.turns.keys()
    for name in native.turns:
        np.testing.assert_array_equal(found.turns[name], native.turns[name], err_msg=name)


@pytest.mark.parametrize("asked", ASKED, ids=["closed", "replicas", "host tier", "windows"])
def test_simulate_on_it(chosen_cuda, asked):
    native = kvsim.simulate(linear(5, 12), **{**MODEL, **asked}, backend="native")
    assert_same_run(kvsim.simulate(linear(5, 12), **{**MODEL, **asked}, backend="cuda"), native)


def test_sweep_runs_points_together(chosen_cuda):
    points = [{"arrivals": f"closed:{n}", "retention": kind} for n in range(1, 9) for kind in ("lru", "ttl:1", "drop")]
    native = list(kvsim.sweep(linear(4, 10), points, **MODEL))
    found = list(kvsim.sweep(linear(4, 10), points, **MODEL, backend="cuda"))
    for one, other in zip(found, native, strict=True):
        assert_same_run(one, other)


def test_evictions_are_refused(chosen_cuda):
    with pytest.raises(BackendUnavailableError, match="evictions are not written down on CUDA devices"):
        kvsim.simulate(linear(2), **MODEL, backend="cuda", evictions=True)


def test_without_a_device_the_reason_is_said(chosen_cuda):
    if not is_emulated(chosen_cuda):
        pytest.skip("a card that is there")
    chosen_cuda.pretend(PLENTY, driver=False)
    with pytest.raises(BackendUnavailableError, match="no NVIDIA driver is loaded"):
        kvsim.simulate(linear(2), **MODEL, backend="cuda")


def test_a_sweep_goes_through_a_device_in_groups(chosen_cuda, monkeypatch):
    """Seven at a time, some with a timeline; what fails raises when its turn comes."""
    from kvsim import sweeping

    monkeypatch.setattr(sweeping, "group_size", lambda turns: 7)
    points = [{"arrivals": f"closed:{n}", "timeline_s": 0.5 if n % 3 == 0 else None} for n in range(1, 18)]
    batch = linear(3, 8)

    def kept(run):
        return run.engine, run.timeline["running"].tolist() if run.bin_ns else []

    native = list(kvsim.sweep(batch, points, **MODEL, keep=kept))
    asked = {**MODEL, "backend": "cuda", "keep": kept}
    assert list(kvsim.sweep(batch, points, **asked)) == native
    assert list(kvsim.sweep(batch, [], **asked)) == []
    logged = [{"seed": 1}, {"replicas": 2}]
    alone = {**MODEL, "keep": lambda run: run.engine}
    assert list(kvsim.sweep(batch, logged, **alone, backend="cuda")) == list(kvsim.sweep(batch, logged, **alone))
    bad = [*points[:9], {"arrivals": "closed:0"}, *points]
    found = kvsim.sweep(batch, bad, **asked)
    assert [next(found) for _ in range(9)] == native[:9]
    with pytest.raises(InputError, match="arrivals"):
        next(found)
    with pytest.raises(TypeError, match="nonsense"):
        next(kvsim.sweep(batch, [{"nonsense": 1}], **asked))


def test_the_command_lines_sweep_on_it(chosen_cuda, tmp_path, logs):
    log = logs / "kv-cache-tester" / "sessions.jsonl.gz"
    asked = ["sweep", str(log), "-m", MODEL["model"], "-g", MODEL["gpu"], "--concurrency", "1,2,4,8"]
    tables = []
    for backend in ("native", "cuda"):
        table = tmp_path / f"{backend}.csv"
        done = CliRunner().invoke(app, [*asked, "--backend", backend, "--csv", str(table)])
        assert done.exit_code == 0, done.output
        tables.append(table.read_bytes())
    assert tables[0] == tables[1]


def test_groups_fit_into_memory():
    assert group_size(10) == MOST
    assert group_size(0) == MOST
    assert 1 < group_size(10**6) < 10
    assert group_size(10**9) == 1


def test_calls_that_come_meanwhile_are_made_as_one():
    started, go, calls = Event(), Event(), []

    def squares(numbers):
        calls.append(len(numbers))
        if 0 in numbers:
            started.set()
            go.wait()
        if 13 in numbers:
            raise ValueError("thirteen")
        return [number**2 for number in numbers]

    gathered = Gathered(squares)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(gathered, 0)
        started.wait()
        rest = [pool.submit(gathered, number) for number in range(1, 9)]
        while len(gathered._waiting) < 8:
            started.wait(0.001)
        go.set()
        assert [job.result() for job in (first, *rest)] == [number**2 for number in range(9)]
    assert calls == [1, 8]
    with pytest.raises(ValueError, match="thirteen"):
        gathered(13)
    assert gathered(3) == 9
