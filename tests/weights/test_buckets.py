from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch

from rayalign.errors import WeightError
from rayalign.weights.buckets import pack, unpack, verify


def _tensors() -> list[tuple[str, torch.Tensor]]:
    return [
        ("a", torch.arange(6, dtype=torch.float32).view(2, 3)),
        ("b", torch.tensor([1.5, -2.0, 3.0], dtype=torch.bfloat16)),
        ("scalar", torch.tensor(7.0)),
        ("turned", torch.arange(8, dtype=torch.float32).view(2, 4).T),
    ]


@pytest.mark.parametrize("bucket_bytes", [1, 64, 100, 1 << 20])
def test_what_was_packed_is_unpacked(bucket_bytes: int) -> None:
    buckets = list(pack(_tensors(), bucket_bytes))
    for bucket in buckets:
        verify(bucket)
    unpacked = [pair for bucket in buckets for pair in unpack(bucket)]
    assert [b.index for b in buckets] == list(range(len(buckets)))
    for (name, tensor), (found_name, found) in zip(_tensors(), unpacked, strict=True):
        assert name == found_name and tensor.dtype == found.dtype
        assert torch.equal(tensor, found)


def test_buckets_are_filled_up_to_their_size() -> None:
    named = [(str(i), torch.zeros(16)) for i in range(5)]  # 64 bytes each
    assert [len(b.specs) for b in pack(named, 128)] == [2, 2, 1]


def test_a_tensor_larger_than_a_bucket_gets_its_own() -> None:
    named = [("small", torch.zeros(4)), ("large", torch.zeros(100)), ("last", torch.zeros(4))]
    assert [[s.name for s in b.specs] for b in pack(named, 64)] == [["small"], ["large"], ["last"]]


def test_gathering_is_one_bucket_ahead_at_most() -> None:
    asked = []

    def gather():
        for i in range(4):
            asked.append(i)
            yield str(i), torch.zeros(16)

    next(pack(gather(), 64))
    assert asked == [0, 1]


@pytest.mark.parametrize(("part", "position"), [(0, 0), (1, 3), (3, -1)])
def test_a_changed_byte_is_noticed(part: int, position: int) -> None:
    (bucket,) = pack(_tensors())
    data = tuple(x.copy() for x in bucket.data)
    data[part][position] ^= 1
    with pytest.raises(WeightError, match="bucket 0 .*send the weights again"):
        verify(replace(bucket, data=data))


def test_exchanged_names_are_noticed() -> None:
    (bucket,) = pack([("a", torch.zeros(16)), ("b", torch.ones(16))], 1 << 20)
    first, second = bucket.specs
    specs = (replace(first, name="b"), replace(second, name="a"))
    with pytest.raises(WeightError, match="bucket 0"):
        verify(replace(bucket, specs=specs))


def test_read_only_memory_is_viewed_without_copy_or_warning() -> None:
    (bucket,) = pack(_tensors(), 1 << 20)
    for part in bucket.data:
        part.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = dict(unpack(bucket))
    assert torch.equal(found["a"], _tensors()[0][1])
    assert found["a"].data_ptr() == bucket.data[0].ctypes.data
    assert not bucket.data[0].flags.writeable


def test_other_types_do_not_travel() -> None:
    with pytest.raises(WeightError, match="steps is int64.*cast it"):
        list(pack([("steps", torch.tensor([1]))]))
