"""The groups that vLLM sorts a model's attention layers into to keep their KV cache, and the blocks it makes for them.

After vLLM 0.32's ``get_kv_cache_groups`` and ``get_kv_cache_config_from_groups``: layers of one kind are cut into
groups of equally many layers. All groups take blocks from one pool; a block has room for ``block_size`` tokens in all
layers of one group. Groups stand in the order in which their kind first occurs in the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt

from kvsim._once import once

if TYPE_CHECKING:
    from kvsim._layers import AttentionGroup
    from kvsim.architecture import Architecture

__all__ = ["KvGroups", "cached_blocks", "kv_groups", "most_blocks", "obstacle"]

Ints = npt.NDArray[np.int64]

FEW_MORE_LAYERS = 1.5
"""Kinds with less than this many times the layers of the rarest one are padded to the commonest one's number."""


@dataclass(frozen=True, slots=True)
class KvGroups:
    """A model's KV groups on one rank.

    windows: by group, tokens of its sliding window; 0 is full attention, and layers whose tokens are all kept.
    bytes_per_token: cache bytes of one token in the layers of one group, those that pad it included.
    """

    windows: tuple[int, ...]
    bytes_per_token: int

    def reserved_blocks(self, max_model_len: int, block_size: int, in_flight_tokens: int) -> int:
        """Blocks that vLLM counts for a sequence of max_model_len when it says how many of them fit."""
        longest = -(-max_model_len // block_size)
        return sum(
            min(longest, -(-(window - 1 + in_flight_tokens) // block_size)) + 1 if window else longest
            for window in self.windows
        )


@overload
def most_blocks(windows: Sequence[int], tokens: int, block_size: int, in_flight_tokens: int) -> int: ...
@overload
def most_blocks(windows: Sequence[int], tokens: Ints, block_size: int, in_flight_tokens: int) -> Ints: ...
def most_blocks(windows: Sequence[int], tokens: Ints | int, block_size: int, in_flight_tokens: int) -> Ints | int:
    """The most blocks that sequences of so many tokens hold at a time, in all groups.

    A window keeps its own tokens but one and those of the steps under way, which may begin inside a block.
    """
    longest = -(-tokens // block_size)
    least = min if isinstance(longest, int) else np.minimum
    held = 0 * longest
    for window in windows:
        held = held + (least(longest, -(-(window - 1 + in_flight_tokens) // block_size) + 1) if window else longest)
    return held


def cached_blocks(windows: Sequence[int], hits: Ints, block_size: int) -> Ints:
    """The blocks of all groups that hits of so many blocks of context are made of: of a window only its reach."""
    found: Ints = np.zeros_like(hits)
    for window in windows:
        found += np.minimum(hits, -(-(window - 1) // block_size)) if window else hits
    return found


def kv_groups(architecture: Architecture, element_bytes: float, tp: int = 1) -> KvGroups | None:
    """The KV groups of a model; None where :func:`obstacle` names a reason."""
    if obstacle(architecture, tp):
        return None
    groups = architecture.attention_groups(tp)
    if len({_window(group) for group in groups}) == 1:
        return KvGroups((_window(groups[0]),), sum(group.bytes_per_token(element_bytes) for group in groups))
    layers: dict[int, int] = {}
    for group in groups:
        layers[_window(group)] = layers.get(_window(group), 0) + group.layers
    fewest, most = min(layers.values()), max(layers.values())
    size = most if most < fewest * FEW_MORE_LAYERS else fewest
    windows = [window for window, count in layers.items() for _ in range(-(-count // size))]
    one_layer = groups[0].bytes_per_token(element_bytes) // groups[0].layers
    return KvGroups(tuple(windows), size * one_layer)


@once(maxsize=256)
def obstacle(architecture: Architecture, tp: int = 1) -> str:
    """Why vLLM's KV groups for a model are not described here; empty where they are."""
    if architecture.recurrent_state_bytes():
        return "its linear-attention layers keep states, which vLLM caches in a group of their own kind"
    groups = architecture.attention_groups(tp)
    if len({_window(group) for group in groups}) > 1 and len({_shape(group) for group in groups}) > 1:
        return (
            "its layers with and without a sliding window cache unequal amounts a token, so that vLLM gives their "
            "groups blocks of unequal lengths"
        )
    return ""


def _window(group: AttentionGroup) -> int:
    return 0 if group.keeps_all else group.window


def _shape(group: AttentionGroup) -> tuple[int, ...]:
    return group.kv_heads, group.qk_dim, group.v_dim, group.cached_elements, group.cached_bytes
