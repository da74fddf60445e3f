"""What trainers hold of their rollouts, as turns that :class:`kvsim.CostTerm` prices.

One file a trainer: each turns that trainer's own objects into lists of :class:`Turn`, and :func:`price` gives these to
a cost term. None of them imports its trainer, except :mod:`kvsim.trainers.verl_workers`, which subclasses verl's.
"""

from __future__ import annotations

from kvsim.logs.stretches import turns_of_mask
from kvsim.logs.turns import FIELD, Turn
from kvsim.trainers.clock import ToolClock
from kvsim.trainers.marks import TurnMarks
from kvsim.trainers.pricing import measured_share, price

__all__ = ["FIELD", "ToolClock", "Turn", "TurnMarks", "measured_share", "price", "turns_of_mask"]
