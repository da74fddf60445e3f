"""The load beside which a trajectory is priced: who shares its steps, and how long its KV survives a pause."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, fields
from typing import Any, SupportsIndex

from kvsim.errors import InputError

_SURVIVALS = ("lru", "never", "always", "logged", "ttl:SECONDS")


@dataclass(frozen=True)
class Load:
    """The traffic around one trajectory.

    concurrent: sequences in each step, the priced one included.
    mean_context: context tokens of each of the others; None: the same as the priced turn's.
    kv: ``"lru"`` idle blocks survive until churn has consumed the free pool, tail first; ``"never"`` nothing is
        evicted; ``"always"`` everything is, at every pause; ``"ttl:S"`` it is after S seconds; ``"logged"`` the log's
        own cached tokens, where it has them.
    churn_blocks_per_s: KV blocks per second that the other traffic allocates (matters for ``"lru"``).

    Raises :class:`InputError` naming the field.
    """

    concurrent: int = 1
    mean_context: int | None = None
    kv: str = "lru"
    churn_blocks_per_s: float = 0.0

    def __post_init__(self) -> None:
        for name, lowest in (("concurrent", 1), ("mean_context", 0)):
            value = getattr(self, name)
            if name == "mean_context" and value is None:
                continue
            whole = isinstance(value, SupportsIndex) and not isinstance(value, bool)
            if not whole or not lowest <= operator.index(value) <= 1 << 30:
                raise InputError(f"{value!r} is not a whole number from {lowest}", field=name, remedy="Correct it")
            object.__setattr__(self, name, operator.index(value))  # numpy's integers become Python's
        churn = self.churn_blocks_per_s
        if isinstance(churn, bool) or not isinstance(churn, (int, float)) or not 0 <= churn <= 1e9:
            raise InputError(
                f"{churn!r} is not a rate from 0 to 1e9 blocks per second",
                field="churn_blocks_per_s",
                remedy="Give how many KV blocks the other traffic allocates in a second",
            )
        _ = self.ttl_ns

    @property
    def ttl_ns(self) -> int:
        """The time to live of ``"ttl:S"`` in nanoseconds, else 0."""
        if self.kv in ("lru", "never", "always", "logged"):
            return 0
        kind, _, text = self.kv.partition(":") if isinstance(self.kv, str) else ("", "", "")
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if kind != "ttl" or not 0 <= seconds <= 1e8:
            raise InputError(f"unknown KV survival {self.kv!r}", field="kv", remedy="Use " + ", ".join(_SURVIVALS))
        return round(seconds * 1e9)

    @classmethod
    def parse(cls, text: str) -> Load:
        """A load from ``"concurrent=8,mean_context=12000,kv=ttl:300,churn_blocks_per_s=2e3"``."""
        types: dict[str, Any] = {"concurrent": int, "mean_context": int, "kv": str, "churn_blocks_per_s": float}
        values: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = part.partition("=")
            if name not in types or not equals:
                known = ", ".join(field.name for field in fields(cls))
                raise InputError(f"cannot read {part!r}", field="load", remedy=f"Give name=value of {known}")
            if name in values:
                raise InputError("is given twice", field=name, remedy="Give it once")
            try:
                values[name] = types[name](value)
            except ValueError:
                raise InputError(f"{value!r} is no number", field=name, remedy="Correct it") from None
        return cls(**values)
