"""Which GPU's efficiencies stand in for those that a GPU has no measurements of."""

from __future__ import annotations

from collections.abc import Mapping

RELATIVES: Mapping[str, tuple[str, ...]] = {
    # Ampere, HBM
    "a100-40gb-sxm": ("a100-80gb-sxm",),
    "a100-40gb-pcie": ("a100-80gb-sxm",),
    "a100-80gb-pcie": ("a100-80gb-sxm",),
    # Hopper
    "h100-pcie": ("h100-sxm",),
    "h100-nvl": ("h100-sxm",),
    "h100-64gb-sxm": ("h100-sxm",),
    "gh200": ("h100-sxm",),
    "h200-sxm": ("h100-sxm",),
    # Blackwell, HBM
    "b300-sxm": ("b200-sxm",),
    "gb200": ("b200-sxm",),
    "gb300": ("b200-sxm",),
    # Ada, GDDR
    "l40": ("l40s",),
    "l4": ("l40s",),
    "rtx-6000-ada": ("l40s",),
    "rtx-4090": ("l40s",),
    # Ampere, GDDR: products of their own silicon, the rest of the next generation with such memory
    "a40": ("l40s",),
    "a10": ("a40", "l40s"),
    "a10g": ("a40", "l40s"),
    "rtx-a6000": ("a40", "l40s"),
    "rtx-a5000": ("a40", "l40s"),
    "rtx-3090": ("a40", "l40s"),
    # Blackwell, GDDR
    "rtx-5090": ("rtx-pro-6000",),
    # Volta and Turing: no measurements of any kind near them
    "v100-sxm": ("a100-80gb-sxm",),
    "v100-pcie": ("a100-80gb-sxm",),
    "t4": ("a40", "l40s"),
    "mi300x": ("h100-sxm",),
}
"""By generation and kind of memory, nearest first."""

LAST = ("rtx-pro-6000", "h100-sxm", "b200-sxm", "rtx-4090")
"""Where none of a GPU's relatives has a coefficient: norms and sampling were timed on the RTX cards only,
4-bit arithmetic on Blackwell only."""

TRANSFERS = (
    ("h100-sxm", "a100-80gb-sxm"),
    ("a100-80gb-sxm", "h100-sxm"),
    ("h200-sxm", "h100-sxm"),
    ("b200-sxm", "h200-sxm"),
    ("l40s", "rtx-pro-6000"),
    ("rtx-pro-6000", "l40s"),
    ("rtx-4090", "l40s"),
)
"""Pairs of measured GPUs (treated as unmeasured, its stand-in) that show what inheriting costs."""


TILES_OF_THEIR_OWN = ("9.", "10.", "gfx")
"""Compute capabilities whose attention kernels pack the heads that share a key into one tile in every step
(FlashAttention 3), or give decoding a launch of its own (FlashInfer): there a chunk makes decoding no slower.
FlashAttention 2, which serves the others, packs them only where all sequences decode."""


def chain(gpu: str) -> tuple[str, ...]:
    """Stand-ins for a GPU, nearest first."""
    return tuple(dict.fromkeys((*RELATIVES.get(gpu, ()), *LAST)))
