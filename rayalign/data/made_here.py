"""The examples of formats without files: the embedded world, and arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

from rayalign.config import DataConfig
from rayalign.data import arithmetic
from rayalign.data.fields import prompt_id
from rayalign.data.gsm8k import gsm8k
from rayalign.errors import InputError
from rayalign.types import Candidate, Example, Message, Prompt

_CORPUS_DOCUMENTS = 20_000


def made_here(config: DataConfig, seed: int, use: str) -> Iterator[Example]:
    """The examples of a format without files, shaped for their use.

    Raises:
        InputError: the data name a path, or the format cannot serve this use.
    """
    if config.path is not None:
        raise InputError(
            f"data format {config.format!r} makes its rows itself and reads no files, but `data.path` is "
            f"{config.path}; leave `data.format` out, or name the format of those rows"
        )
    if config.format == "paddock":
        return _paddock(config, seed, use)
    if use in ("comparisons", "feedback"):
        raise InputError(f"{config.format} has no {use}; choose another `data.format`")
    numbers = arithmetic.rows(seed, config.split, distinct=use == "prompts")
    read = (gsm8k(row, f"arithmetic:{number}") for number, row in enumerate(numbers, start=1))
    return (example for example in read if isinstance(example, Example))


def _paddock(config: DataConfig, seed: int, use: str) -> Iterator[Example]:
    from rayalign.data import paddock

    if use == "prompts":
        return (Example(prompt, ()) for prompt in paddock.prompts(seed, config.split, config.limit))
    own = {"demonstrations": "sft", "corpus": "corpus"}.get(use)
    if own and config.split not in (own, DataConfig().split):
        raise InputError(f"paddock has no {use} of the split {config.split!r}; leave data.split out, or take {own}")
    if use == "demonstrations":
        return iter(paddock.demonstrations(seed, config.limit or paddock.SIZES["sft"]))
    if use == "corpus":
        texts = paddock.corpus(seed, config.limit or _CORPUS_DOCUMENTS)
        return (Example(Prompt(prompt_id((Message("assistant", t),)), ()), (Candidate(t),)) for t in texts)
    raise InputError("paddock has no ready comparisons; name a generate and an annotate stage's output as `examples`")
