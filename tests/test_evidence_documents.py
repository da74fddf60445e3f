"""Documents that tell what calibrations rest on say what calibrations and measurements say."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest

from kvsim.calibrate.census import UNUSED, unexplained
from kvsim.calibrate.unfitted_points import unfitted_points

ROOT = Path(__file__).parents[1]
MEASUREMENTS = ROOT / "profiles" / "measurements"
pytestmark = pytest.mark.skipif(not MEASUREMENTS.exists(), reason="measurements are part of the repository only")


def tool(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_documents_are_as_the_calibrations_are():
    fresh = tool("refresh_docs")
    evidence = (ROOT / "docs" / "calibration_evidence.md").read_text(encoding="utf-8")
    assert evidence == fresh.refreshed(evidence), "it has changed: python tools/refresh_docs.py"
    few = (ROOT / "docs" / "unfitted_points.md").read_text(encoding="utf-8")
    assert few == fresh.unfitted_points_text(), "it has changed: python tools/refresh_docs.py"


def test_time_between_tokens_of_cards_with_unfitted_points_lies_in_its_interval():
    points = unfitted_points(MEASUREMENTS / "unfitted_points.csv")
    current = ("rtx-4090", "rtx-pro-6000", "l40s")
    between = [point for point in points if point.time == "tpot_s" and point.row["gpu"] in current]
    assert len(between) >= 20
    assert sum(point.within for point in between) >= 0.8 * len(between)
    assert all(point.low_s < point.high_s for point in points)


def test_every_serving_point_at_hand_is_used_or_explained(shared):
    cards = tool("collect_measurements").GPUS | {"A10-24GB": "a10"}  # publishers' names to ours
    used: dict[str, set[str]] = {}
    for table in ("serving.csv", "unfitted_points.csv"):
        with (MEASUREMENTS / table).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                its = {label for label, name in cards.items() if name == row["gpu"]}
                used.setdefault(row["source"], set()).update(its)
    assert unexplained(shared, used) == []
    for file, reasons in UNUSED.items():
        assert not used.get(file, set()) & set(reasons) - {"RTX-5090-32GB"}, f"{file}: used after all"
