"""Whether a model folder is whole, by its small files and the headers of its weights; nothing large is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayalign.data.row_files import refuse_pointer
from rayalign.errors import InputError

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
"""how the names of token embeddings end"""
_LENGTH = 8
"""bytes before a header that say how long it is"""


def prove_folder(folder: Path) -> None:
    """Prove that the files of a model are whole and of one model.

    Raises:
        InputError: a file is a git-lfs pointer, cut short or not what its name says, or the vocabulary of config.json
            is not that of the weights; with the file and the remedy.
    """
    try:
        _prove(folder)
    except InputError as error:
        raise InputError(f"model {folder}: {error}") from error


def _prove(folder: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"):
        if (folder / name).is_file():
            refuse_pointer(folder / name)
    config = _json(folder / "config.json")
    shapes: dict[str, list[int]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        shapes |= _shapes(file)
    vocabulary = config.get("text_config", config).get("vocab_size")
    for name, shape in shapes.items():
        if name.endswith(_EMBEDDINGS) and vocabulary is not None and shape[0] != vocabulary:
            raise InputError(
                f"config.json has a vocabulary of {vocabulary} tokens, but the weights have {shape[0]} embeddings "
                f"({name}); the two files are of different models, so copy the whole folder again"
            )


def _shapes(file: Path) -> dict[str, list[int]]:
    """The shape of each tensor of a file, whose size is proven to be what its header says."""
    refuse_pointer(file)
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH), "little")
        if length > size - _LENGTH:
            raise InputError(f"{file.name} is cut short, or is no safetensors file; download it again")
        header = stream.read(length)
    try:
        entries: Mapping[str, Any] = json.loads(header)
        tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
        ends = [entry["data_offsets"][1] for entry in tensors.values()]
        shapes = {name: entry["shape"] for name, entry in tensors.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{file.name} is no safetensors file; download it again") from error
    expected_size = _LENGTH + length + max(ends, default=0)
    if size < expected_size:
        raise InputError(f"{file.name} is cut short: it has {size} of {expected_size} bytes; download it again")
    return shapes


def _json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} cannot be read as JSON ({error}); copy the whole folder again") from error
    if not isinstance(loaded, dict):
        raise InputError(f"{path.name} holds no settings; copy the whole folder again")
    return loaded
