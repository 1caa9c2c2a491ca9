"""Models from folders, hub names and presets. Remote code stays off, and so does dropout."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch

from rayalign.config import LearnerConfig
from rayalign.errors import InputError
from rayalign.models.catalogue import PRESETS, READS_PAIRS
from rayalign.models.configuration import FOREIGN, positions, read_config, unusable
from rayalign.models.heads import Head, HeadKind, TokenLogprobs, TokenValues, evaluate
from rayalign.models.partitioned import Partition, load_partitioned, set_whole
from rayalign.types import Batch, Outputs
from rayalign.weights.headers import prove_folder

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Initial = Literal["reward", "zero"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PLAIN_KERNEL = "sdpa"
"""torch's own attention, which runs on every device"""
PRESET_CONTEXT = 2048
"""longest sequence of a preset [tokens]"""


def make_preset(name: str, tokenizer: PreTrainedTokenizerBase, seed: int, folder: str | Path) -> None:
    """Write the preset's model with random weights, which the seed alone decides, and its tokenizer.

    Raises:
        InputError: no such preset.
    """
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    shape = PRESETS.get(name)
    if shape is None:
        raise InputError(f"preset:{name} is not known; known: {', '.join(PRESETS)}")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=PRESET_CONTEXT,
        tie_word_embeddings=shape.tied,
        # 0.02 is meant for widths of thousands: with it a narrow model takes twice as many steps until it copies.
        initializer_range=shape.hidden**-0.5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        # As large as what the blocks add: at their weights' scale the model takes twice the text until it copies.
        torch.nn.init.normal_(model.get_input_embeddings().weight)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_head(
    path: str,
    head: HeadKind,
    config: LearnerConfig,
    *,
    temperature: float,
    seed: int,
    initial: Initial,
    kernel: str | None = None,
    partition: Partition | None = None,
) -> Head:
    """A model with the head that reads it.

    Args:
        kernel: transformers' name of the attention kernel; None: what `config` and this machine choose.
        partition: spread the model over ranks while it is loaded; its head is then verified by the caller, once an
            engine can run the model.
    """
    kernel = kernel or attention_kernel(config)
    if head != "causal":
        model = load_scalar(path, config, seed, initial, partition, pairwise=head == "pairwise")
        return _with_kernel(TokenValues(model), kernel)
    reader = TokenLogprobs(load_causal(path, config, partition), temperature, config.chunk_logits)
    # The model is still on the CPU here, where flash attention cannot run: so the kernel is set after the proof.
    if partition is None:
        reader.verify(path)
    return _with_kernel(reader, kernel)


H = TypeVar("H", TokenLogprobs, TokenValues)


def _with_kernel(head: H, kernel: str) -> H:
    if kernel != PLAIN_KERNEL:
        head.model.set_attn_implementation(kernel)
    return head


