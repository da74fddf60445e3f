"""Calibrations from own measurements: made from known coefficients, they must be found again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kvsim
from kvsim.calibrate import solve
from kvsim.calibrate.deployment import Deployment
from kvsim.calibrate.engine_steps import HELD_OUT, checked
from kvsim.calibrate.measured import fit_files, fit_observations
from kvsim.calibrate.observation_files import read_observations, to_text
from kvsim.calibrate.observations import Header, Observation, Observations
from kvsim.calibrate.render import to_toml
from kvsim.calibrate.serving_load import Point, point_evidence
from kvsim.calibrate.work import Content, Work, decode, prefill
from kvsim.calibration import OVERHEADS, QUANTITIES, Calibration, load_calibration, shipped_calibration
from kvsim.errors import InputError
from kvsim.hardware import gpu

pytest.importorskip("scipy")

MODEL, GPU = "Qwen/Qwen3-8B", "h100-sxm"
MEASUREMENTS = Path(__file__).parents[1] / "profiles" / "measurements"
HEADER = Header(model=MODEL, gpu=GPU, engine_version="vllm 0.40", date="2026-01-31")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solve, "RESAMPLES", 2)


def truth(**factors: float) -> Calibration:
    """The shipped calibration with some coefficients changed."""
    shipped = shipped_calibration(GPU)

    def changed(table: Any) -> dict[str, Any]:
        return {
            name: replace(part, value=part.value * factors[name], low=0.0, high=1e12) if name in factors else part
            for name, part in table.items()
        }

    overheads = {**shipped.overheads, shipped.engine: changed(shipped.overheads[shipped.engine])}
    return replace(shipped, coefficients=changed(shipped.coefficients), overheads=overheads)


def sweep(calibration: Calibration, *, noise: float = 0.01, model: str = MODEL, seed: int = 0) -> list[Observation]:
    """What a quiet engine with this calibration would show."""
    random = np.random.default_rng(seed)
    deployment = Deployment.of(model, gpu(GPU))
    values = {**calibration.values(), "request_s": 0.004, "client_token_s": 2e-7}
    most = deployment.engine.max_num_batched_tokens
    rows: list[tuple[Observation, list[Content], float]] = []
    for new in (64, 256, 1024, 4096, 12000):
        for cached in (0, 2048, 16384):
            way = 0.004 + 2e-7 * (new + cached)
            rows.append((Observation("ttft", new_tokens=new, cached_tokens=cached), prefill(new, cached, most), way))
    for batch in (1, 4, 16, 64, 200):
        for context in (128, 1024, 8192):
            row = Observation("decode", batch=batch, context_tokens=context)
            rows.append((row, [decode(batch, context)], 0.0))
    for batch in (8, 32):
        row = Observation("mixed", new_tokens=1024, cached_tokens=512, batch=batch, context_tokens=900)
        rows.append((row, [Content([(1024, 512)], [900.0] * batch)], 0.0))
    seconds = Work.of([steps for _, steps, _ in rows], deployment.window()).seconds(deployment.costs(values))
    spread = np.exp(random.normal(0, noise, len(rows)))
    return [
        replace(row, seconds=float((own + way) * off), line=number)
        for number, ((row, _, way), own, off) in enumerate(zip(rows, seconds, spread, strict=True))
    ]


def observed(rows: list[Observation], header: Header = HEADER) -> Observations:
    return Observations("made.csv", header, tuple(rows))


@pytest.mark.parametrize("model", [MODEL, "google/gemma-2-9b-it", "Qwen/Qwen3-30B-A3B", "deepseek-ai/DeepSeek-V2-Lite"])
def test_evidence_is_priced_as_the_law_prices_it(model: str) -> None:
    config = kvsim.EngineConfig(max_num_batched_tokens=8192, max_num_seqs=256)
    deployment = Deployment.of(model, gpu("h200-sxm"), config)
    values = shipped_calibration("h200-sxm").values()
    random = np.random.default_rng(3)
    for _ in range(12):
        chunks = [tuple(random.integers(1, 3000, 2).tolist()) for _ in range(random.integers(0, 3))]
        decodes = random.integers(1, 7000, random.integers(0 if chunks else 1, 40)).tolist()
        law = kvsim.step_time(
            model=model,
            gpu="h200-sxm",
            engine=config,
            prefill_new=[new for new, _ in chunks],
            prefill_cached=[cached for _, cached in chunks],
            decode_context=decodes,
        )
        work = Work.of([[Content(chunks, decodes)]], deployment.window())
        assert work.seconds(deployment.costs(values))[0] == pytest.approx(law.seconds, rel=1e-5)  # the tables round


def test_what_the_evidence_says_is_fitted_and_the_rest_is_kept() -> None:
    real = truth(gemm_bf16_compute=0.8, decode_bf16_memory=0.7, step_s=4.0)
    found = fit_observations([observed(sweep(real))])
    again = checked(found.calibration, [observed(sweep(real, noise=0.0, seed=1))])
    for part, errors in again:
        if part.kind.startswith("first tokens"):
            continue  # a client's way is no part of a calibration
        assert np.abs(errors).max() < 0.05, part.kind
    # What the engine makes of reading the cache stands beside the kernel's own rate: one of the two takes it.
    assert {"gemm_bf16_compute", "reading"} <= set(found.fitted)
    read_at, true_at = (
        one.coefficients["decode_bf16_memory"].value / one.overheads[one.engine]["reading"].value
        for one in (found.calibration, real)
    )
    assert read_at == pytest.approx(true_at, rel=0.05)
    assert found.calibration.coefficients["gemm_bf16_compute"].value == pytest.approx(
        real.coefficients["gemm_bf16_compute"].value, rel=0.07
    )
    assert found.client_s[0] == pytest.approx(0.004, rel=0.25)
    for name, part in found.calibration.coefficients.items():
        before = shipped_calibration(GPU).coefficients[name]
        if name in found.fitted:
            assert part.kind == "fitted"
            assert part.low <= part.value <= part.high
        else:
            assert part == before
    assert "gemm_fp8_compute" not in found.fitted
    assert found.calibration.engine == "vllm 0.40"
    assert found.calibration.overheads["vllm-1"] == shipped_calibration(GPU).overheads["vllm-1"]


def test_a_new_engine_needs_its_overheads_only() -> None:
    real = truth(step_s=5.0, sequence_s=2.0)
    found = fit_observations([observed(sweep(real))], only_overheads=True, engine_version="vllm 0.41")
    shipped = shipped_calibration(GPU)
    assert found.calibration.coefficients == shipped.coefficients
    assert set(found.calibration.overheads) == {*shipped.overheads, "vllm 0.41"}
    assert {name: found.calibration.overheads[name] for name in shipped.overheads} == dict(shipped.overheads)
    assert set(found.fitted) <= set(OVERHEADS)
    for _, errors in checked(found.calibration, [observed([r for r in sweep(real, noise=0.0) if r.kind == "decode"])]):
        assert np.abs(errors).max() < 0.06


def test_outliers_are_listed_and_do_not_pull() -> None:
    rows = sweep(truth())
    rows[17] = replace(rows[17], seconds=9 * (rows[17].seconds or 0.0))
    found = fit_observations([observed(rows)])
    assert found.outliers[0].place == "made.csv:17"
    assert found.outliers[0].error == pytest.approx(1 / 9 - 1, abs=0.03)
    assert "made.csv:17" in found.report()
    value = found.calibration.values()["gemm_bf16_compute"]
    assert value == pytest.approx(shipped_calibration(GPU).values()["gemm_bf16_compute"], rel=0.1)


def test_doubtful_rows_are_not_fitted_and_counted() -> None:
    rows = sweep(truth())
    rows[3] = replace(rows[3], flag="background traffic", seconds=50.0)
    rows[4] = replace(rows[4], cpu_wait_s=0.8 * (rows[4].seconds or 0.0))
    found = fit_observations([observed(rows)])
    assert sum(part.fitted.n for part in found.parts) == len(rows) - 2
    assert "background traffic" in found.warnings[0]
    assert "waited for a CPU" in found.warnings[1]


def test_the_result_is_a_calibration_file(tmp_path: Path) -> None:
    found = fit_observations([observed(sweep(truth(decode_bf16_memory=0.6)))])
    path = tmp_path / "my.toml"
    path.write_text(to_toml(found.calibration))
    read = load_calibration(path)
    assert read.values() == pytest.approx(found.calibration.values(), rel=1e-4)
    step = kvsim.step_time(model=MODEL, gpu=GPU, decode_context=[8000] * 64, calibration=read)
    shipped = kvsim.step_time(model=MODEL, gpu=GPU, decode_context=[8000] * 64)
    assert step.seconds > 1.1 * shipped.seconds


def test_serving_points_are_matched_with_their_queues() -> None:
    real = truth(gemm_bf16_compute=0.7, sequence_s=2.0)
    deployment, rows = Deployment.of(MODEL, gpu(GPU)), []
    values = {**real.values(), "request_s": 0.003, "client_token_s": 1e-7}
    for concurrency in (1, 8, 64):
        for prompt, output in ((512, 128), (4096, 64)):
            point = Point("x", prompt, output, concurrency=concurrency, ttft_s=1.0, tpot_s=1.0)
            evidence = point_evidence(point, deployment)
            evidence.settle(values)
            ttft_s, tpot_s = evidence.predict(values).tolist()
            rows.append(
                Observation(
                    "point",
                    prompt_tokens=prompt,
                    output_tokens=output,
                    concurrency=concurrency,
                    ttft_s=ttft_s,
                    tpot_s=tpot_s,
                    line=len(rows),
                )
            )
    queued = max(row.ttft_s or 0.0 for row in rows)
    assert queued > 10 * min(row.ttft_s or 0.0 for row in rows)  # most of it is waiting
    found = fit_observations([observed(rows)])
    (part,) = found.parts
    assert part.fitted.median < 0.03
    assert part.fitted.mape < 0.06
    for one in found.evidence:  # what is compared is a simulation at the fitted values
        assert one.settle({**found.calibration.values(), "client_token_s": found.client_s[1]}) < 0.02


def test_ordinary_logs_with_times_calibrate(tmp_path: Path) -> None:
    batch = agents(sessions=12, turns=5)
    real = truth(gemm_bf16_compute=0.6, step_s=6.0)
    run = kvsim.simulate(batch, model=MODEL, gpu=GPU, calibration=real)
    e2e_ns = np.rint(run.turns["e2e_s"] * 1e9 * np.exp(np.random.default_rng(5).normal(0, 0.05, batch.turns)))
    logged = replace(batch, e2e_ns=e2e_ns.astype(np.int64))
    logged.to_jsonl(tmp_path / "agents.jsonl")
    found = fit_files([tmp_path / "agents.jsonl"], gpu=GPU, model=MODEL)
    before = kvsim.simulate(batch, model=MODEL, gpu=GPU)
    after = kvsim.simulate(batch, model=MODEL, gpu=GPU, calibration=found.calibration)

    def error(one: Any) -> float:
        return float(np.median(np.abs(one.turns["e2e_s"] / run.turns["e2e_s"] - 1)))

    assert error(before) > 0.2
    assert error(after) < 0.05
    assert found.parts[0].kind == "logged turns"


def agents(sessions: int, turns: int) -> kvsim.Batch:
    """Sessions that start apart, each turn after a tool's pause."""
    random = np.random.default_rng(2)
    columns: dict[str, list[int]] = {
        name: [] for name in ("parent", "kept_tokens", "prompt_tokens", "output_tokens", "pause_ns", "arrival_ns")
    }
    for session in range(sessions):
        context = 0
        for turn in range(turns):
            new, output = int(random.integers(200, 3000)), int(random.integers(20, 200))
            columns["parent"].append(-1 if turn == 0 else len(columns["parent"]) - 1)
            columns["kept_tokens"].append(context)
            columns["prompt_tokens"].append(context + new)
            columns["output_tokens"].append(output)
            columns["pause_ns"].append(0 if turn == 0 else int(random.integers(0, 10**9)))
            columns["arrival_ns"].append(session * 4 * 10**8 if turn == 0 else 0)
            context += new + output
    return kvsim.Batch.from_columns(**columns, trajectory=np.repeat(np.arange(sessions), turns))


