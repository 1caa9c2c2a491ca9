from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rayalign.errors import InputError
from rayalign.weights.streaming import read_folder_layout, read_layout, write_tensors

TENSORS = {
    "half": torch.arange(10).view(2, 5).to(torch.bfloat16),
    "flags": torch.tensor([True, False, True]),
    "single": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.empty(0, 4),
}


def test_a_stream_of_pieces_is_an_ordinary_file(tmp_path: Path) -> None:
    contents = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()}
    pieces = [piece for tensor in TENSORS.values() for piece in tensor.flatten().split(3)]
    write_tensors(tmp_path / "a.safetensors", contents, pieces)
    loaded = load_file(tmp_path / "a.safetensors")
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)


def test_a_file_is_read_in_pieces(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    layout = read_layout(tmp_path / "a.safetensors")
    for name, tensor in TENSORS.items():
        assert torch.equal(layout[name].read(), tensor)
        pieces = list(layout[name].pieces(3))
        assert all(len(piece) <= 3 for piece in pieces)
        assert torch.equal(torch.cat([torch.empty(0, dtype=tensor.dtype), *pieces]), tensor.flatten())


def test_damaged_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match=r"model\.safetensors is missing"):
        read_layout(file)
    save_file(TENSORS, file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="cut short"):
        read_layout(file)
    for damage in (b"", b"12345678{", whole[:8] + b"[" + whole[9:]):
        file.write_bytes(damage)
        with pytest.raises(InputError, match="not a safetensors file"):
            read_layout(file)


def test_a_type_that_is_not_supported_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="F8_E4M3 are not supported"):
        read_layout(tmp_path / "a.safetensors")


def test_an_index_must_be_true(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    save_file({"a": torch.ones(2)}, tmp_path / "1.safetensors")
    with pytest.raises(InputError, match=r"lacks 2\.safetensors, which its index names"):
        read_folder_layout(tmp_path)
    save_file({"c": torch.ones(2)}, tmp_path / "2.safetensors")
    with pytest.raises(InputError, match=r"2\.safetensors lacks b"):
        read_folder_layout(tmp_path)
    index.write_text("[]")
    with pytest.raises(InputError, match="no index of weights"):
        read_folder_layout(tmp_path)
