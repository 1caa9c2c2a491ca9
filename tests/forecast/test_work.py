from __future__ import annotations

import pytest

from rayalign.config import LearnerConfig, LoraConfig
from rayalign.forecast.work import Work, forward, generate, prompts_of_minibatch, rank_traffic, token_flops, train
from rayalign.models.catalogue import ModelShape

SHAPE = ModelShape(vocabulary=10, hidden=4, layers=2, heads=2, kv_heads=1, intermediate=8, tied=False)
"""a layer: attention 2*4*2*(2+1)=48, MLP 3*4*8=96, norms 8; model: 2*40 + 2*152 + 4 = 388"""


def test_operations_of_a_token_are_twice_the_weights_it_meets_and_attention() -> None:
    assert SHAPE.parameters == 388
    # the input embedding of 40 numbers is looked up; attention is 4 * 2 layers * 4 units * 6 / 2 tokens
    assert token_flops(SHAPE, 6) == 2 * (388 - 40) + 96


def test_a_tied_embedding_is_multiplied_at_the_output() -> None:
    tied = ModelShape(10, 4, 2, 2, 1, 8, tied=True)
    assert token_flops(tied, 0) == 2 * tied.parameters == 2 * 348


def test_a_forward_pass_reads_the_weights_once_for_each_micro_batch() -> None:
    work = forward(SHAPE, tokens=250, length=6, config=LearnerConfig(micro_tokens=100))
    assert work == Work(flops=250 * 792, bytes=3 * 388 * 4, layer_passes=3 * 2)


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({}, 3),
        ({"gradient_checkpointing": True}, 4),
        ({"lora": LoraConfig(rank=1, targets=("q_proj",))}, 2),
    ],
)
def test_a_backward_pass_costs_twice_the_forward_pass(changes: dict[str, object], factor: int) -> None:
    config = LearnerConfig(micro_tokens=100, **changes)
    assert train(SHAPE, 100, 6, config, ranks=1, steps=1).flops == factor * 100 * 792


def test_two_steps_update_the_weights_twice() -> None:
    config = LearnerConfig(micro_tokens=100)
    work = train(SHAPE, 200, 6, config, ranks=1, steps=2)
    # each step: three passes over both layers, and two layers' worth twice for the optimizer
    assert work.layer_passes == 2 * (3 * 2 + 2 * 2)
    assert work.bytes == 2 * (3 * 388 * 4 + 28 * 388)


def test_ranks_exchange_gradients_and_under_zero_3_weights() -> None:
    assert rank_traffic(SHAPE, LearnerConfig(), 1, 1) == 0
    gradients = 2 * 0.5 * 4 * 388
    assert rank_traffic(SHAPE, LearnerConfig(), 2, 3) == gradients
    partitioned = LearnerConfig(zero_stage=3, precision="bf16")
    assert rank_traffic(SHAPE, partitioned, 2, 3) == gradients + 2 * 0.5 * 2 * 388 * 3


def test_an_engine_reads_its_weights_for_each_token_of_the_longest_answer() -> None:
    work = generate(SHAPE, prompts=2, samples=8, prompt=5, answer=3, longest=6, sequences=8, width=2, tensor_parallel=1)
    # one wave of 6 steps; a token's cache is 2 (keys, values) * 2 layers * 1 head * 2 units * 2 bytes
    assert work.bytes == 6 * 388 * 2 + 8 * 3 * 16 * (5 + 1.5)
    assert work.layer_passes == (6 + 1) * 2
    assert work.flops == token_flops(SHAPE, 8) * (2 * 5 + 8 * 3)


def test_more_samples_than_sequences_take_further_steps() -> None:
    work = generate(
        SHAPE, prompts=2, samples=16, prompt=5, answer=3, longest=6, sequences=8, width=2, tensor_parallel=1
    )
    assert work.layer_passes == (3 + 6 + 1) * 2


def test_a_prompt_that_rows_share_is_read_once_and_costs_no_fewer_micro_batches() -> None:
    work = forward(SHAPE, tokens=250, length=6, config=LearnerConfig(micro_tokens=100), read=0.4)
    assert work == Work(flops=0.4 * 250 * 792, bytes=3 * 388 * 4, layer_passes=3 * 2)


def test_a_minibatch_has_the_prompts_of_its_groups_or_of_the_rows_that_were_drawn() -> None:
    assert prompts_of_minibatch(8, 4, 16, whole_groups=True) == 4
    assert prompts_of_minibatch(8, 4, 64, whole_groups=True) == 8
    # a prompt of two rows is missed by half of all rows with a chance of a quarter
    assert prompts_of_minibatch(8, 2, 8, whole_groups=False) == 6
    assert prompts_of_minibatch(8, 2, 16, whole_groups=False) == 8
