"""Calibration files: the shipped ones are whole and honest, and the schema refuses what it should."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kvsim._profiles import parse_toml
from kvsim.calibrate.render import to_toml
from kvsim.calibration import OVERHEADS, QUANTITIES, load_calibration, parse_calibration, shipped_calibration
from kvsim.errors import InputError, UnknownNameError
from kvsim.hardware import gpus

FOLDER = Path(__file__).parents[1] / "profiles" / "calibrations"


def text(gpu: str = "h100-sxm") -> str:
    return (FOLDER / f"{gpu}.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("gpu", gpus())
def test_every_gpu_ships_a_calibration(gpu: str) -> None:
    calibration = shipped_calibration(gpu)
    assert calibration.gpu == gpu
    assert set(calibration.coefficients) == set(QUANTITIES)
    assert all(set(table) == set(OVERHEADS) for table in calibration.overheads.values())
    for residual in calibration.residuals.values():
        assert residual.q05 < 0 < residual.q95


def test_a_gpu_without_evidence_says_so_and_is_less_certain() -> None:
    inherited, measured = shipped_calibration("v100-sxm"), shipped_calibration("a100-80gb-sxm")
    assert inherited.kind == "inherited"
    assert inherited.relative == "a100-80gb-sxm"
    assert {part.kind for part in inherited.coefficients.values()} == {"inherited"}
    assert measured.kind == "measured"
    for regime in ("prefill", "decode"):
        wide, narrow = inherited.residuals[regime], measured.residuals[regime]
        assert wide.q95 - wide.q05 > narrow.q95 - narrow.q05


@pytest.mark.parametrize("gpu", ["h100-sxm", "t4"])
def test_writing_and_reading_a_calibration_keeps_it(gpu: str) -> None:
    assert to_toml(parse_calibration(text(gpu), "x.toml")) == text(gpu)


def test_values_hold_coefficients_and_the_overheads_in_force() -> None:
    calibration = shipped_calibration("h100-sxm")
    values = calibration.values()
    assert set(values) == {*QUANTITIES, *OVERHEADS}
    assert values["step_s"] == calibration.overheads["vllm-1"]["step_s"].value
    assert all(math.isfinite(value) for value in values.values())


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('gpu = "h100-sxm"', 'gpu = "h100-sxm"\ncolour = "green"', "colour"),
        ('date = "2026-11-22"\n', "", "date"),
        ('unit = "of dense peak"', 'unit = "percent"', "coefficients.gemm_bf16_compute"),
        (
            "[coefficients]\ngemm_bf16_compute = { value = ",
            "[coefficients]\ngemm_bf16_compute = { value = 7",
            "gemm_bf16",
        ),
        ('kind = "fitted"', 'kind = "guessed"', "kind"),
        ('engine = "vllm-1"', 'engine = "vllm-9"', "engine"),
    ],
)
def test_a_broken_file_is_refused_by_field(old: str, new: str, field: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text().replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_calibration(file)
    assert str(file) in str(caught.value)
    assert field in str(caught.value)


def test_a_missing_file_and_an_unknown_gpu_are_said() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_calibration("nowhere.toml")
    with pytest.raises(UnknownNameError, match="h100-sxm"):
        shipped_calibration("h100-sxn")


def test_the_files_are_toml_that_names_a_source_for_every_number() -> None:
    for file in FOLDER.glob("*.toml"):
        for part in parse_toml(file.read_text(encoding="utf-8"), file=file.name)["coefficients"].values():
            assert part["source"]
            assert part["n"] > 0 or part["kind"] != "fitted"
