from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaConfig, MistralConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rayalign.rollout.growing_cache import LEAST, GrowingLayer, growing_cache
from rayalign.rollout.local import filled


def states(rows: int, tokens: int) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 2, tokens, 3), torch.randn(rows, 2, tokens, 3)


def test_it_holds_what_transformers_own_layer_holds() -> None:
    torch.manual_seed(0)
    ours, theirs = GrowingLayer(1000), DynamicLayer()
    for layer_rows, tokens, chosen in ((2, 5, [0, 0, 1, 1, 1]), (5, 1, [0, 4, 2]), (3, LEAST, [2, 0]), (2, 1, [1])):
        new = states(layer_rows, tokens)
        for own, other in zip(ours.update(*new), theirs.update(*new), strict=True):
            assert torch.equal(own, other)
        for layer in (ours, theirs):
            layer.batch_select_indices(torch.tensor(chosen))
        keys, values = ours.states
        assert torch.equal(keys, theirs.keys)
        assert torch.equal(values, theirs.values)
    assert ours.get_seq_length() == theirs.get_seq_length() == 7 + LEAST


def test_a_token_is_written_into_memory_that_is_there() -> None:
    layer = GrowingLayer(1000)
    layer.update(*states(3, 4))
    before = layer.states[0].data_ptr()
    for _ in range(LEAST):
        layer.update(*states(3, 1))
    layer.batch_select_indices(torch.tensor([0, 2]))
    assert layer.states[0].data_ptr() == before
    layer.update(*states(2, 1))
    assert layer.states[0].data_ptr() != before


def test_memory_has_no_room_that_no_row_can_fill() -> None:
    layer = GrowingLayer(longest=10)
    keys, _ = layer.update(*states(1, 4))
    assert keys.stride(1) == 10 * 3
    layer.update(*states(1, 6))
    keys, _ = layer.update(*states(1, 1))  # a caller that goes beyond it is served all the same
    assert keys.shape[2] == 11


def test_layers_with_a_window_stay_as_they_are() -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2}
    cache = growing_cache(LlamaConfig(**sizes), 64)
    assert all(type(layer) is GrowingLayer for layer in cache.layers)
    assert cache.get_seq_length() == 0
    windowed = growing_cache(MistralConfig(**sizes, sliding_window=4), 64)
    assert all(type(layer) is DynamicSlidingWindowLayer for layer in windowed.layers)


def test_later_rows_take_the_places_of_those_that_leave() -> None:
    assert filled([0, 2, 3, 5]) == [0, 5, 2, 3]
    assert filled([4, 5]) == [5, 4]
    assert filled([0, 1]) == [0, 1]
