"""A model with reward tokens: its embeddings get rows for them, everything else stays as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rayalign.data.chat import load_tokenizer
from rayalign.data.reward_tokens import reward_token_ids, with_reward_tokens
from rayalign.models.model_folder import ModelFolder, embedding_names
from rayalign.models.output_folder import copy_companions, whole_folder
from rayalign.weights.streaming import PIECE, StoredTensor, write_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

JITTER = 0.1
"""noise of a new row, as a share of the deviation of the others"""


def add_reward_tokens(source: str | Path, out: str | Path, count: int, *, seed: int) -> None:
    """Write a model with `count` reward tokens, each the mean of all embeddings with some noise.

    Args:
        source: a model folder with safetensors weights.
        out: a folder that does not exist or is empty; it appears whole or not at all.

    Raises:
        InputError: the source is no such folder, or it has reward tokens already.
    """
    model = ModelFolder.read(Path(source))
    old = load_tokenizer(str(source))
    tokenizer = with_reward_tokens(old, count)
    rows = max(model.vocabulary, len(tokenizer))
    with whole_folder(Path(out), [model.path]) as folder:
        copy_companions(model.path, folder)
        _write_settings(model.path, folder, rows)
        _Growth(model, len(old), reward_token_ids(tokenizer), rows, seed).write(folder)
        _save_tokenizer(tokenizer, folder)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)  # the template is one of the tokenizer's own files again
    tokenizer.save_pretrained(folder)


def _write_settings(source: Path, folder: Path, rows: int) -> None:
    settings = json.loads((source / "config.json").read_text(encoding="utf-8"))
    settings.get("text_config", settings)["vocab_size"] = rows
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


class _Growth:
    """The tensors of a model with further rows in its embeddings."""

    def __init__(self, model: ModelFolder, tokens: int, token_ids: tuple[int, ...], rows: int, seed: int) -> None:
        self._model = model
        self._tokens = tokens
        """of the old tokenizer; rows behind them were never trained"""
        self._token_ids = list(token_ids)
        self._rows = rows
        self._embeddings = embedding_names(model)
        self._generator = torch.Generator().manual_seed(seed)

    def write(self, folder: Path) -> None:
        """Write all shards and their index."""
        sizes: dict[str, int] = {}
        for file_name, stored in self._model.shards.items():
            contents = {name: (tensor.dtype, self._shape(name, tensor)) for name, tensor in stored.items()}
            write_tensors(folder / file_name, contents, self._pieces(stored))
            for name, (dtype, shape) in contents.items():
                sizes[name] = torch.Size(shape).numel() * dtype.itemsize
        self._model.write_index(folder, list(sizes), sum(sizes.values()))

    def _shape(self, name: str, tensor: StoredTensor) -> tuple[int, ...]:
        return (self._rows, *tensor.shape[1:]) if name in self._embeddings else tensor.shape

    def _pieces(self, stored: Mapping[str, StoredTensor]) -> Iterator[Tensor]:
        for name, tensor in stored.items():
            if name in self._embeddings:
                yield self._grown(tensor.read())
            else:
                yield from tensor.pieces(PIECE)

    def _grown(self, matrix: Tensor) -> Tensor:
        trained = matrix[: self._tokens].float()
        grown = torch.zeros(self._rows, *matrix.shape[1:], dtype=matrix.dtype)
        grown[: len(matrix)] = matrix
        noise = torch.randn(len(self._token_ids), *matrix.shape[1:], generator=self._generator)
        grown[self._token_ids] = (trained.mean(dim=0) + JITTER * trained.std(dim=0) * noise).to(matrix.dtype)
        return grown
