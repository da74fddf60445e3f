"""The fitting machinery on made-up measurements whose truth is known, and on the shipped ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kvsim.calibrate.measurements import Measurements
from kvsim.calibrate.relatives import RELATIVES, chain
from kvsim.calibrate.robust import Accuracy, Parameter, fit, held_out_groups
from kvsim.calibrate.serving import engine_of
from kvsim.calibrate.study import Study
from kvsim.calibration import shipped_calibration
from kvsim.errors import InputError
from kvsim.hardware import gpus

pytest.importorskip("scipy")

MEASUREMENTS = Path(__file__).parents[1] / "profiles" / "measurements"


def test_a_fit_finds_the_truth_despite_outliers_and_says_how_sure_it_is() -> None:
    random = np.random.default_rng(1)
    size = random.uniform(1, 100, 400)
    measured = (3 + 0.5 * size) * np.exp(random.normal(0, 0.05, 400))
    measured[::20] *= 5  # a row in twenty is spoilt
    groups = np.array([str(index % 40) for index in range(400)])
    parameters = {"floor": Parameter(1, 0.0, 100), "slope": Parameter(1, 0.0, 100)}
    result = fit(lambda values, rows: values["floor"] + values["slope"] * size[rows], measured, groups, parameters)
    for name, truth in (("floor", 3), ("slope", 0.5)):
        low, high = result.intervals[name]
        assert result.values[name] == pytest.approx(truth, rel=0.1)
        assert low <= result.values[name] <= high
    assert len(result.fitted) == 320
    assert Accuracy.of(result.held_out).median < 0.06


def test_groups_are_held_out_whole_and_each_once() -> None:
    groups = np.array([f"g{index % 17}" for index in range(200)])
    turns = [held_out_groups(groups, turn) for turn in range(5)]
    assert (np.sum(turns, axis=0) == 1).all()
    for held in turns:
        assert not set(groups[held]) & set(groups[~held])


@pytest.mark.parametrize(
    ("source", "version", "engine"),
    [
        ("mlenergy_v3", "v1 (see ml-energy/benchmark)", "vllm-1"),
        ("mlenergy_v2", "0.5.4 (per ml.energy v2 docs; verify)", "vllm-0-server"),
        ("aiconfigurator_silicon", "0.19.0", "vllm-1"),
        ("aiconfigurator_silicon", "not stated", "vllm-1"),
        ("argonne_llm_inference_bench", "not stated", "vllm-0-offline"),
        ("cloudrift", "latest", "vllm-1"),
    ],
)
def test_engine_generations(source: str, version: str, engine: str) -> None:
    assert engine_of(source, version) == engine


def test_every_stand_in_is_a_gpu() -> None:
    assert set(RELATIVES) <= set(gpus())
    assert all(set(chain(name)) <= set(gpus()) for name in gpus())


def test_a_folder_without_measurements_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no measurements gemm"):
        Measurements(tmp_path).table("gemm", "h100-sxm")


@pytest.mark.skipif(not MEASUREMENTS.exists(), reason="measurements are part of the repository only")
def test_the_shipped_calibration_of_a_small_case_is_reproduced() -> None:
    study = Study(Measurements(MEASUREMENTS))
    kernels = study.kernels("rtx-4090").coefficients
    shipped = shipped_calibration("rtx-4090").coefficients
    for name, part in kernels.items():
        assert part.value == pytest.approx(shipped[name].value, rel=0.02)
