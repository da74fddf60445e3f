"""Write into the documents what follows from calibrations and measurements: ``python tools/refresh_docs.py``.

docs/unfitted_points.md as a whole; in docs/calibration_evidence.md the parts between ``<!-- cards:start -->``,
``<!-- unused:start -->`` and their ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kvsim._markdown import markdown_table
from kvsim.calibrate.census import card_table, unused_table
from kvsim.calibrate.measurements import Measurements
from kvsim.calibrate.unfitted_points import TIMES, UnfittedPoint, markdown, unfitted_points
from kvsim.calibration import shipped_calibration
from kvsim.hardware import gpus

ROOT = Path(__file__).parents[1]
MEASUREMENTS = ROOT / "profiles" / "measurements"

HEAD = """# Serving points that nothing was fitted to

What the shipped calibrations predict of them: made by `python tools/refresh_docs.py` from
`profiles/measurements/unfitted_points.csv`. They are points of cards that have too few for a fit (RTX 4090, RTX PRO
6000, L40S, RTX 3090, A10, A10G), and of the others loads whose sequences may not all have run at once. Each load is
simulated as its benchmark made it, so many clients in a closed loop or so many requests a second, through vLLM's
scheduler and a KV cache of the size that the engine would have; time to the first token holds the queue. Of models
that the engine cannot be simulated with (linear attention) a step beside as many sequences as there were clients is
priced.

The interval is the calibration's own. It says nothing of a KV cache that was larger or smaller than computed, nor of
the wait before a server takes a request, which decide on the first token: where clients queue, it lies outside more
often than not. Engines before 0.8 served in the scheduler's own process; what they took longer is not the law's.

"""


def summary(points: Sequence[UnfittedPoint]) -> str:
    """A line for each card and kind of time."""
    lines = [["card", "time", "n", "median error", "bias", "in 90 %"]]
    kinds = dict.fromkeys((point.row["gpu"], point.time, point.queued) for point in points)
    for gpu, time, queued in sorted(kinds):
        its = [point for point in points if (point.row["gpu"], point.time, point.queued) == (gpu, time, queued)]
        errors = np.array([point.error for point in its])
        within = np.mean([point.within for point in its])
        figures = [
            f"{100 * np.median(np.abs(errors)):.0f} %",
            f"{100 * np.median(errors):+.0f} %",
            f"{100 * within:.0f} %",
        ]
        lines.append([gpu, TIMES[time] + (", queued" if queued else ""), str(len(its)), *figures])
    return markdown_table(lines)


def unfitted_points_text() -> str:
    """docs/unfitted_points.md."""
    points = sorted(unfitted_points(MEASUREMENTS / "unfitted_points.csv"), key=lambda point: point.row["gpu"])
    return f"{HEAD}{summary(points)}\n{markdown(points)}"


def refreshed(text: str) -> str:
    """docs/calibration_evidence.md with its tables renewed."""
    calibrations = [shipped_calibration(name) for name in gpus()]
    parts = {"cards": card_table(calibrations, Measurements(MEASUREMENTS)), "unused": unused_table()}
    for name, part in parts.items():
        start, end = f"<!-- {name}:start -->\n", f"<!-- {name}:end -->"
        text = re.sub(f"{start}.*?{end}", lambda _, new=start + part + end: new, text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    (ROOT / "docs" / "unfitted_points.md").write_text(unfitted_points_text(), encoding="utf-8")
    evidence = ROOT / "docs" / "calibration_evidence.md"
    evidence.write_text(refreshed(evidence.read_text(encoding="utf-8")), encoding="utf-8")
