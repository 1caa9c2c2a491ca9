"""Where a model lies in parts."""

from __future__ import annotations

import pytest

from rayalign.config import LearnerConfig
from rayalign.models.zero import engine_config, lies_in_parts


@pytest.mark.parametrize(("stage", "world", "parts"), [(3, 2, True), (3, 1, False), (2, 2, False), (0, 2, False)])
def test_a_model_lies_in_parts_on_several_ranks_of_stage_three_alone(stage: int, world: int, parts: bool) -> None:
    assert lies_in_parts(LearnerConfig(zero_stage=stage), world) is parts


def test_deepspeed_has_the_settings_of_the_learner() -> None:
    config = LearnerConfig(zero_stage=3, offload="all", clip_norm=0.3, zero_live_parameters=7, precision="bf16")
    settings = engine_config(config, 3, parameters=100)
    zero = settings["zero_optimization"]
    assert zero["stage"] == 3
    assert (zero["reduce_bucket_size"], zero["allgather_bucket_size"]) == (100, 100)
    assert (zero["stage3_param_persistence_threshold"], zero["stage3_max_live_parameters"]) == (7, 7)
    assert zero["offload_optimizer"] == zero["offload_param"] == {"device": "cpu"}
    assert (settings["gradient_clipping"], settings["bf16"]["enabled"]) == (0.3, True)


def test_only_the_optimizer_is_offloaded_where_that_is_asked_for() -> None:
    zero = engine_config(LearnerConfig(zero_stage=2, offload="optimizer"), 2)["zero_optimization"]
    assert "offload_optimizer" in zero and "offload_param" not in zero


def test_by_default_nothing_is_offloaded_and_the_learner_clips_itself() -> None:
    settings = engine_config(LearnerConfig(clip_norm=0.3), 0)
    zero = settings["zero_optimization"]
    assert (zero["stage"], settings["gradient_clipping"], settings["bf16"]["enabled"]) == (0, 0.0, False)
    assert not any(name.startswith(("offload", "stage3")) for name in zero)
