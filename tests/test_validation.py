"""The shipped serving points and their predictions: what they claim, and that the shipped law makes them."""

from __future__ import annotations

import numpy as np
import pytest

from kvsim.errors import InputError
from kvsim.hardware import gpus
from kvsim.validation import COLUMNS, Accuracy, accuracy, shipped_points, summary


def point(measured: float, fitted: float, held_out: float, low: float, high: float) -> dict[str, str | float]:
    plain = dict.fromkeys(COLUMNS, "x")
    return plain | {
        "measured_s": measured,
        "fitted_s": fitted,
        "held_out_s": held_out,
        "low_s": low,
        "high_s": high,
    }


def test_accuracy_of_points_whose_errors_are_known() -> None:
    points = [point(1, 1.1, 1.2, 0.9, 1.1), point(2, 1.8, 3, 2.1, 4), point(4, 4, 4, float("nan"), float("nan"))]
    assert accuracy(points, "fitted_s") == pytest.approx(Accuracy(3, 0.1, 0.2 / 3, 0.0, 0.1, float("nan")), nan_ok=True)
    held = accuracy(points, "held_out_s")
    assert held == pytest.approx(Accuracy(3, 0.2, 0.7 / 3, 0.2, 0.44, 0.5))


def test_points_are_grouped_by_what_is_asked_for_and_nothing_else() -> None:
    lines = summary([point(1, 1, 1, 0, 2) | {"gpu": gpu} for gpu in "bab"], ["gpu"])
    assert [(line.group, line.fitted.n) for line in lines] == [(("a",), 1), (("b",), 2)]
    with pytest.raises(InputError, match="colour"):
        summary([], ["colour"])


def test_shipped_points_are_whole() -> None:
    points = shipped_points()
    assert {str(one["gpu"]) for one in points} <= set(gpus())
    assert {str(one["regime"]) for one in points} == {"prefill", "decode", "queued"}
    for name in ("measured_s", "fitted_s", "held_out_s"):
        values = np.array([float(one[name]) for one in points])
        assert (values > 0).all()
        assert np.isfinite(values).all()


def test_intervals_of_held_out_points_hold_what_they_say() -> None:
    """Other models' errors bound a model's: neither too narrow nor so wide that they say nothing."""
    points = [one for one in shipped_points() if not one["path"]]
    for regime in ("decode", "prefill", "queued"):
        assert 0.8 <= accuracy([one for one in points if one["regime"] == regime], "held_out_s").coverage <= 0.97
