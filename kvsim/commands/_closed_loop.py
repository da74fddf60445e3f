"""The tables of ``kvsim validate --closed-loop``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TextIO

import numpy as np

from kvsim.calibrate.robust import Accuracy
from kvsim.calibrate.step_logs import joined
from kvsim.commands._format import plain
from kvsim.commands._tables import print_table
from kvsim.validate_closed_loop import BAR, ClosedLoop, SweepFit

KINDS = ("prefill", "mixed", "decode")


def print_report(found: ClosedLoop, out: TextIO) -> None:
    """Print what was fitted, how the held-out runs were predicted, and last how many are within the bar."""
    for name, reason in found.not_predicted.items():
        print(f"{name}: not predicted, {reason}", file=out)
    print("\nFitted: step times of the sweeps", file=out)
    print_table(_fit_rows(found.fits), out)
    print("\nCoefficients of the steps' times, microseconds", file=out)
    print_table(_coefficient_rows(found.fits), out)
    print("\nHeld out: step times of the runs, what each step did as logged", file=out)
    print_table(_step_rows(found), out)
    print("\nHeld out: runs in closed loop, their plans and engine limits given, all else simulated", file=out)
    print_table(_run_rows(found), out)
    print("\nThe same runs turn by turn, beside repeats of the real engine", file=out)
    print_table(_turn_rows(found), out)
    print(file=out)
    for line in _summary(found):
        print(line, file=out)


def _summary(found: ClosedLoop) -> list[str]:
    """The count of runs within the bar comes last."""
    calm = [run for run in found.runs if not run.evicted]
    exact = sum(run.same_cached == len(run.measured.e2e_s) for run in calm)
    turns = [(run.turn_accuracy.median, run.correlation) for run in found.runs]
    apart = [(repeats.turn_median, repeats.correlation) for repeats in found.repeats.values()]
    lines = [f"{exact} of {len(calm)} runs without eviction have equal cached tokens in every turn"]
    lines.append("E2E turn by turn, median over runs: {:.1%} off, r {:.2f}".format(*np.median(turns, axis=0)))
    if apart:
        lines[-1] += "; over settings, repeats of vLLM: {:.1%} apart, r {:.2f}".format(*np.median(apart, axis=0))
    total, bar = len(found.runs), f"within {BAR:.0%} or within their repeats' spread"
    known = sum(map(found.inside_at_own_speed, found.runs))
    lines.append(f"{known} of {total} runs would have a mean E2E {bar} if the machine's speed in each were known")
    lines.append(f"{sum(map(found.inside, found.runs))} of {total} runs have a mean E2E {bar}")
    return lines


def _fit_rows(fits: Iterable[SweepFit]) -> list[list[str]]:
    rows = [["folder", "model", "sweeps", "steps", "median", "MAPE", "bias", "left out: median", "MAPE", "bias"]]
    for law in fits:
        both = (Accuracy.of(law.fit.fitted), Accuracy.of(law.fit.held_out))
        errors = [f"{x:.1%}" for part in both for x in (part.median, part.mape, part.bias)]
        rows.append([law.folder, law.model, ", ".join(law.sweeps), f"{law.steps:,}", *errors])
    return rows


def _coefficient_rows(fits: Iterable[SweepFit]) -> list[list[str]]:
    rows = [["folder", "model", "coefficient", "value", "90 % interval"]]
    for law in fits:
        for name, value in asdict(law.cost).items():
            low, high = law.fit.intervals[name]
            label = name.removesuffix("_s").replace("_", " ")
            rows.append(
                [law.folder, law.model, label, plain(value * 1e6), f"{plain(low * 1e6)} to {plain(high * 1e6)}"]
            )
        ways = law.client._asdict()
        rows += [
            [law.folder, law.model, name.removesuffix("_s").replace("_", " "), plain(s * 1e6), ""]
            for name, s in ways.items()
        ]
    return rows


def _step_rows(found: ClosedLoop) -> list[list[str]]:
    rows = [["folder", "model", "kind", "steps", "share of time", "error of the sum", "median", "MAPE"]]
    for law in found.fits:
        own = [run.steps for run in found.runs if run.law is law]
        if not own:
            continue
        steps = joined(own)
        predicted, kind = law.cost.of(steps), steps.kind
        for name in KINDS:
            chosen = kind == name
            if not chosen.any():
                continue
            measured = steps.seconds[chosen]
            accuracy = Accuracy.of(np.log(measured / predicted[chosen]))
            rows.append(
                [
                    law.folder,
                    law.model,
                    name,
                    f"{accuracy.n:,}",
                    f"{measured.sum() / steps.seconds.sum():.0%}",
                    f"{predicted[chosen].sum() / measured.sum() - 1:+.1%}",
                    f"{accuracy.median:.1%}",
                    f"{accuracy.mape:.1%}",
                ]
            )
    return rows


def _run_rows(found: ClosedLoop) -> list[list[str]]:
    head = ["run", "turns", "cached tokens", "vLLM", "TTFT s", "vLLM", "error", "spread"]
    rows = [[*head, "E2E s", "vLLM", "error", "spread", "inside"]]
    for run in found.runs:
        repeats = found.repeats.get(run.setting)
        rows.append(
            [
                run.name,
                str(len(run.measured.e2e_s)),
                f"{run.predicted.cached_tokens.sum():.0f}",
                f"{run.measured.cached_tokens.sum():.0f}",
                f"{run.predicted.ttft_s.mean():.3f}",
                f"{run.measured.ttft_s.mean():.3f}",
                f"{run.ttft_error:+.1%}",
                f"{repeats.ttft_spread:.1%}" if repeats else "-",
                f"{run.predicted.e2e_s.mean():.3f}",
                f"{run.measured.e2e_s.mean():.3f}",
                f"{run.error:+.1%}",
                f"{repeats.spread:.1%}" if repeats else "-",
                "yes" if found.inside(run) else "no",
            ]
        )
    return rows


def _turn_rows(found: ClosedLoop) -> list[list[str]]:
    head = ["run", "equal cached tokens", "E2E median", "MAPE", "r"]
    head += ["repeats: equal cached tokens", "E2E median", "MAPE", "r"]
    rows = [[*head, "waited for a CPU", "sum of step times", "E2E at the run's own speed"]]
    for run in found.runs:
        repeats = found.repeats.get(run.setting)
        apart = ["-"] * 4
        if repeats:
            shares = (repeats.same_cached, repeats.turn_median, repeats.turn_mape)
            apart = [*(f"{share:.1%}" for share in shares), f"{repeats.correlation:.2f}"]
        rows.append(
            [
                run.name,
                f"{run.same_cached / len(run.measured.e2e_s):.1%}",
                f"{run.turn_accuracy.median:.1%}",
                f"{run.turn_accuracy.mape:.1%}",
                f"{run.correlation:.2f}",
                *apart,
                f"{run.waited_share:.1%}",
                f"{run.steps_error:+.1%}",
                f"{run.own_speed_error:+.1%}",
            ]
        )
    return rows