class ReadOnly:
    """What every frozen model is, whole or in parts: a head that only reads, so many tokens at a time."""

    def __init__(self, head: Head, config: LearnerConfig) -> None:
        self._head = head.requires_grad_(False)
        if isinstance(self._head, TokenLogprobs):
            self._head.output.entropy = "none"
        self._micro_tokens = config.micro_tokens

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sequence that the model has positions for; None where it does not say."""
        return positions(self._head.model.config)


class Frozen(ReadOnly):
    """A model that is only read, on the first device there is: the reference, or the reward."""

    def __init__(self, path: str, head: HeadKind, config: LearnerConfig, temperature: float = 1.0) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loaded = load_head(path, head, config, temperature=temperature, seed=0, initial="reward")
        super().__init__(loaded.to(self._device), config)

    @torch.inference_mode()
    def evaluate(self, batch: Batch) -> Outputs:
        """Log-probs at policy tokens (causal), or values and scores (scalar), on the CPU."""
        return evaluate(self._head, self._head, batch, self._micro_tokens)

    def offload(self) -> None:
        """Move the model to host memory."""
        self._head.to("cpu")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def reload(self) -> None:
        """Move the model back to its device."""
        self._head.to(self._device)

    def close(self) -> None:
        """Does nothing: the memory is freed with the last reference to this object."""


def load_causal(path: str, config: LearnerConfig, partition: Partition | None = None) -> PreTrainedModel:
    """A language model in evaluation mode, on the CPU unless it is partitioned.

    Raises:
        InputError: no such model, one that needs remote code or lacks weights, or no such attention kernel.
    """
    from transformers import AutoModelForCausalLM

    return _load(AutoModelForCausalLM, path, read_config(path), config, partition)


def load_scalar(
    path: str,
    config: LearnerConfig,
    seed: int,
    initial: Initial = "reward",
    partition: Partition | None = None,
    *,
    pairwise: bool = False,
) -> PreTrainedModel:
    """A model with one output named `score`: a scalar folder as it is, a causal one with a fresh head.

    A reward's head starts at N(0, 1/(d+1)) (Stiennon et al. 2020, section 3.3), a critic's at zero.

    Args:
        pairwise: it reads a prompt with two answers; its configuration says so, wherever the model is saved.

    Raises:
        InputError: as `load_causal`; or the model has another number of outputs, or none of that name, or it reads two
            answers where it is to read one.
    """
    from transformers import AutoModelForSequenceClassification

    model_config = read_config(path)
    if pairwise:
        setattr(model_config, READS_PAIRS, True)
    elif getattr(model_config, READS_PAIRS, False):
        raise InputError(
            f"model {path}: it compares two answers, so it scores no single one and starts no critic; name a model "
            "that reads one answer"
        )
    fresh = not any(a.endswith("ForSequenceClassification") for a in model_config.architectures or ())
    if fresh:
        model_config.num_labels = 1
    elif model_config.num_labels != 1:
        raise InputError(f"model {path}: its head has {model_config.num_labels} outputs; a reward or critic has one")
    model = _load(AutoModelForSequenceClassification, path, model_config, config, partition, fresh=fresh)
    head = dict(model.named_children()).get("score")
    if head is None:
        raise InputError(f"model {path}: {type(model).__name__} has no linear layer `score`; use a decoder-only model")
    if fresh:
        width = head.in_features
        noise = torch.randn(1, width, generator=torch.Generator().manual_seed(seed)) / (width + 1) ** 0.5
        set_whole(head.weight, noise if initial == "reward" else torch.zeros_like(noise), partition)
    return model


def refuse_missing(path: str, loading_info: Mapping[str, Any]) -> None:
    """InputError where a checkpoint lacks weights, which would be drawn at random: it is of another kind."""
    if missing := sorted(loading_info["missing_keys"]):
        raise InputError(
            f"model {path}: its files lack {', '.join(missing[:3])}, which would be initialised at random; name a "
            "model of the right kind"
        )


def _load(
    kind: Any,
    path: str,
    model_config: PretrainedConfig,
    config: LearnerConfig,
    partition: Partition | None,
    *,
    fresh: bool = False,
) -> PreTrainedModel:
    settings = {"attn_implementation": PLAIN_KERNEL, "trust_remote_code": False}
    dtype = DTYPES[config.precision]
    if partition is not None:
        head = ("score.weight",) if fresh else ()
        return load_partitioned(kind, path, model_config, dtype, partition, fresh=head, **settings)
    if (Path(path) / "config.json").is_file():
        prove_folder(Path(path))
    try:
        model, loading_info = kind.from_pretrained(
            path, config=model_config, dtype=dtype, output_loading_info=True, **settings
        )
    except torch.OutOfMemoryError:
        raise
    except FOREIGN as error:
        raise unusable(path, error) from error
    if not fresh:
        refuse_missing(path, loading_info)
    return cast("PreTrainedModel", model.eval())


def attention_kernel(config: LearnerConfig) -> str:
    """Flash attention where it can run and is not ruled out, else torch's own.

    Raises:
        InputError: the job names flash attention, which cannot run here.
    """
    possible = torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None
    if config.attention == "flash" and not (possible and config.precision == "bf16"):
        raise InputError(
            "learner.attention: flash needs a CUDA device, the package flash-attn and precision bf16; "
            "install it, or set attention to auto or sdpa"
        )
    return (
        "flash_attention_2" if possible and config.precision == "bf16" and config.attention != "sdpa" else PLAIN_KERNEL
    )
