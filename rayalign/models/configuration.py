"""The configuration of a model, from its folder or its hub name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from rayalign.errors import InputError
from rayalign.models.catalogue import READS_PAIRS

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FOREIGN = (
    AssertionError,  # torch's, where the padding token lies outside the embeddings
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    SafetensorError,
)
"""errors of transformers, torch and safetensors at a folder that is damaged or of an unknown kind"""


def read_config(path: str) -> PretrainedConfig:
    """The configuration, with dropout off.

    Raises:
        InputError: no such model.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except FOREIGN as error:
        raise unusable(path, error) from error
    for key, value in config.to_dict().items():
        if "drop" in key and isinstance(value, float):
            setattr(config, key, 0.0)
    return config


def reads_pairs(path: str) -> bool:
    """Whether a model is a pairwise reward model, which reads a prompt with two answers.

    Raises:
        InputError: no such model.
    """
    return bool(getattr(read_config(path), READS_PAIRS, False))


def positions(config: PretrainedConfig) -> int | None:
    """Tokens of the longest sequence that a model has positions for; None where its configuration does not say."""
    limit: int | None = config.get_text_config().to_dict().get("max_position_embeddings")
    return limit


def unusable(path: str, error: Exception) -> InputError:
    """What says that a model cannot be loaded, and the remedy."""
    if Path(path).is_dir():
        import transformers

        return InputError(
            f"model {path}: cannot be loaded from this folder ({first_line(error)}); see that config.json is of these "
            f"weights and of a kind that transformers {transformers.__version__} knows, or copy the whole folder again"
        )
    return InputError(
        f"model {path}: neither a folder nor in the Hugging Face cache ({first_line(error)}); "
        f"give a folder, or where there is a network run `hf download {path}` once"
    )


def first_line(error: Exception) -> str:
    """The first line of what an error says, with its name where that alone says what it is."""
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {lines[0]}"
