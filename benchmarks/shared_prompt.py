"""Seconds of a gradient over groups of candidates: each behind its own prompt, or the prompt of a group read once.

    .venv/bin/python -m benchmarks.shared_prompt

Both ways are those of the learner (rayalign/models/hidden.py); `rows_of_a_line` is what it chooses for these lengths.
One thread; both ways take turns. Writes results/shared_prompt.json.
"""

from __future__ import annotations

import statistics
import time
from itertools import chain

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.record import record
from rayalign.models.catalogue import PRESETS
from rayalign.models.hidden import hidden_states, readings

GROUPS, CANDIDATES, VOCABULARY = 4, 6, 600
LENGTHS = ((16, 14), (64, 32), (256, 32), (256, 128), (512, 64))
"""tokens of a prompt and of each candidate"""
REPEATS = 5


def made(preset: str) -> LlamaForCausalLM:
    """A preset's model with random weights."""
    shape = PRESETS[preset]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
    )
    return LlamaForCausalLM(config)


def gradient(model: LlamaForCausalLM, ids_BT: Tensor, prompts_B: Tensor | None) -> tuple[float, Tensor]:
    """Seconds of one forward and backward pass, and the gradient of the first layer's keys."""
    model.zero_grad()
    start = time.perf_counter()
    hidden_states(model, ids_BT, torch.ones_like(ids_BT), prompts_B).sin().sum().backward()
    seconds = time.perf_counter() - start
    weights = model.model.layers[0].self_attn.k_proj.weight
    assert weights.grad is not None
    return seconds, weights.grad.clone()


def measure(model: LlamaForCausalLM, prompt: int, answer: int) -> dict[str, float]:
    """Both ways by turns on the same rows."""
    prompts_GP = torch.randint(VOCABULARY, (GROUPS, prompt)).repeat_interleave(CANDIDATES, dim=0)
    ids_BT = torch.cat([prompts_GP, torch.randint(VOCABULARY, (GROUPS * CANDIDATES, answer))], dim=1)
    prompts_B = torch.full((len(ids_BT),), prompt)
    lengths_B = torch.full((len(ids_BT),), prompt + answer)
    lines = chain.from_iterable(readings(model, ids_BT, lengths_B, prompts_B))
    blocks = chain.from_iterable(line.blocks for line in lines)
    apart, together = gradient(model, ids_BT, None)[1], gradient(model, ids_BT, prompts_B)[1]
    seconds: dict[str, list[float]] = {"apart": [], "together": []}
    for _ in range(REPEATS):
        seconds["apart"].append(gradient(model, ids_BT, None)[0])
        seconds["together"].append(gradient(model, ids_BT, prompts_B)[0])
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "rows_of_a_line": max(len(block.rows) for block in blocks),
        "apart_seconds": medians["apart"],
        "together_seconds": medians["together"],
        "speed": medians["apart"] / medians["together"],
        "largest_relative_error": float((apart - together).abs().max() / apart.abs().max()),
    }


def main() -> None:
    """Measure a model of a million parameters at several lengths."""
    torch.set_num_threads(1)
    model = made("nano")
    lengths = {f"{prompt}+{answer} tokens": measure(model, prompt, answer) for prompt, answer in LENGTHS}
    record("shared_prompt", {"model": "nano", "groups": GROUPS, "candidates": CANDIDATES, "lengths": lengths})


if __name__ == "__main__":
    main()
