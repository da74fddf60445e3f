"""Measuring a server over HTTP, one that behaves and ones that do not."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'kvsim[live]'")
pytest.importorskip("scipy", reason="needs scipy: pip install 'kvsim[fit]'")

from tiny_server import Manners, TinyServer

from kvsim.calibrate.observation_files import read_observations
from kvsim.calibrate.observations import Observation, Observations
from kvsim.errors import InputError, MissingExtraError
from kvsim.live import campaign
from kvsim.live.campaign import MeasuringEndedError, Outcome
from kvsim.live.costs import Costs
from kvsim.live.engine import EngineError, Look
from kvsim.live.measure import Target, measure
from kvsim.live.metrics_page import MetricsPage
from kvsim.live.plan import Grid, Limits, round_of, sessions_of, sessions_s
from kvsim.live.probes import Decode, Mixed, Prefill
from kvsim.live.server import Server
from kvsim.live.turns import batch_of, runs_of
from kvsim.live.watch import BACKGROUND, LATE, THROTTLED, References

MINUTES = 1.0
"""More than a round takes: what a test measures must not depend on how fast this machine is."""

ARGUMENTS = {"max_num_batched_tokens": 256, "max_num_seqs": 8}


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """One round, and waits that are short beside it."""
    monkeypatch.setattr(campaign, "ROUNDS", 1)
    monkeypatch.setattr(campaign, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(campaign, "REFERENCE_EVERY_S", 0.3)
    monkeypatch.setattr(campaign, "QUIET_WAIT_S", 0.2)


def measured(url: str, file: Path, *, minutes: float = MINUTES, silence_s: float = 5.0) -> tuple[Target, Outcome]:
    async def run() -> tuple[Target, Outcome]:
        async with Server(url, silence_s=silence_s) as server:
            return await measure(server, file, gpu="l4", arguments=ARGUMENTS, minutes=minutes)

    return asyncio.run(run())


def looked(url: str) -> Look:
    async def run() -> Look:
        async with Server(url) as server:
            return await server.look()

    return asyncio.run(run())


def rows_of(file: Path) -> tuple[Observation, ...]:
    return read_observations(file).rows


def test_a_server_says_who_it_is() -> None:
    with TinyServer() as server:
        look = looked(server.url + "/v1/")
    assert look.identity.name == "tiny"
    assert look.identity.version == "vllm 0.32.0"
    assert look.identity.engine == {
        "block_size": 16,
        "num_gpu_blocks_override": 96,
        "enable_prefix_caching": True,
        "max_model_len": 512,
    }


def test_all_kinds_are_measured_with_what_the_server_took(tmp_path: Path) -> None:
    with TinyServer(Manners(step_s=2e-3, token_s=1e-5)) as server:
        _, outcome = measured(server.url, tmp_path / "m.csv")
    rows = rows_of(tmp_path / "m.csv")
    assert len(rows) == outcome.taken
    by_kind = Counter(row.kind for row in rows)
    assert by_kind.keys() == {"ttft", "decode", "mixed", "turn"}
    assert {row.probe.split("/")[1] for row in rows if row.kind == "turn"} == {"ease", "pressure"}
    assert not [note for note in outcome.notes if "reference probe" not in note and THROTTLED not in note]
    beyond = []
    for row in rows:
        if row.kind == "ttft":
            beyond.append(row.seconds - 2e-3 * -(-row.new_tokens // 256) - 1e-5 * row.new_tokens)
            assert row.engine_s is not None
            assert row.engine_s < row.seconds
    assert 0 < min(beyond) < 0.02
    warm = [row for row in rows if row.probe == "prefill/16+64"]
    assert warm
    assert {(row.new_tokens, row.cached_tokens) for row in warm} == {(16, 64)}


def test_whole_runs_of_sessions_become_a_batch(tmp_path: Path) -> None:
    with TinyServer() as server:
        measured(server.url, tmp_path / "m.csv")
    rows = rows_of(tmp_path / "m.csv")
    run = runs_of(rows)[0]
    batch = batch_of(run.sessions, client_s=np.zeros(len(run.turns)))
    assert len(batch) == len(run.sessions)
    for number, turn in enumerate(run.turns):
        if turn.turn:
            assert turn.kept_tokens == run.turns[number - 1].prompt_tokens + run.turns[number - 1].output_tokens
    cut = [row for row in rows if row is not run.turns[-1]]
    assert run.name not in {other.name for other in runs_of(cut)}
    disturbed = [replace(row, flag=BACKGROUND) if row.kind == "turn" else row for row in rows]
    assert not runs_of(disturbed)


def test_sigkill_loses_nothing_and_the_same_command_goes_on(tmp_path: Path) -> None:
    toml, file = tmp_path / "my.toml", tmp_path / "my.csv"
    command = [sys.executable, "-m", "kvsim", "calibrate", "--gpu", "l4", "--minutes", "0.25", "-o", str(toml)]
    command += ["--max-num-batched-tokens", "256", "--max-num-seqs", "8"]
    with TinyServer(Manners(step_s=4e-3, token_s=1e-4)) as server:
        command += ["--url", server.url]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert process.stderr is not None
        seen = 0
        while seen < 20:
            line = process.stderr.readline()
            assert line
            seen += b" ms" in line
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        seen += sum(b" ms" in line for line in process.stderr.readlines())
        before = file.read_bytes()
        kept = read_observations(file).rows
        assert len(kept) >= seen  # each was on the disk before it was said
        file.write_bytes(before[: before.rfind(b"\n") + 1] + b"decode,0.01,,")  # as if killed while writing
        finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert f"going on with {file}: {len(kept)} measurements" in finished.stderr
    assert file.read_bytes().startswith(before)
    rows = read_observations(file).rows
    assert len(rows) > len(kept)
    assert max(row.at_s for row in rows) > max(row.at_s for row in kept)
    repeats = Counter((row.probe, row.repeat, row.trajectory, row.turn) for row in rows)
    assert set(repeats.values()) == {1}
    assert toml.exists()


def test_a_finished_calibration_measures_nothing_twice(tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    with TinyServer() as server:
        measured(server.url, file)
        before = rows_of(file)
        _, again = measured(server.url, file)
    assert again.before == len(before) > 50
    added = Counter(row.probe for row in rows_of(file)[len(before) :])
    assert added.pop("reference") >= 2 * campaign.REFERENCES  # at its beginning and at its end
    assert not added.keys() & {row.probe for row in before}  # only what had not come off before


@pytest.mark.parametrize(
    ("manners", "words"),
    [
        (Manners(die_at=60), "no server answers"),
        (Manners(fail_at=60, fail_count=10**6), "answers 500: out of sorts"),
        (Manners(hang_at=60), "hangs: nothing came for 1 s"),
        (Manners(rename_at=60), "does not serve the model 'tiny'; it serves 'other-model'"),
    ],
)
def test_a_server_that_fails_half_way(tmp_path: Path, manners: Manners, words: str) -> None:
    file = tmp_path / "m.csv"
    with TinyServer(manners) as server, pytest.raises(MeasuringEndedError) as raised:
        measured(server.url, file, silence_s=1.0 if manners.hang_at else 10.0)
    kept = len(rows_of(file))
    assert kept > 10
    assert words in str(raised.value)
    assert f"{kept} measurements are kept in {file}" in str(raised.value)


def test_another_model_under_the_same_name(tmp_path: Path) -> None:
    another = pytest.raises(MeasuringEndedError, match="another engine answers now: model 'gpt2'")
    with TinyServer(Manners(reroot_at=30)) as server, another:
        measured(server.url, tmp_path / "m.csv")
    assert len(rows_of(tmp_path / "m.csv")) >= 5


def test_failures_that_pass_are_tried_again(tmp_path: Path) -> None:
    with TinyServer(Manners(fail_at=30, fail_count=2)) as server:
        _, outcome = measured(server.url, tmp_path / "m.csv")
    assert outcome.taken == len(rows_of(tmp_path / "m.csv"))
    assert outcome.taken > 60


def test_a_file_of_another_engine_is_refused(tmp_path: Path) -> None:
    with TinyServer() as server:
        measured(server.url, tmp_path / "m.csv")
        server.blocks = 90
        with pytest.raises(InputError, match="engine"):
            measured(server.url, tmp_path / "m.csv")


def test_background_traffic_is_flagged(tmp_path: Path) -> None:
    with TinyServer(Manners(foreign_at=30)) as server:
        _, outcome = measured(server.url, tmp_path / "m.csv")
    flags = [row.flag for row in rows_of(tmp_path / "m.csv") if row.probe != "reference"]
    assert flags.count("") >= 5
    assert flags.count(BACKGROUND) > 10
    assert any(BACKGROUND in note for note in outcome.notes)


def test_a_machine_that_slows_down_is_flagged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "ROUNDS", 2)
    with TinyServer(Manners(slow_at=30, step_s=2e-3)) as server:  # slow enough for a busy machine to show it
        _, outcome = measured(server.url, tmp_path / "m.csv")
    assert THROTTLED in {row.flag for row in rows_of(tmp_path / "m.csv")}
    assert any(THROTTLED in note for note in outcome.notes)


def test_a_server_that_tells_and_allows_little(tmp_path: Path) -> None:
    with TinyServer(Manners(metrics=False, resets=False)) as server:

        async def run() -> tuple[Target, Outcome]:
            async with Server(server.url) as reached:
                known = {**ARGUMENTS, "num_gpu_blocks_override": 96}
                return await measure(reached, tmp_path / "m.csv", gpu="l4", arguments=known, minutes=MINUTES)

        target, outcome = asyncio.run(run())
    assert target.header.engine["num_gpu_blocks_override"] == 96
    assert any("background traffic cannot be seen" in note for note in outcome.notes)
    assert any("prefix cache" in note for note in outcome.notes)
    warm = [row for row in rows_of(tmp_path / "m.csv") if row.probe == "prefill/16+64"]
    assert {(row.new_tokens, row.cached_tokens, row.engine_s) for row in warm} == {(16, 64, None)}


def test_tokens_held_up_on_their_way_are_not_taken_for_quick_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "ROUNDS", 2)
    manners = Manners(hold_at=1, step_s=2e-3)
    with TinyServer(manners) as server:
        _, outcome = measured(server.url, tmp_path / "m.csv")
    assert any("held up on their way" in note for note in outcome.notes)
    decodes = [row for row in rows_of(tmp_path / "m.csv") if row.kind == "decode"]
    assert {1, 4} <= {row.batch for row in decodes}
    assert min(row.seconds for row in decodes if not row.flag) > manners.step_s  # none is shorter there
    assert {row.flag for row in decodes} <= {"", LATE}


def test_limits_that_are_assumed_wrongly_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "ROUNDS", 2)
    with TinyServer(Manners(step_s=2e-3)) as server:

        async def run() -> tuple[Target, Outcome]:
            async with Server(server.url) as reached:
                return await measure(reached, tmp_path / "m.csv", gpu="l4", minutes=MINUTES)

        server.blocks, server.step_tokens, server.max_num_seqs = 400, 64, 64
        _, outcome = asyncio.run(run())
    text = " ".join(outcome.notes)
    assert "--max-num-batched-tokens" in text
    assert "vLLM's default is assumed" in text


def test_an_option_that_contradicts_the_server(tmp_path: Path) -> None:
    with TinyServer() as server:

        async def run() -> tuple[Target, Outcome]:
            async with Server(server.url) as reached:
                return await measure(reached, tmp_path / "m.csv", gpu="l4", arguments={"block_size": 32})

        with pytest.raises(InputError, match="the engine says 16"):
            asyncio.run(run())


def test_nobody_answers() -> None:
    with pytest.raises(EngineError, match=r"no server answers at http://127\.0\.0\.1:9"):
        looked("http://127.0.0.1:9")
    with pytest.raises(InputError, match="no URL"):
        Server("localhost:8000")


def test_a_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'kvsim\[live\]'"):
        looked("http://127.0.0.1:9")


def test_metrics_page() -> None:
    page = MetricsPage(
        "# TYPE x counter\n"
        'vllm:num_requests_running{engine="0",model_name="a b\\"c"} 2.0\n'
        'vllm:num_requests_running{engine="1",model_name="m"} 1.0\n'
        'vllm:prompt_tokens_total{engine="0"} 1.5e+03\n'
        "broken line\n"
    )
    assert page.engines == 2
    counters = page.counters()
    assert counters is not None
    assert (counters.running, counters.prompt_tokens) == (3, 1500)
    assert MetricsPage("up 1.0").counters() is None


def test_references() -> None:
    steady = References()
    assert not any(steady.add([1.0, 1.02, 0.98]) for _ in range(5))
    assert not steady.add([1.6, 1.01, 1.5])  # hiccups
    assert steady.add([1.4, 1.5, 1.6])
    assert abs(References([1.0] * 9).drift()) < 1e-9
    assert References([1.0, 1.0, 1.0, 1.1, 1.1, 1.1, 1.2, 1.2, 1.2]).drift() == pytest.approx(0.2)


def test_every_prefix_of_the_plan_spreads_over_the_range() -> None:
    limits = Limits(4096, 64, 2048, 100_000, 16, True)
    rounds = [list(round_of(number, limits)) for number in range(5)]
    assert [len(one) for one in rounds] == sorted(len(one) for one in rounds)
    for one in rounds:
        assert {type(probe) for probe in one} == {Prefill, Decode, Mixed}
        lengths = [probe.new for probe in one if isinstance(probe, Prefill) and not probe.cached]
        assert (min(lengths), max(lengths)) == (16, 4095)
        assert {1, 64} <= {probe.batch for probe in one if isinstance(probe, Decode)}
    assert {probe.name for probe in rounds[0]} <= {probe.name for probe in rounds[4]}
    assert Grid.of(16, 4095).level(9) == (16, 32, 64, 128, 256, 512, 1024, 2048, 4095)


def test_sessions_fit_the_cache_and_the_time() -> None:
    limits = Limits(4096, 64, 2048, 20_000, 16, True)
    costs = Costs()
    costs.learn(
        Observation("ttft", seconds=0.005 + 1e-4 * new + 1e-8 * new * new, new_tokens=new) for new in (16, 512, 4000)
    )
    costs.learn(
        Observation("decode", seconds=0.01 + 1e-3 * batch, batch=batch, context_tokens=100) for batch in (1, 4, 16)
    )
    assert costs.prefill_s(2048) == pytest.approx(0.005 + 0.2048 + 0.0419, rel=0.02)
    assert costs.step_s(8, 100) == pytest.approx(0.018, rel=0.02)
    found, missing = sessions_of(limits, costs, 600)
    ease, pressure = found
    assert not missing
    assert ease.context_tokens <= 0.6 * 20_000
    assert 1.5 * 20_000 <= pressure.context_tokens <= 3 * 20_000
    for sessions in found:
        assert sessions.longest_context < 4096
        assert sessions_s(sessions, costs) <= 0.13 * 600
    found, missing = sessions_of(limits, costs, 40)
    assert [sessions.label for sessions in found] == ["ease"]
    minutes = float(missing["pressure"].rpartition(" ")[2])
    assert [sessions.label for sessions in sessions_of(limits, costs, 60 * minutes)[0]] == ["ease", "pressure"]


def test_rows_stay_on_the_disk_while_they_are_replaced(tmp_path: Path) -> None:
    with TinyServer() as server:
        measured(server.url, tmp_path / "m.csv")
    before: Observations = read_observations(tmp_path / "m.csv")
    campaign.replace_rows(tmp_path / "m.csv", before.header, [replace(row, flag="x") for row in before.rows])
    after = read_observations(tmp_path / "m.csv")
    assert {row.flag for row in after.rows} == {"x"}
    assert [replace(row, flag="") for row in after.rows] == [replace(row, flag="") for row in before.rows]
    assert list(tmp_path.iterdir()) == [tmp_path / "m.csv"]
