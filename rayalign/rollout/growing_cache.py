"""A cache of keys and values that writes each new token into memory it already has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LEAST = 32
"""tokens that there is room for at least when memory is allocated; later it doubles"""


class GrowingLayer(DynamicLayer):
    """One layer's keys and values [B, heads, T, width], views of memory with room for further tokens.

    transformers' own layer copies all of it for each token, and again for each row that leaves.
    """

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._memory: tuple[Tensor, Tensor] | None = None
        """keys and values"""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the states of new tokens; those of all tokens."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        rows, heads, new, width = key_states.shape
        length = before + new
        if self._memory is None or self._memory[0].shape[2] < length:
            shape = (rows, heads, length + max(length, LEAST))
            memory = key_states.new_empty(*shape, width), value_states.new_empty(*shape, value_states.shape[-1])
            if before:
                memory[0][:, :, :before], memory[1][:, :, :before] = self.keys, self.values
            self._memory = memory
        keys, values = self._memory
        keys[:rows, :, before:length], values[:rows, :, before:length] = key_states, value_states
        self.keys, self.values = keys[:rows, :, :length], values[:rows, :, :length]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Make the rows those of these numbers; in the same memory where they are not more than before."""
        if self._memory is None:
            return
        count, length = len(indices), self.get_seq_length()
        if count > len(self.keys):
            self._memory = self._memory[0][indices], self._memory[1][indices]
        else:
            places = (indices != torch.arange(count, device=indices.device)).nonzero()[:, 0]
            for states in self._memory:
                states[places, :, :length] = states[indices[places], :, :length]
        keys, values = self._memory
        self.keys, self.values = keys[:count, :, :length], values[:count, :, :length]


def growing_cache(config: PretrainedConfig) -> DynamicCache:
    """A cache for a model; layers that are not full attention keep the kind that transformers gives them."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