@pytest.mark.skipif(not MEASUREMENTS.exists(), reason="measurements are part of the repository only")
def test_kernel_tables_alone_calibrate_the_rates() -> None:
    tables = [MEASUREMENTS / f"{name}.csv.gz" for name in ("elementwise", "sampler", "decode_attention")]
    found = fit_files(tables, gpu="rtx-4090")
    shipped = shipped_calibration("rtx-4090")
    for name in ("elementwise_memory", "sampler_passes", "decode_bf16_memory"):
        assert found.calibration.coefficients[name].value == pytest.approx(shipped.coefficients[name].value, rel=0.02)
    assert found.calibration.overheads == shipped.overheads


def test_benchmarks_of_vllm_are_serving_points(tmp_path: Path) -> None:
    for at_once, ttft_ms, tpot_ms in ((1, 60, 9), (8, 100, 10), (32, 300, 15)):
        (tmp_path / f"bench-{at_once}.json").write_text(
            f'{{"model_id": "{MODEL}", "completed": 64, "request_rate": "inf", "max_concurrency": {at_once},'
            f' "total_input_tokens": 65536, "total_output_tokens": 8192, "mean_ttft_ms": {ttft_ms},'
            f' "mean_tpot_ms": {tpot_ms}}}'
        )
    found = fit_files([tmp_path], gpu=GPU)
    (part,) = found.parts
    assert (part.kind, part.fitted.n) == (f"serving points, {MODEL}", 6)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "colour,shape\n1,2\n", "no table of measurements"),
        ("a.csv", "gpu,source,ranks,bytes,us\nh100-sxm,x,2,many,5\n", "'many' is no number"),
        ("bench.json", '{"mean_ttft_ms": 1, "mean_tpot_ms": 1, "total_input_tokens": 1, "completed": 0}', "no result"),
        ("steps_x.jsonl", "{}\n", "missing required field"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says) as error:
        fit_files([tmp_path / name], gpu=GPU, model=MODEL)
    assert error.value.file == str(tmp_path / name)


