"""What goes with wall-clock time on logged runs of the real engine."""

from __future__ import annotations

import io
from math import isnan

import numpy as np
import pytest

from kvsim.commands._correlation import print_correlations
from kvsim.validate_closed_loop import planned_turns, predict_runs
from kvsim.validate_correlation import KVSIM, UNITS, correlate, correlations

pytest.importorskip("scipy")


@pytest.fixture(scope="module")
def found(request):
    return correlate(predict_runs(request.path.parent / "data" / "vllm_closed_loop"))


@pytest.fixture(scope="module")
def repeated(request):
    """Five repeats of each of four settings, and sweeps with their engine's arguments."""
    return predict_runs(request.path.parent / "data" / "vllm_repeats")


def test_repeats_of_the_engine_go_with_each_other_no_better(repeated):
    correlated = correlate(repeated)
    assert len(correlated.repeats) == 4
    for setting, pairs in correlated.repeats.items():
        assert len(pairs) == 10
        runs = [one for one in correlated.runs if one.run.setting == setting]
        r = {name: np.median([one.correlation(name, "request")[0] for one in runs]) for name in correlated.names}
        assert r.pop(KVSIM) >= correlated.ceiling(setting)[0] - 0.05
        assert max(r.values()) < correlated.ceiling(setting)[0] - 0.1


def test_repeats_are_predicted_as_well_as_they_predict_each_other(repeated):
    assert sum(map(repeated.inside, repeated.runs)) >= 0.8 * len(repeated.runs)
    assert max(abs(run.error) for run in repeated.runs) < 0.11
    turns = np.median([run.turn_accuracy.median for run in repeated.runs])
    assert turns < np.median([repeats.turn_median for repeats in repeated.repeats.values()])
    calm = [run for run in repeated.runs if not run.evicted]
    assert len(calm) == 5
    assert all(run.same_cached == len(run.measured.e2e_s) for run in calm)


def test_pearson_and_spearman():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    pearson, spearman = correlations(x, x**3)
    assert pearson == pytest.approx(np.corrcoef(x, x**3)[0, 1])
    assert spearman == pytest.approx(1.0)
    assert all(map(isnan, correlations(x, np.ones(4))))
    assert all(map(isnan, correlations(x[:2], x[:2])))


def test_units_are_means_by_turn_and_sums_by_session(found):
    one = found.runs[0]
    turns, e2e = planned_turns(one.run.plan), one.run.measured.e2e_s
    first = [second for turn, second in zip(turns, e2e, strict=True) if turn.turn == 0]
    session = [second for turn, second in zip(turns, e2e, strict=True) if turn.session == 1]
    assert one.by("turn index", e2e)[0] == pytest.approx(np.mean(first))
    assert one.by("trajectory", e2e)[1] == pytest.approx(np.sum(session))
    assert one.by("request", e2e) is e2e


def test_alone_nothing_waits_and_nothing_is_lost(found):
    for one in found.runs:
        assert (one.run.alone.e2e_s <= one.run.predicted.e2e_s * 1.0001).mean() > 0.9
        kept = [turns.prompt_tokens + turns.output_tokens - 1 for turns in planned_turns(one.run.plan)]
        later = one.turn[1:] > 0
        size = 32
        np.testing.assert_array_equal(one.run.alone.cached_tokens[1:][later], np.array(kept)[:-1][later] // size * size)


def test_kvsim_goes_with_time_better_than_tokens_and_pte(found):
    (setting,) = found.repeats
    runs = [one for one in found.runs if one.run.setting == setting]
    for one in runs:
        r = {name: one.correlation(name, "request")[0] for name in found.names}
        assert r[KVSIM] == max(value for value in r.values() if not isnan(value))
        assert isnan(r["PTE, paper"])  # the excerpt's manifest names no model


def test_the_tables_hold_every_measure_and_the_repeats(found):
    out = io.StringIO()
    print_correlations(found, out)
    text = out.getvalue()
    assert all(f"per {unit}" in text for unit in UNITS)
    for table in text.split("\n\n")[:-1]:
        assert all(name in table for name in [*found.names, "repeats of vLLM"])
    assert "1 settings with repeats" in text.splitlines()[-1]
