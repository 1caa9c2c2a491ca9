"""Loading a tokenizer from where its model lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayalign.data.chat import check_template
from rayalign.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(model: str, *, dialogue: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name, with a padding token.

    Raises:
        InputError: it is not there, or (asked for `dialogue`) has no chat template that training can rely on.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise InputError(f"{model}: no tokenizer can be loaded from there ({str(error).splitlines()[0]})") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masks come from lengths, never from token ids
    if dialogue:
        check_template(tokenizer)
    return tokenizer
