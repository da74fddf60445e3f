"""What a fit to own measurements says, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..calibration import OVERHEADS, QUANTITIES
from .robust import Accuracy

if TYPE_CHECKING:
    from .fitted import Fitted

MOST_OUTLIERS = 10


def text(found: Fitted) -> str:
    """Accuracy by kind of evidence, coefficients fitted and kept, outliers."""
    width = max(24, *(len(part.kind) for part in found.parts))
    lines = [f"{'evidence':<{width}}{'noise':>8}  {'fitted':^32}  {'held out':^32}"]
    lines.append(f"{'':<{width}}{'':>8}  {COLUMNS}  {COLUMNS}")
    lines += [
        f"{part.kind:<{width}}{part.noise:>8.1%}  {accuracy(part.fitted)}  {accuracy(part.held_out)}"
        for part in found.parts
    ]
    lines += ["", "fitted (90 % intervals: bootstrap over configurations); before"]
    calibration, prior = found.calibration, found.prior
    overheads, before = calibration.overheads[calibration.engine], prior.overheads[prior.engine]
    for name in found.fitted:
        own, old = (
            (calibration.coefficients[name], prior.coefficients[name])
            if name in QUANTITIES
            else (overheads[name], before[name])
        )
        unit = (QUANTITIES.get(name) or OVERHEADS[name]).unit
        lines.append(f"  {name:<28}{own.value:>12.5g} {unit} ({own.low:.4g} to {own.high:.4g}); {old.value:.5g}")
    kept = [name for name in (*QUANTITIES, *OVERHEADS) if name not in found.fitted]
    lines.append(f"kept, since the evidence says too little about them: {', '.join(kept) or 'none'}")
    if any(found.client_s):
        request, token = found.client_s
        lines.append(f"a client's way to the engine and back: {request * 1e3:.3g} ms and {token * 1e6:.3g} us a token")
    if found.outliers:
        lines += ["", f"{len(found.outliers)} rows lie far off, the worst first"]
        lines += [
            f"  {one.place}: measured {one.measured_s:.4g} s, predicted {one.error:+.0%}"
            for one in found.outliers[:MOST_OUTLIERS]
        ]
    return "\n".join(lines)


COLUMNS = f"{'n':>6}{'median':>9}{'MAPE':>8}{'bias':>9}"


def accuracy(part: Accuracy) -> str:
    """n, median and mean error, bias."""
    if not part.n:
        return f"{0:>6}{'-':>9}{'-':>8}{'-':>9}"
    return f"{part.n:>6}{part.median:>9.1%}{part.mape:>8.1%}{part.bias:>+9.1%}"
