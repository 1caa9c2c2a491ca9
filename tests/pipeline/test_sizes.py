from __future__ import annotations

from rayalign.config import LearnerConfig, LoraConfig
from rayalign.models.catalogue import ModelShape
from rayalign.pipeline.sizes import learner_parts

SHAPE = ModelShape(10, 4, 1, 2, 1, 6, True)
N = SHAPE.parameters
FP32 = LearnerConfig(micro_tokens=8)
ACTIVATIONS = 8 * 4 * 1 * 17 * 4


def test_a_learner_in_fp32_by_hand() -> None:
    assert learner_parts(SHAPE, FP32, 1) == {"weights": 4 * N, "training": (8 + 4) * N + ACTIVATIONS}


def test_zero_divides_moments_then_gradients_then_weights() -> None:
    first = FP32.model_copy(update={"zero_stage": 1})
    assert learner_parts(SHAPE, first, 2) == {"weights": 4 * N, "training": (4 + 4) * N + ACTIVATIONS}
    third = FP32.model_copy(update={"zero_stage": 3})
    assert learner_parts(SHAPE, third, 2) == {"weights": 2 * N, "training": (4 + 2) * N + ACTIVATIONS}


def test_bf16_has_a_master_copy_and_checkpointing_few_activations() -> None:
    bf16 = LearnerConfig(micro_tokens=8, precision="bf16", gradient_checkpointing=True)
    assert learner_parts(SHAPE, bf16, 1) == {"weights": 2 * N, "training": (12 + 4) * N + 8 * 4 * 2}


def test_an_adapter_alone_has_gradients_and_moments() -> None:
    lora = FP32.model_copy(update={"lora": LoraConfig(rank=2, targets=("q_proj", "down_proj"))})
    trained = 2 * (8 + 10)  # q_proj goes from 4 to 4, down_proj from 6 to 4
    assert learner_parts(SHAPE, lora, 1) == {"weights": 4 * (N + trained), "training": (8 + 4) * trained + ACTIVATIONS}
