"""GPU profiles: every number with a source, names that resolve, a schema that refuses."""

from __future__ import annotations

import datetime
from importlib.resources import files
from pathlib import Path

import pytest

from kvsim.errors import InputError, UnknownNameError
from kvsim.hardware import KINDS, Gpu, gpu, gpus

SHIPPED = files("kvsim.profiles").joinpath("gpus", "rtx-4090.toml").read_text(encoding="utf-8")


def test_all_gpus_are_there() -> None:
    assert len(gpus()) == 33
    assert {"a100-80gb-sxm", "h100-sxm", "h200-sxm", "b200-sxm", "l40s", "rtx-4090", "mi300x"} <= set(gpus())


@pytest.mark.parametrize("name", gpus())
def test_numbers_are_sane_and_sourced(name: str) -> None:
    card = gpu(name)
    assert card.id == name
    for attribute, fact in card.facts:
        assert getattr(card, attribute) is not None
        assert fact.kind in KINDS
        assert len(fact.source) > 8, "a source is spelt out, not a key of [sources]"
        assert fact.date >= datetime.date(2026, 1, 1)
    if card.architecture.endswith("CPU"):
        assert 1e10 < card.half_flop_per_s < 1e13
        assert 1e9 < card.memory_bandwidth_byte_per_s < 1e12
        return
    assert 50e12 < card.half_flop_per_s < 3e15
    # The device reports less than marketing promises in GiB, and not much less than it promises in GB.
    assert 0.9 * card.memory_bytes < card.device_memory_bytes < card.memory_bytes / 1e9 * 2**30
    assert 3e11 <= card.memory_bandwidth_byte_per_s <= 8e12
    assert 4 * 2**20 <= card.l2_bytes <= 128 * 2**20
    assert 40 <= card.sm_count <= 304
    assert 16e9 <= card.host_link_byte_per_s <= 450e9
    assert 0 <= card.nvlink_byte_per_s <= 1.8e12
    assert 70 <= card.tdp_w <= 1400
    for faster, slower in (
        (card.fp8_flop_per_s, card.half_flop_per_s),
        (card.fp4_flop_per_s, card.fp8_flop_per_s),
    ):
        assert faster is None or (slower is not None and 1.9 < faster / slower < 5)
    hash(card)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("H100", "h100-sxm"),
        ("h100-80gb-sxm", "h100-sxm"),
        ("H100-80GB-PCIe", "h100-pcie"),
        ("A100-80GB", "a100-80gb-sxm"),
        ("A100-SXM4-40GB", "a100-40gb-sxm"),
        ("RTX 4090", "rtx-4090"),
        ("rtx_pro_6000", "rtx-pro-6000"),
        ("RTX-PRO-6000-Blackwell", "rtx-pro-6000"),
        ("H100-64GB-SXM(custom MareNostrum5)", "h100-64gb-sxm"),
        ("T4", "t4"),
    ],
)
def test_aliases(alias: str, name: str) -> None:
    assert gpu(alias).id == name


@pytest.mark.parametrize("name", gpus())
def test_names_of_the_profile_are_aliases(name: str) -> None:
    assert gpu(gpu(name).name).id == name


def test_an_unknown_gpu_is_refused_with_a_hint() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean .*'h100-sxm'"):
        gpu("h100-smx")


@pytest.mark.parametrize(("name", "has"), [("v100-sxm", False), ("v100-pcie", False), ("t4", False), ("a100", True)])
def test_cards_without_bf16_are_flagged(name: str, has: bool) -> None:
    assert gpu(name).bf16 is has


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("h100-nvl", {"half_flop_per_s", "fp8_flop_per_s", "l2_bytes"}),
        ("gh200", {"sm_count", "l2_bytes", "tdp_w"}),
        ("h100-64gb-sxm", {"half_flop_per_s", "memory_bytes", "sm_count"}),
        ("rtx-a5000", {"half_flop_per_s"}),
        ("a10g", {"tdp_w", "usd_per_hour"}),
        ("h100-sxm", {"host_link_byte_per_s", "nvlink_byte_per_s", "usd_per_hour"}),
    ],
)
def test_weak_numbers_say_so(name: str, attributes: set[str]) -> None:
    assert attributes <= set(gpu(name).unverified())


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my-card.toml"
    path.write_text(text)
    return path


def test_a_card_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, SHIPPED.replace('id = "rtx-4090"', 'id = "mine"'))
    monkeypatch.chdir(tmp_path)
    mine = gpu("./my-card.toml")
    assert isinstance(mine, Gpu)
    assert mine.id == "mine"
    assert mine.memory_bandwidth_byte_per_s == gpu("rtx-4090").memory_bandwidth_byte_per_s


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("sm_count =", "sm_cnt =", "sm_cnt"),
        ("value = 128,", "value = -1,", "sm_count.value"),
        ("value = 128,", "value = nan,", "sm_count.value"),
        ("value = 128,", "", "sm_count.value"),
        ("value = 128, ", "value = 128, unit = 1, ", "sm_count.unit"),
        ('value = 128, kind = "datasheet"', 'value = 128, kind = "guess"', "sm_count.kind"),
        ('half_precision = "bf16"', 'half_precision = "tf32"', "half_precision"),
        ('name = "RTX-4090-24GB"', "name = 4090", "name"),
    ],
)
def test_a_file_that_breaks_the_schema_is_refused(tmp_path: Path, old: str, new: str, field: str) -> None:
    assert old in SHIPPED
    path = write(tmp_path, SHIPPED.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        gpu(path)
    assert caught.value.field == field
    assert caught.value.file == str(path)
    assert caught.value.remedy


def test_a_number_without_a_source_is_refused(tmp_path: Path) -> None:
    lines = ["sm_count = 128" if line.startswith("sm_count") else line for line in SHIPPED.splitlines()]
    with pytest.raises(InputError, match="a number needs its source"):
        gpu(write(tmp_path, "\n".join(lines)))


def test_a_missing_number_is_refused(tmp_path: Path) -> None:
    lines = [line for line in SHIPPED.splitlines() if not line.startswith("memory_gb")]
    with pytest.raises(InputError, match="field 'memory_gb': missing"):
        gpu(write(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize("name", ["./nothing.toml", "nothing.toml"])
def test_a_missing_file_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        gpu(name)
