"""A GPU that no calibration ships for takes over that of a relative, and says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

import kvsim
from kvsim._inheritance import calibration_of, nearest_measured
from kvsim.architecture import Architecture
from kvsim.calibration import shipped_calibration
from kvsim.commands.demo import MODEL, example
from kvsim.errors import InputError
from kvsim.hardware import gpu, gpus
from kvsim.pricing import resolve_pricing
from kvsim.step import step_time


@pytest.mark.parametrize("name", gpus())
def test_what_ships_is_used_as_it_ships(name):
    assert calibration_of(gpu(name)) is shipped_calibration(name)


@pytest.mark.parametrize(
    ("like", "relative"),
    [
        ("l4", "l40s"),
        ("rtx-a6000", "a40"),
        ("h100-pcie", "h100-sxm"),
        ("v100-sxm", "a100-80gb-sxm"),
        ("gb200", "b200-sxm"),
        ("mi300x", "mi300x"),
    ],
)
def test_a_card_of_a_new_id_inherits_from_the_nearest_measured_one(like, relative):
    card = replace(gpu(like), id="mine")
    assert nearest_measured(card).id == relative
    found, source = calibration_of(card), shipped_calibration(relative)
    assert (found.gpu, found.kind, found.relative) == ("mine", "inherited", relative)
    assert "mine" in found.note
    for name, part in found.coefficients.items():
        assert part.kind == "inherited"
        assert part.value == source.coefficients[name].value
        assert part.low <= source.coefficients[name].low
        assert part.high >= source.coefficients[name].high
    for regime, residual in found.residuals.items():
        assert residual.n == 0
        assert residual.q05 <= source.residuals[regime].q05
        assert residual.q95 >= source.residuals[regime].q95


@pytest.mark.parametrize("name", gpus())
def test_processors_and_gpus_do_not_inherit_from_each_other(name):
    relative = nearest_measured(replace(gpu(name), id="mine"))
    assert relative.is_processor == gpu(name).is_processor
    assert relative.is_processor == ("core" in name)


def test_it_is_priced_like_a_card_that_ships_unmeasured():
    names = ["h100-pcie", replace(gpu("h100-pcie"), id="mine")]
    ours, shipped = (kvsim.estimate(example(), model=MODEL, gpu=card).model_s for card in names)
    assert ours == pytest.approx(shipped, rel=0.01)


def test_a_changed_copy_does_not_claim_the_evidence_of_its_id():
    slower = replace(gpu("h100-sxm"), memory_bandwidth_byte_per_s=2e12)
    found = calibration_of(slower)
    assert (found.kind, found.relative) == ("inherited", "h100-sxm")
    assert "memory_bandwidth_byte_per_s" in found.note


def test_a_copy_with_another_price_keeps_it():
    assert calibration_of(replace(gpu("h100-sxm"), usd_per_hour=9.0)).kind == "measured"


def test_the_calibration_of_another_gpu_is_refused():
    foreign = shipped_calibration("l40s")
    with pytest.raises(InputError, match="of l40s, the GPU is h100-sxm"):
        resolve_pricing(MODEL, "h100-sxm", calibration=foreign)
    with pytest.raises(InputError, match="of l40s, the GPU is h100-sxm"):
        step_time(model=MODEL, gpu="h100-sxm", decode_context=[5], calibration=foreign)


def test_objects_are_resolved_once_and_files_each_time(tmp_path):
    architecture, card = Architecture.load(MODEL), gpu("h100-sxm")
    assert resolve_pricing(architecture, card) is resolve_pricing(replace(architecture), card)
    by_hand = replace(architecture, notes=["a list"])
    assert resolve_pricing(by_hand, card).gpu == card
