"""The accuracy of the shipped calibrations: tables for people and Markdown, JSON, and the scatter plot."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

from rich.console import Console

from kvsim._markdown import markdown_table
from kvsim.commands._console import table
from kvsim.commands._format import count
from kvsim.report.figures import require_plotly, write
from kvsim.validation import Accuracy, Line, Point

FIGURES = ("n", "median", "MAPE", "bias", "p90")
SCHEMA = "kvsim.validate/1"


def cells(line: Line) -> list[str]:
    """The figures of a group: fitted, then held out with the coverage of its intervals."""
    return [*_figures(line.fitted), *_figures(line.held_out)[1:], _percent(line.held_out.coverage, 0)]


def _figures(part: Accuracy) -> list[str]:
    return [count(part.n), _percent(part.median), _percent(part.mape), _signed(part.bias), _percent(part.p90)]


def _percent(share: float, digits: int = 1) -> str:
    return "-" if isnan(share) else f"{100 * share:.{digits}f} %"


def _signed(share: float) -> str:
    return "-" if isnan(share) else f"{100 * share:+.1f} %"


def show(console: Console, by: Sequence[str], lines: Sequence[Line]) -> None:
    """A line a group, fitted and held out apart."""
    shown = table()
    for name in by:
        shown.add_column(name, no_wrap=True)
    for heading in FIGURES:
        shown.add_column(heading if heading == "n" else f"fitted\n{heading}", justify="right", no_wrap=True)
    for heading in (*FIGURES[1:], "in 90 %"):
        shown.add_column(f"held out\n{heading}", justify="right", no_wrap=True)
    for line in lines:
        shown.add_row(*line.group, *cells(line))
    console.print(shown)


def markdown(by: Sequence[str], lines: Sequence[Line]) -> str:
    """The same as a Markdown table."""
    held = [f"held out: {FIGURES[1]}", *FIGURES[2:], "in 90 %"]
    headings = [*by, "n", f"fitted: {FIGURES[1]}", *FIGURES[2:], *held]
    return markdown_table([headings, *([*line.group, *cells(line)] for line in lines)])


def accuracy_object(by: Sequence[str], lines: Sequence[Line]) -> dict[str, Any]:
    """The same as JSON."""
    groups = [
        {
            **dict(zip(by, line.group, strict=True)),
            "fitted": line.fitted._asdict(),
            "held_out": line.held_out._asdict(),
        }
        for line in lines
    ]
    return {"schema": SCHEMA, "by": list(by), "groups": groups}


def plot(points: Sequence[Point], file: Path) -> None:
    """Write the scatter plot of held-out predictions against measured times, a colour a GPU, a symbol a regime.

    Raises :class:`kvsim.errors.MissingExtraError` without plotly.
    """
    figure = require_plotly().Figure()
    symbols = {"decode": "circle", "prefill": "square", "queued": "diamond"}
    for gpu in sorted({str(point["gpu"]) for point in points}):
        its = [point for point in points if point["gpu"] == gpu]
        figure.add_scatter(
            name=gpu,
            mode="markers",
            x=[point["measured_s"] for point in its],
            y=[point["held_out_s"] for point in its],
            marker={"size": 5, "symbol": [symbols[str(point["regime"])] for point in its]},
            text=[_label(point) for point in its],
        )
    ends = [min(float(p["measured_s"]) for p in points), max(float(p["measured_s"]) for p in points)]
    figure.add_scatter(name="equal", mode="lines", x=ends, y=ends, line={"color": "grey"})
    figure.update_layout(
        title="Predicted without the model in the fit, against measured",
        xaxis={"type": "log", "title": "measured, s"},
        yaxis={"type": "log", "title": "predicted, s"},
    )
    write(figure, file)


def _label(point: Point) -> str:
    deployment = f"{point['model']} {point['quantization']} x{point['tensor_parallel']:.0f}"
    load = f"{point['prompt_tokens']:.0f}+{point['output_tokens']:.0f} tokens, {point['concurrency']:g} at once"
    return f"{deployment}<br>{load}<br>{point['measure']}, {point['regime']}, {point['source']}"
