"""Llama-shaped models with random weights, for benchmarks alone."""

from __future__ import annotations

from pathlib import Path

SHAPES = {
    "8M": {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 704, "layers": 8, "heads": 4},
    "50M": {"vocab_size": 8192, "hidden_size": 640, "intermediate_size": 1792, "layers": 8, "heads": 10},
    "0.5B": {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "layers": 24, "heads": 14},
    "1.5B": {"vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "layers": 28, "heads": 12},
    "300M": {"vocab_size": 16384, "hidden_size": 1280, "intermediate_size": 3584, "layers": 13, "heads": 20},
}


def make(name: str, folder: Path) -> int:
    """Write the model with the embedded world's tokenizer beside it; its parameter count."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rayalign.data.paddock.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    shape = dict(SHAPES[name])
    layers, heads = shape.pop("layers"), shape.pop("heads")
    config = LlamaConfig(
        **shape,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())
