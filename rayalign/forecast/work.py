"""The work of one model on one actor: operations, bytes, passes through its layers, bytes between ranks.

Operations of a token are twice the weights that it meets, and of attention four times the tokens before it for each
hidden unit and layer (Kaplan 2020, arXiv:2001.08361, table 1). A backward pass costs twice the forward pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rayalign.config import LearnerConfig
from rayalign.models.catalogue import ModelShape
from rayalign.pipeline.sizes import BYTES, GRADIENT

OPTIMIZER_PASSES = 2
"""an optimizer step reads and writes every weight's states, as so many passes through the layers"""
ADAM_BYTES = 28
"""read and written for each trained weight by one step: weight, gradient, two moments [bytes]"""


@dataclass(frozen=True, slots=True)
class Work:
    """What one actor does in a phase."""

    flops: float = 0.0
    bytes: float = 0.0
    """read or written in the device's memory"""
    layer_passes: float = 0.0
    """passes of a batch through a layer, each of which costs a start whatever the batch's size"""
    traffic: float = 0.0
    """sent to or received from other actors [bytes]"""
    calls: float = 0.0
    """calls between processes"""

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.layer_passes + other.layer_passes,
            self.traffic + other.traffic,
            self.calls + other.calls,
        )

    def __mul__(self, factor: float) -> Work:
        return Work(
            self.flops * factor,
            self.bytes * factor,
            self.layer_passes * factor,
            self.traffic * factor,
            self.calls * factor,
        )


def token_flops(shape: ModelShape, length: float) -> float:
    """Operations of a forward pass for one token of a sequence of this length."""
    embedding = 0 if shape.tied else shape.vocabulary * shape.hidden  # looked up, not multiplied
    width = (shape.head_size or shape.hidden // shape.heads) * shape.heads
    attention = 4 * shape.layers * width * length / 2
    return 2.0 * (shape.parameters - embedding) + attention


def forward(shape: ModelShape, tokens: float, length: float, config: LearnerConfig, read: float = 1.0) -> Work:
    """Read so many tokens, in sequences of a length, in micro-batches.

    Args:
        read: share of the tokens that the model reads: a prompt that several rows share is read once.
    """
    passes = math.ceil(tokens / config.micro_tokens) * shape.layers
    width = BYTES[config.precision]
    weights = shape.parameters * width * math.ceil(tokens / config.micro_tokens)
    return Work(token_flops(shape, length) * tokens * read, weights, passes)


def train(
    shape: ModelShape, tokens: float, length: float, config: LearnerConfig, ranks: int, steps: int, read: float = 1.0
) -> Work:
    """The optimizer steps of one rank over its tokens.

    Args:
        tokens: of this rank, in all steps.
        read: as for `forward`.
    """
    step_tokens = tokens / steps
    step = forward(shape, step_tokens, length, config, read)
    micro_batches = math.ceil(step_tokens / config.micro_tokens)
    factor = 3 if config.lora is None else 2  # frozen weights have no gradients
    if config.gradient_checkpointing:
        factor += 1
    trained = trained_parameters(shape, config)
    divided = ranks if config.zero_stage else 1
    optimizer = Work(bytes=ADAM_BYTES * trained / divided, layer_passes=OPTIMIZER_PASSES * shape.layers)
    traffic = Work(traffic=rank_traffic(shape, config, ranks, micro_batches))
    return (step * factor + optimizer + traffic) * steps


def prompts_of_minibatch(prompts: float, candidates: float, minibatch: float, *, whole_groups: bool) -> float:
    """How many different prompts a minibatch has on average.

    Args:
        whole_groups: whether all candidates of a prompt are in the same minibatch; else rows are drawn one by one.
    """
    part = min(1.0, minibatch / (prompts * candidates))
    if whole_groups:
        return prompts * part
    return prompts * (1 - (1 - part) ** candidates)


def trained_parameters(shape: ModelShape, config: LearnerConfig) -> int:
    """Numbers that the optimizer changes."""
    if config.lora is None:
        return shape.parameters
    return shape.adapter_parameters(config.lora.rank, config.lora.targets)


def rank_traffic(shape: ModelShape, config: LearnerConfig, ranks: int, micro_batches: int) -> float:
    """Bytes that a rank sends in a step: gradients, and under ZeRO-3 the weights for both passes."""
    if ranks == 1:
        return 0.0
    share = (ranks - 1) / ranks
    traffic = 2 * share * GRADIENT * trained_parameters(shape, config)
    if config.zero_stage == 3:
        traffic += 2 * share * BYTES[config.precision] * shape.parameters * micro_batches
    return traffic


def generate(
    shape: ModelShape, *, prompts: float, samples: float, prompt: float, answer: float, longest: float,
    sequences: int, width: int, tensor_parallel: int,
) -> Work:  # fmt: skip
    """Write the answers of one engine, continuously batched; the prompt of a group is read once.

    Args:
        prompts, samples: of this engine.
        prompt, answer, longest: mean lengths, and that of the longest answer [tokens].
        sequences: at most in flight.
        width: bytes of a number.
    """
    batch = min(samples, sequences)
    steps = (samples / batch - 1) * answer + longest
    total = prompt + answer
    flops = token_flops(shape, total) * (prompts * prompt + samples * answer)
    head = shape.head_size or shape.hidden // shape.heads
    cache = 2 * shape.layers * shape.kv_heads * head * width
    cache_reads = samples * answer * cache * (prompt + answer / 2)
    reads = shape.parameters * width * steps + cache_reads
    return Work(flops / tensor_parallel, reads / tensor_parallel, (steps + 1) * shape.layers)
