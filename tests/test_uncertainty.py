"""Intervals: they contain the price, move with the evidence, and extrapolation is named and can be refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import kvsim
from kvsim.calibration import Calibration, Evidence, Residual, shipped_calibration
from kvsim.errors import ExtrapolationError
from kvsim.uncertainty import OCTAVE

MODEL, GPU = "meta-llama/Llama-3.1-8B-Instruct", "h100-sxm"
TURNS = [
    {"prompt_tokens": 3000, "output_tokens": 200},
    {"parent": 0, "kept_tokens": 3200, "prompt_tokens": 4000, "output_tokens": 100, "pause_s": 2.0},
]


def batch(trajectories: int = 2) -> kvsim.Batch:
    return kvsim.Batch.from_trajectories([{"id": str(number), "turns": TURNS} for number in range(trajectories)])


def sure(low: float, high: float, **evidence: object) -> Calibration:
    """The shipped calibration with other residuals (as factors) and evidence."""
    residual = Residual(100, float(np.log(low)), 0.0, float(np.log(high)))
    shipped = shipped_calibration(GPU)
    changed: Evidence = replace(shipped.evidence, **evidence)  # type: ignore[arg-type]
    return replace(shipped, residuals={"prefill": residual, "decode": residual}, evidence=changed)


def estimated(calibration: Calibration, **how: object) -> kvsim.Estimate:
    return kvsim.estimate(batch(), model=MODEL, gpu=GPU, calibration=calibration, backend="reference", **how)


def test_the_ends_are_the_price_of_a_faster_and_of_a_slower_machine() -> None:
    found = estimated(sure(0.8, 1.5))
    low, high = found.interval.of("model_s")
    assert low == pytest.approx(0.8 * found.model_s, rel=1e-6)
    assert high == pytest.approx(1.5 * found.model_s, rel=1e-6)
    pauses = found.latency_s - found.model_s
    assert found.interval.of("latency_s")[1] == pytest.approx(pauses + 1.5 * found.model_s, rel=1e-6)
    for name in ("ttft_s", "e2e_s", "decode_s", "finish_s"):
        low, high = found.interval.of(name, turns=True)
        assert (low < found.turns[name]).all()
        assert (found.turns[name] < high).all()


def test_errors_of_one_model_do_not_average_out_over_a_batch() -> None:
    found = estimated(sure(0.8, 1.5))
    total = float(found.model_s.sum())
    assert found.interval.total("model_s") == pytest.approx((0.8 * total, 1.5 * total), rel=1e-6)


def test_a_simulation_has_both_ends_simulated() -> None:
    calibration = sure(0.8, 1.5)
    how = {"model": MODEL, "gpu": GPU, "calibration": calibration, "arrivals": "closed:2", "backend": "reference"}
    run = kvsim.simulate(batch(3), **how)
    low, high = run.interval.of("latency_s")
    assert (low < run.latency_s).all()
    assert (run.latency_s < high).all()
    slower = run.pricing.scaled(1.5, 1.5).law
    assert slower.seconds(int(slower.step[1])) == pytest.approx(
        1.5 * run.pricing.law.seconds(int(run.pricing.law.step[1]))
    )


def test_beyond_the_evidence_is_named_and_wider() -> None:
    inside, beyond = estimated(sure(0.8, 1.5)), estimated(sure(0.8, 1.5, context_tokens=(16, 1025)))
    assert inside.uncertainty.beyond == ()
    assert [part.width for part in beyond.uncertainty.beyond] == [pytest.approx(OCTAVE * 2)]  # 4100 of 1025 tokens
    assert beyond.uncertainty.sentences == ("4,100 tokens of context: measured up to 1,025.",)
    assert beyond.interval.total("model_s")[0] < inside.interval.total("model_s")[0]
    assert beyond.interval.total("model_s")[1] > inside.interval.total("model_s")[1]


def test_strict_refuses_extrapolation_and_names_it() -> None:
    estimated(sure(0.8, 1.5), strict=True)
    narrow = sure(0.8, 1.5, context_tokens=(16, 1000))
    with pytest.raises(ExtrapolationError, match="4,100 tokens of context: measured up to 1,000"):
        estimated(narrow, strict=True)
    with pytest.raises(ExtrapolationError, match="measured up to 1,000"):
        kvsim.simulate(batch(), model=MODEL, gpu=GPU, calibration=narrow, arrivals="closed:1", strict=True)


def test_an_unmeasured_format_or_number_of_ranks_is_wider_than_a_long_context() -> None:
    formats = estimated(sure(0.8, 1.5, weight_formats=("fp8",)))
    ranks = estimated(sure(0.8, 1.5, tensor_parallel=(2, 4)))
    assert any("bf16 weights were not measured" in one for one in formats.uncertainty.sentences)
    assert any("tensor_parallel_size 1" in one for one in ranks.uncertainty.sentences)
    for found in (formats, ranks):
        assert found.uncertainty.decode.high > 1.7
