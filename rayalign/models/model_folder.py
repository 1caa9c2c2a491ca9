"""Full models on disk, and whether their weights can be merged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from rayalign.errors import InputError
from rayalign.weights.files import INDEX, NOT_ARCHITECTURE
from rayalign.weights.streaming import PIECE, StoredTensor, read_folder_layout


@dataclass(frozen=True)
class ModelFolder:
    """A model in save_pretrained's form; its tensors stay on disk."""

    path: Path
    config: Mapping[str, Any]
    """with the defaults of the architecture filled in"""
    shards: Mapping[str, Mapping[str, StoredTensor]]
    """file name -> tensors"""

    @classmethod
    def read(cls, path: Path) -> ModelFolder:
        """The folder's configuration and layout; InputError where it cannot be used."""
        from transformers import AutoConfig

        if not path.is_dir():
            raise InputError(f"{path} is not a folder; download the model, and name the folder")
        try:
            config = AutoConfig.from_pretrained(path, trust_remote_code=False).to_dict()
        except (OSError, ValueError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise InputError(
                f"{path} is not a model folder ({first_line}); name one made by save_pretrained"
            ) from error
        if config.get("quantization_config"):
            raise InputError(f"{path} is quantized; merge the models it was made from")
        return cls(path, config, read_folder_layout(path))

    @cached_property
    def tensors(self) -> dict[str, StoredTensor]:
        """All tensors by name."""
        by_name: dict[str, StoredTensor] = {}
        for shard in self.shards.values():
            by_name |= shard
        return by_name

    @property
    def tied(self) -> bool:
        """Input and output embeddings are one matrix, which may be stored once or twice."""
        return bool(self.config.get("tie_word_embeddings"))

    @property
    def vocabulary(self) -> int:
        """How many rows its embeddings have."""
        size: int = self.config.get("text_config", self.config)["vocab_size"]
        return size

    def write_index(self, folder: Path, names: Sequence[str], size: int) -> None:
        """Copy the index of the shards, for these tensors of `size` bytes; nothing where the model is one file."""
        if not (self.path / INDEX).exists():
            return
        index = json.loads((self.path / INDEX).read_text(encoding="utf-8"))
        index["weight_map"] = {name: file for name, file in index["weight_map"].items() if name in names}
        index["metadata"] = {"total_size": size}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def embedding_names(model: ModelFolder) -> set[str]:
    """The tensors with one row for each token: the input embedding, and the output embedding with its bias."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(model.path, trust_remote_code=False)
    kind = getattr(transformers, (config.architectures or ["AutoModelForCausalLM"])[0])
    with torch.device("meta"):
        empty = kind(config)
    parameters: set[int] = set()
    for layer in (empty.get_input_embeddings(), empty.get_output_embeddings()):
        if layer is not None:
            parameters |= {id(parameter) for parameter in layer.parameters()}
    named = empty.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if id(parameter) in parameters}


def same_architecture(models: Sequence[ModelFolder]) -> None:
    """InputError, which names the first difference, where models differ in architecture or in tokenizer."""
    first = models[0]
    for model in models[1:]:
        difference = _difference(_architecture(first.config), _architecture(model.config))
        if difference is not None:
            key, ours, theirs = difference
            raise InputError(
                f"{model.path}: its {key} is {theirs!r}, that of {first.path} is {ours!r}; merge models of one "
                "architecture"
            )
        if _vocabulary(first.path) != _vocabulary(model.path):
            raise InputError(f"{model.path} and {first.path} have different tokenizers; merge models of one vocabulary")


def same_base(raw: ModelFolder, tuned: ModelFolder) -> None:
    """InputError unless a model may have been made from another: all shapes equal, but for embeddings that grew.

    The tuned model may have further tokens at the end of the vocabulary, and a head of its own.
    """
    if raw.config["model_type"] != tuned.config["model_type"]:
        raise InputError(
            f"{tuned.path} is a {tuned.config['model_type']}, but {raw.path} is a {raw.config['model_type']}; name the "
            "raw model that it was made from"
        )
    _same_tokens(raw, tuned)
    shared = [name for name in tuned.tensors if name in raw.tensors]
    if not shared:
        raise InputError(
            f"{tuned.path} and {raw.path} have no tensor in common; name the raw model that it was made from"
        )
    embeddings = embedding_names(tuned)
    for name in shared:
        ours, theirs = raw.tensors[name].shape, tuned.tensors[name].shape
        grew = name in embeddings and ours[1:] == theirs[1:] and ours[0] < theirs[0]
        if ours != theirs and not grew:
            raise InputError(
                f"{name} is {theirs} in {tuned.path}, but {ours} in {raw.path}; name the raw model that it was made of"
            )


def _same_tokens(raw: ModelFolder, tuned: ModelFolder) -> None:
    ours, theirs = _vocabulary(raw.path), _vocabulary(tuned.path)
    if ours is None or theirs is None:
        return
    (pieces, added), (own_pieces, own_added) = ours, theirs
    if pieces != own_pieces or not added.items() <= own_added.items():
        raise InputError(
            f"{tuned.path} and {raw.path} have different tokenizers; name the raw model that it was made from"
        )


def shared_tensors(models: Sequence[ModelFolder]) -> list[str]:
    """The names that all models have, in the order of the first one.

    A second copy of tied embeddings, which only some of the folders store, is left out.

    Raises:
        InputError: a tensor is missing from a model, or has another shape.
    """
    shared = set.intersection(*(set(model.tensors) for model in models))
    for model in models:
        for name in sorted(set(model.tensors) - shared):
            if not (model.tied and _is_copy(model, name, shared)):
                lacking = next(m.path for m in models if name not in m.tensors)
                raise InputError(
                    f"{lacking} has no tensor {name}, but {model.path} has; merge models of one architecture"
                )
    for name in sorted(shared):
        for model in models[1:]:
            ours, theirs = models[0].tensors[name].shape, model.tensors[name].shape
            if ours != theirs:
                raise InputError(
                    f"{name} is {theirs} in {model.path}, but {ours} in {models[0].path}; merge models of one "
                    "architecture"
                )
    return [name for name in models[0].tensors if name in shared]


def is_second_copy(model: ModelFolder, name: str) -> bool:
    """Another tensor of the model holds the same numbers."""
    return _is_copy(model, name, model.tensors.keys() - {name})


def _is_copy(model: ModelFolder, name: str, names: set[str]) -> bool:
    """The tensor holds the same numbers as one of `names`."""
    mine = model.tensors[name]
    return any(_equal(mine, model.tensors[candidate]) for candidate in names & model.tensors.keys())


def _equal(a: StoredTensor, b: StoredTensor) -> bool:
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    pairs = zip(a.pieces(PIECE), b.pieces(PIECE), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def _architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what may differ between models of one architecture."""
    return {
        key: _architecture(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in NOT_ARCHITECTURE
    }


def _difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    for key in ("model_type", *sorted(ours.keys() | theirs.keys())):
        if ours.get(key) != theirs.get(key):
            return key, ours.get(key), theirs.get(key)
    return None


def _vocabulary(path: Path) -> Any:
    """The pieces of a fast tokenizer; None where the folder has none."""
    file = path / "tokenizer.json"
    if not file.exists():
        return None
    try:
        tokenizer = json.loads(file.read_text(encoding="utf-8"))
        added = {row["content"]: row["id"] for row in tokenizer.get("added_tokens", [])}
        return tokenizer["model"].get("vocab"), added
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is no fast tokenizer ({error!r}); save the tokenizer again") from error
