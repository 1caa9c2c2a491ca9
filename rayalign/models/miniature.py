"""Models for a rehearsal: the configuration of a model that is out of reach, and small models of the same architecture.

A miniature keeps what code depends on: the architecture with its options, tied weights, biases, the ratio of query
heads to key heads, kinds of layers, positions. It loses depth and width.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rayalign.errors import InputError
from rayalign.models.catalogue import READS_PAIRS, ModelShape, family_of, shape_of
from rayalign.models.configuration import first_line, read_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

HEAD_SIZE = 32
"""of a miniature; vLLM on a CPU knows no smaller one"""
LAYERS = 2
EXPERTS = 4
"""of a mixture of experts, two of which see each token"""
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
UNKNOWN = ModelShape(32000, 4096, 32, 32, 32, 11008, False)
"""of a model that neither the hub nor the catalogue knows: the first Llama of 7B"""
POSITIONS = 32768
"""of a model from the catalogue, which does not say how long its sequences may be"""


def catalogue_config(model: str) -> PretrainedConfig:
    """The full-size configuration that stands for a hub name, by the catalogue's shape and architecture."""
    from transformers import AutoConfig

    shape = shape_of(model) or UNKNOWN
    config: PretrainedConfig = AutoConfig.for_model(
        family_of(model) or "llama",
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size or shape.hidden // shape.heads,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=shape.tied,
    )
    return config


def shrunk(config: PretrainedConfig, vocabulary: int) -> PretrainedConfig:
    """The same architecture with few layers and narrow ones.

    Args:
        vocabulary: tokens of the tokenizer that it gets.
    """
    small = copy.deepcopy(config)
    text = small.get_text_config()
    heads = text.num_attention_heads
    groups = getattr(text, "num_key_value_heads", None) or heads
    text.num_attention_heads, kept_groups = _few_heads(heads, groups)
    text.num_key_value_heads = kept_groups
    text.hidden_size = HEAD_SIZE * text.num_attention_heads
    if getattr(text, "head_dim", None):
        text.head_dim = HEAD_SIZE
    if getattr(text, "query_pre_attn_scalar", None):
        text.query_pre_attn_scalar = HEAD_SIZE
    text.intermediate_size = 2 * text.hidden_size
    # At 0.02, which is meant for widths of thousands, all tokens are about as likely, and no probe tells weights apart.
    text.initializer_range = text.hidden_size**-0.5
    text.vocab_size = vocabulary
    _fewer_layers(text)
    _fewer_experts(text)
    _ids_within(text, vocabulary)
    return type(small).from_dict(small.to_dict())


def _few_heads(heads: int, groups: int) -> tuple[int, int]:
    """Query heads and key heads in the ratio of the model: two key heads where it has an even number, else one."""
    few_groups = 2 if groups % 2 == 0 else 1
    return few_groups * max(1, heads // groups), few_groups


def _fewer_layers(text: PretrainedConfig) -> None:
    """Two layers, or one of each kind where the model has several."""
    kinds = list(dict.fromkeys(getattr(text, "layer_types", None) or ()))
    text.num_hidden_layers = max(LAYERS, len(kinds))
    if kinds:
        text.layer_types = [kinds[number % len(kinds)] for number in range(text.num_hidden_layers)]
    if hasattr(text, "max_window_layers"):
        text.max_window_layers = text.num_hidden_layers


def _fewer_experts(text: PretrainedConfig) -> None:
    for key in _EXPERT_COUNTS:
        if getattr(text, key, None):
            setattr(text, key, EXPERTS)
    if getattr(text, "num_experts_per_tok", None):
        text.num_experts_per_tok = 2
    if getattr(text, "moe_intermediate_size", None):
        text.moe_intermediate_size = text.hidden_size


def _ids_within(text: PretrainedConfig, vocabulary: int) -> None:
    """Special tokens of the real vocabulary that the small one does not have."""
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = getattr(text, key, None)
        several = ids if isinstance(ids, list) else [ids]
        if any(number is not None and number >= vocabulary for number in several):
            setattr(text, key, None)


def write_stand_in(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """A model folder without weights, for what is checked at full size."""
    folder.mkdir(parents=True, exist_ok=True)
    if not config.architectures:
        config.architectures = [_class_name(config, scalar=False)]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_miniature(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, folder: Path, *, scalar: bool, pairwise: bool = False
) -> int:
    """A model folder with random weights, which the architecture alone decides; how many parameters it has.

    Args:
        scalar: with one output named `score` in the place of the language model's head.
        pairwise: its one output compares two answers.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    kind: Any = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    if scalar:
        config.num_labels = 1
        config.pad_token_id = tokenizer.pad_token_id
    if pairwise:
        setattr(config, READS_PAIRS, True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def reachable_config(model: str) -> PretrainedConfig | None:
    """The configuration of a folder or hub name; None where it is out of reach."""
    try:
        return read_config(model)
    except InputError:
        return None


def is_scalar(config: PretrainedConfig) -> bool:
    """Whether a model has one output in the place of a language model's head."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def _class_name(config: PretrainedConfig, *, scalar: bool) -> str:
    """transformers' class of the architecture."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind: Any = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            return type(kind.from_config(config)).__name__
    except ValueError as error:
        raise InputError(f"no language model of the architecture {config.model_type} ({first_line(error)})") from error
