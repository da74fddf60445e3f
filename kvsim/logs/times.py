"""Times of logs as integer nanoseconds."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000

#: A remark for ``ReadReport.flagged``.
BACKWARDS = "clock went backwards: pause taken as 0"

_MAX_DECIMALS = 100  # of trailing zeros that are read at all
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


def from_seconds(seconds: float) -> int:
    """Nanoseconds of a float of seconds, rounded."""
    return round(seconds * NS_PER_S)


def from_datetime(moment: datetime) -> int:
    """Nanoseconds since 1970; a moment without zone counts as UTC (within one log only differences matter)."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return (moment - _EPOCH) // _MICROSECOND * 1000


def exact_ns(seconds: Decimal) -> int | None:
    """Nanoseconds of decimal seconds, None where they are no whole number of at most 63 bits."""
    if not -(2**33) < seconds < 2**33:
        return None
    sign, digits, exponent = seconds.as_tuple()
    if not isinstance(exponent, int) or exponent < -_MAX_DECIMALS:
        return None if seconds else 0
    whole = int("".join(map(str, digits)))
    if exponent >= -9:
        whole *= int(10 ** (exponent + 9))
    else:
        whole, rest = divmod(whole, 10 ** (-9 - exponent))
        if rest:
            return None
    return -whole if sign else whole


def canonical_seconds(ns: int) -> str:
    """Seconds as the shortest decimal, always with a point, never with an exponent: "2.0", "0.25", "0.000000001"."""
    whole, rest = divmod(ns, NS_PER_S)
    return f"{whole}.{rest:09d}".rstrip("0") if rest else f"{whole}.0"
