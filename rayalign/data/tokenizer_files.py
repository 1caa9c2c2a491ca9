"""The files of a tokenizer: which class reads them, and whether the model beside them has its tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayalign.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def vocabulary_of(model: str) -> int | None:
    """How many tokens the model of a folder or hub name has embeddings for; None where only a tokenizer is there."""
    settings = Path(model) / "config.json"
    if settings.is_file():
        sizes = json.loads(settings.read_text(encoding="utf-8"))
        own_size: int | None = sizes.get("text_config", sizes).get("vocab_size")
        return own_size
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError):
        return None
    vocabulary: int | None = config.get_text_config().to_dict().get("vocab_size")
    return vocabulary


def check_ids(tokenizer: PreTrainedTokenizerBase, vocabulary: int | None) -> None:
    """InputError, which names the first one, where tokens have no row in an embedding of so many."""
    if vocabulary is None:
        return
    outside = {token_id: token for token, token_id in tokenizer.get_vocab().items() if token_id >= vocabulary}
    if outside:
        first = min(outside)
        raise InputError(
            f"its tokenizer has {outside[first]!r} with id {first}, but the model has embeddings for "
            f"{vocabulary} tokens only; resize the model's embeddings, or remove the token from the tokenizer"
        )


def tokenizer_class(model: str) -> Any:
    """What reads the tokenizer: the plain class where the folder names it, since the automatic one costs seconds.

    transformers' automatic classes import the code of all models, 1.5 s of CPU in each process. Beside a model of some
    types, such as qwen2, they also replace a plain tokenizer by that type's own, which cuts texts into other tokens.
    """
    settings = Path(model) / "tokenizer_config.json"
    if settings.is_file() and (Path(model) / "tokenizer.json").is_file():
        named_class = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class")
        if named_class in ("PreTrainedTokenizerFast", "TokenizersBackend"):
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer
