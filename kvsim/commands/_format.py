"""Numbers as people read them, short enough for a column."""

from __future__ import annotations

import math

from rich.cells import cell_len, set_cell_size

UNKNOWN = "-"

LEAST = 0.0001
"""The least amount that is shown in digits."""


def duration(seconds: float) -> str:
    """``640 ms``, ``24.2 s``, ``334 s``, ``28m 12s``, ``14h 39m``, ``3d 04h``."""
    if math.isnan(seconds):
        return UNKNOWN
    if seconds == 0:
        return "0"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    if seconds < 599.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 24:
        return f"{hours}h {minutes:02d}m"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days:,}d {hours:02d}h"


def narrow(seconds: float) -> str:
    """:func:`duration` without spaces, for crowded tables."""
    return duration(seconds).replace(" ", "")


def money(usd: float) -> str:
    """``<$0.0001``, ``$0.00123``, ``$0.0886``, ``$12.34``, ``$1,234``."""
    if math.isnan(usd):
        return UNKNOWN
    if usd == 0:
        return "$0"
    if usd < LEAST:
        return f"<${LEAST}"
    if usd < 0.01:
        return "$" + plain(usd)
    if usd < 1:
        return f"${usd:.4f}"
    return f"${usd:.2f}" if usd < 100 else f"${usd:,.0f}"


def plain(number: float) -> str:
    """Three significant digits without an exponent; what is smaller than can be shown so is ``<0.0001``."""
    if math.isnan(number):
        return UNKNOWN
    if number == 0:
        return "0"
    if abs(number) < LEAST:
        return f"<{LEAST}"
    if abs(number) >= 100:
        return f"{number:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(number))))
    return f"{number:.{min(digits, 5)}f}"


def count(number: float, noun: str = "", plural: str = "") -> str:
    """``1,234`` or, with a noun, ``1 turn`` and ``1,234 turns``."""
    text = f"{number:,.0f}"
    if not noun:
        return text
    return f"{text} {noun if number == 1 else plural or noun + 's'}"


def percent(share: float) -> str:
    """``12.3 %``."""
    return UNKNOWN if math.isnan(share) else f"{100 * share:.1f} %"


def printable(text: str) -> str:
    """The text with escapes for what moves a terminal's cursor, turns its direction or is not seen."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def shorten(text: str, width: int) -> str:
    """The text, :func:`printable`, its middle left out where it takes more than ``width`` columns of a terminal."""
    text = printable(text)
    if cell_len(text) <= width:
        return text
    tail = (width - 1) * 2 // 3
    return f"{set_cell_size(text, width - 1 - tail)}…{set_cell_size(text[::-1], tail)[::-1]}"
