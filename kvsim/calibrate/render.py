"""A calibration as TOML text; :func:`kvsim.calibration.parse_calibration` reads it back."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..calibration import OVERHEADS, QUANTITIES, Calibration, Coefficient, Quantity


def to_toml(calibration: Calibration) -> str:
    """The text of a calibration file, coefficients in the order of their definition."""
    evidence, lines = calibration.evidence, []
    for name in ("gpu", "kind", "relative", "date", "engine", "note"):
        lines.append(f"{name} = {json.dumps(getattr(calibration, name), ensure_ascii=False)}")
    lines += ["", "[evidence]"]
    for name in evidence.__dataclass_fields__:
        lines.append(f"{name} = {json.dumps(list(getattr(evidence, name)), ensure_ascii=False)}")
    lines += ["", "# log(measured / predicted) on held-out points", "[residuals]"]
    for regime, part in calibration.residuals.items():
        quantiles = ", ".join(f"{name} = {number(getattr(part, name))}" for name in ("q05", "q50", "q95"))
        lines.append(f"{regime} = {{ n = {part.n}, {quantiles} }}")
    lines += ["", "[coefficients]", *_coefficients(calibration.coefficients, QUANTITIES)]
    for engine, overheads in calibration.overheads.items():
        lines += ["", f"[overheads.{json.dumps(engine)}]", *_coefficients(overheads, OVERHEADS)]
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """A float that TOML reads back as a float."""
    text = f"{value:.5g}"
    return text if any(letter in text for letter in ".en") else f"{text}.0"


def _coefficients(table: Mapping[str, Coefficient], quantities: Mapping[str, Quantity]) -> list[str]:
    lines = []
    for name, quantity in quantities.items():
        part = table[name]
        lines.append(
            f"{name} = {{ value = {number(part.value)}, unit = {json.dumps(quantity.unit)}, "
            f"low = {number(part.low)}, high = {number(part.high)}, "
            f"bounds = [{number(quantity.bounds[0])}, {number(quantity.bounds[1])}], "
            f'kind = "{part.kind}", source = {json.dumps(part.source, ensure_ascii=False)}, n = {part.n} }}'
        )
    return lines