def test_no_evidence_and_two_gpus_are_refused() -> None:
    with pytest.raises(InputError, match="no row to fit"):
        fit_observations([observed([])])
    other = replace(HEADER, gpu="l40s")
    with pytest.raises(InputError, match="measurements of h100-sxm and l40s"):
        fit_observations([observed(sweep(truth())), observed(sweep(truth()), other)])


def test_an_engine_argument_out_of_range_is_named() -> None:
    header = replace(HEADER, engine={"block_size": -1, "enforce_eager": True})
    with pytest.raises(InputError, match=r"engine\.block_size"):
        fit_observations([observed(sweep(truth()), header)])


def test_no_coefficient_is_forgotten_by_the_prior() -> None:
    from kvsim.calibrate.prior import beliefs, datasheet_prior

    guess = datasheet_prior(GPU, "2026-01-31")
    assert set(beliefs(guess)) == {*QUANTITIES, *OVERHEADS}
    text = to_toml(guess)
    assert "datasheet" in text


@pytest.mark.skipif(not MEASUREMENTS.exists(), reason="measurements are part of the repository only")
def test_sweeps_of_processors_are_whole() -> None:
    folders = sorted(path.parent for path in MEASUREMENTS.glob("engine_steps/*/llama-8l-512h.csv"))
    assert folders
    for folder in folders:
        for path in folder.glob("*.csv"):
            found = read_observations(path)
            assert found.header.gpu == folder.name
            assert len(found.rows) > 50
            assert not found.warnings()
            assert to_text(found.header, found.rows) == path.read_text()


@pytest.mark.skipif(not MEASUREMENTS.exists(), reason="measurements are part of the repository only")
def test_the_law_carries_over_to_an_architecture_that_no_fit_saw() -> None:
    sweeps = [read_observations(path) for path in MEASUREMENTS.glob("engine_steps/*/*.csv")]
    unseen = [sweep for sweep in sweeps if sweep.header.note == HELD_OUT]
    assert unseen
    for sweep in unseen:
        calibration = shipped_calibration(sweep.header.gpu)
        assert not any(Path(sweep.header.model).parent.name in source for source in calibration.evidence.sources)
        for part, errors in checked(calibration, [sweep]):
            assert part.held_out.n > 20
            assert np.median(np.abs(np.expm1(-errors))) < 0.15, part.kind
