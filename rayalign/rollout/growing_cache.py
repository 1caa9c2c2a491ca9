"""A cache of keys and values that writes each new token into memory it already has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import DynamicCache, PretrainedConfig

LEAST = 32
"""further tokens that memory has room for, at least; as many as there are, if these are more"""


class GrowingLayer:
    """One layer's keys and values [B, heads, T, width] in memory with room for further tokens.

    It does what transformers asks of a layer of its caches. Their own layer copies everything for each token, and once
    more for each row that leaves.
    """

    is_sliding = False
    is_compileable = False
    is_croppable = False
    supports_early_init = False

    def __init__(self, longest: int) -> None:
        """
        Args:
            longest: tokens that a row may have.
        """
        self._longest = longest
        self._memory: list[Tensor] = []
        """keys and values, once there are any"""
        self._rows = 0
        self._length = 0

    @property
    def is_initialized(self) -> bool:
        """Whether it has seen a token."""
        return bool(self._memory)

    @property
    def states(self) -> tuple[Tensor, Tensor]:
        """The keys and the values of all tokens, as views of the memory."""
        keys, values = (states[: self._rows, :, : self._length] for states in self._memory)
        return keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the states of new tokens; those of all tokens."""
        begin = self._length
        end = begin + key_states.shape[2]
        if not self._memory or self._memory[0].shape[2] < end:
            room = max(end, min(end + max(end, LEAST), self._longest))
            self._allocate(key_states, value_states, room)
        self._rows, self._length = len(key_states), end
        for states, new in zip(self.states, (key_states, value_states), strict=True):
            states[:, :, begin:] = new
        return self.states

    def batch_select_indices(self, indices: Tensor) -> None:
        """Make the rows those of these numbers; in the same memory where they are not more than before."""
        count = len(indices)
        if count > self._rows:
            memory = []
            for states, old in zip(self._memory, self.states, strict=True):
                memory.append(states.new_empty(count, *states.shape[1:]))
                memory[-1][:, :, : self._length] = old[indices]
            self._memory = memory
        else:
            moved = (indices != torch.arange(count, device=indices.device)).nonzero()[:, 0]
            sources = indices[moved]
            for states in self.states:
                states[moved] = states[sources]
        self._rows = count

    def get_seq_length(self) -> int:
        """Tokens of each row."""
        return self._length

    def get_max_length(self) -> int:
        """-1, which means: any number of tokens."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Tokens that a mask speaks of once so many are appended, and the first of them."""
        return self._length + query_length, 0

    def _allocate(self, key_states: Tensor, value_states: Tensor, room: int) -> None:
        """Memory for so many tokens, which holds the present ones."""
        before = self.states if self._memory else ()
        self._memory = []
        for new in (key_states, value_states):
            rows, heads, _, width = new.shape
            self._memory.append(new.new_empty(rows, heads, room, width))
        for states, old in zip(self._memory, before, strict=False):
            states[:, :, : self._length] = old


def growing_cache(config: PretrainedConfig, longest: int) -> DynamicCache:
    """A cache for rows of a model; layers that are not full attention keep the kind that transformers gives them.

    Args:
        longest: tokens that a row may have.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import CacheLayerMixin, DynamicLayer

    CacheLayerMixin.register(GrowingLayer)  # transformers asks whether a layer is one of attention
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer(longest) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
