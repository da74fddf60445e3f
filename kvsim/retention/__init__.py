"""What happens to the KV cache of a turn while its tool runs: retention policies by name, and the way to add one.

A policy turns a batch and a pricing into a :class:`Plan`: columns by row that ask the simulated engine for some of its
few mechanisms (hold blocks, evict in another order, a host tier). docs/retention.md has each policy's formula and
source. Any object with such a ``plan`` method is a policy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from kvsim.backends.engine_kernels import NO_PLAN, Plan
from kvsim.errors import InputError, UnknownNameError
from kvsim.retention.continuum import Continuum
from kvsim.retention.hold import Pin, Ttl
from kvsim.retention.least_waste import MinWaste
from kvsim.retention.offload import HostTier, Offload
from kvsim.retention.order import Belady, NextUse

if TYPE_CHECKING:
    from kvsim.pricing import Pricing
    from kvsim.trajectory import Batch

__all__ = ["NAMES", "NO_PLAN", "Plan", "Policy", "policy"]


@runtime_checkable
class Policy(Protocol):
    """A retention policy."""

    def plan(self, batch: Batch, pricing: Pricing) -> Plan:
        """What it asks of the engine."""
        ...


class Lru:
    """vLLM's: idle blocks stay until others need their room, the longest idle first."""

    def plan(self, batch: Batch, pricing: Pricing) -> Plan:
        return NO_PLAN


class Drop:
    """A block that nobody holds is forgotten at once."""

    def plan(self, batch: Batch, pricing: Pricing) -> Plan:
        return NO_PLAN._replace(drop=1)


_MAKERS: dict[str, Callable[[str], Policy]] = {
    "lru": lambda given: _plain(Lru, given),
    "drop": lambda given: _plain(Drop, given),
    "pin": lambda given: _plain(Pin, given),
    "ttl": lambda given: Ttl(_seconds(given)),
    "continuum": lambda given: Continuum(_seconds(given) if given else 0.0),
    "min-waste": lambda given: MinWaste(_tier(given) if given else None),
    "next-use": lambda given: _plain(NextUse, given),
    "belady": lambda given: _plain(Belady, given),
    "offload": lambda given: Offload(_tier(given)),
    "offload-lazy": lambda given: Offload(_tier(given), lazy=True),
}

NAMES = (
    "lru",
    "drop",
    "pin",
    "ttl:S",
    "continuum",
    "min-waste",
    "min-waste:GiB@GB/s",
    "next-use",
    "belady",
    "offload:GiB@GB/s",
    "offload-lazy:GiB@GB/s",
)
"""How policies are named; S in seconds, GiB of host memory, GB/s of each GPU's link to it."""


def policy(given: str | Policy) -> Policy:
    """The policy of a name such as ``"ttl:300"`` or ``"offload:64@25"``, or the one given as an object.

    Raises :class:`UnknownNameError` listing the known names, and :class:`InputError` for numbers that fit none.
    """
    if not isinstance(given, str):
        if isinstance(given, Policy):
            return given
        raise InputError(
            f"{given!r} is neither a name nor an object with a method plan(batch, pricing)",
            field="retention",
            remedy="Use one of " + ", ".join(NAMES),
        )
    name, colon, argument = given.partition(":")
    if name not in _MAKERS:
        raise UnknownNameError("retention policy", given, NAMES)
    try:
        if colon and not argument:
            raise ValueError("nothing behind the colon")
        return _MAKERS[name](argument)
    except ValueError as error:
        forms = " or ".join(form for form in NAMES if form.partition(":")[0] == name)
        raise InputError(f"{given!r}: {error}", field="retention", remedy=f"Write {forms}") from None


def _plain(maker: Callable[[], Policy], given: str) -> Policy:
    if given:
        raise ValueError("takes no number")
    return maker()


def _seconds(given: str) -> float:
    return _number(given, "seconds")


def _tier(given: str) -> HostTier:
    gib, at, rate = given.partition("@")
    if not at:
        raise ValueError("needs a size in GiB and a bandwidth in GB/s")
    tier = HostTier(_number(gib, "GiB"), _number(rate, "GB/s"))
    if tier.gb_per_s == 0:
        raise ValueError("a link of 0 GB/s carries nothing")
    return tier


def _number(given: str, unit: str) -> float:
    try:
        value = float(given)
    except ValueError:
        raise ValueError(f"{given!r} is no number of {unit}") from None
    if not 0 <= value < 1e9:
        raise ValueError(f"{given} {unit} is not from 0 to 1e9")
    return value
