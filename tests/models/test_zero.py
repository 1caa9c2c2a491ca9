"""Where a model lies in parts."""

from __future__ import annotations

import pytest

from rayalign.config import LearnerConfig
from rayalign.models.zero import lies_in_parts


@pytest.mark.parametrize(("stage", "world", "parts"), [(3, 2, True), (3, 1, False), (2, 2, False), (0, 2, False)])
def test_a_model_lies_in_parts_on_several_ranks_of_stage_three_alone(stage: int, world: int, parts: bool) -> None:
    assert lies_in_parts(LearnerConfig(zero_stage=stage), world) is parts
