from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from rayalign.algorithms.ops import token_tensors
from rayalign.config import LearnerConfig
from rayalign.data.chat import encode_example
from rayalign.data.collate import EncodedRow, collate_examples
from rayalign.data.templates import DEFAULT_TEMPLATE
from rayalign.models.classifier import Classifier
from rayalign.models.load import Frozen, load_scalar
from rayalign.types import Batch, Message, Prompt

ITEMS = [
    (Prompt("a", (Message("user", "w1 w2"),)), "w3"),
    (Prompt("b", (Message("user", "w4"),)), "w5 w6 w7 w8"),
    (Prompt("c", (Message("user", "w9"),)), "w9 w9"),
]


SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
SHAPES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "qwen": Qwen2Config(**SIZES),
    "gemma": GemmaConfig(**SIZES, head_dim=16),
    "gemma2": Gemma2Config(**SIZES, head_dim=16, sliding_window=4),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pad_token", ["<eos>", "<pad>", None])
def test_a_score_is_read_at_the_token_that_was_trained(
    tokenizer: Any, tmp_path: Path, shape: str, pad_token: str | None
) -> None:
    """Whatever the padding token is; where it is the end token, transformers reads the one before the end."""
    torch.manual_seed(0)
    folder = tmp_path / "causal"
    AutoModelForCausalLM.from_config(SHAPES[shape]).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = load_scalar(str(folder), LearnerConfig(), seed=1)
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.pre_tokenizer = WhitespaceSplit()
    own = type(tokenizer)(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>")
    own.chat_template = DEFAULT_TEMPLATE
    own.pad_token = pad_token
    model.config.pad_token_id = own.pad_token_id
    model.save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    rows = [EncodedRow(*encode_example(own, prompt, answer), group=i) for i, (prompt, answer) in enumerate(ITEMS)]
    rollouts = collate_examples(rows, 0)
    batch = Batch(token_tensors(rollouts), rollouts.group_B)
    trained = Frozen(str(tmp_path), "scalar", LearnerConfig()).evaluate(batch).scores_B
    scores = [score.value for score in Classifier(str(tmp_path), context=64).scores(ITEMS)]
    assert scores == pytest.approx(trained.tolist(), abs=1e-5)
    assert len({round(score, 3) for score in scores}) == len(ITEMS), "each answer has a score of its own"


def test_an_encoder_is_told_which_text_is_the_answer(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(10))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=1,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    bert = BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt"))
    bert.save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        alone = [
            model(**bert(prompt.messages[0].content, answer, return_tensors="pt")).logits.item()
            for prompt, answer in ITEMS
        ]
    scores = [score.value for score in Classifier(str(tmp_path), context=64).scores(ITEMS)]
    assert scores == pytest.approx(alone, abs=1e-5)
