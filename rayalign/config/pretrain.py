"""The stage that makes a model from its preset."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from rayalign.config.data_sections import DataConfig
from rayalign.config.sections import LearnerConfig, RoleConfig
from rayalign.config.stage_section import LEARNER_SPEED, StageSection
from rayalign.types import Role


class PretrainStage(StageSection):
    """Make a model from its preset and train it on the unlabelled corpus; cached by content over runs."""

    placement = StageSection.placement | LEARNER_SPEED
    kind: Literal["pretrain"]
    model: str = "preset:nano"
    """`preset:NAME`; `rayalign check` names the presets that exist"""
    data: DataConfig = DataConfig(split="corpus")
    vocabulary: PositiveInt = 2048
    """pieces of the tokenizer where it is trained on the data; the embedded world brings its own"""
    chat_template: str | None = None
    """of that tokenizer: default, alpaca, chatml, or a file; null: default"""
    learner: LearnerConfig = LearnerConfig(learning_rate=1e-3, schedule="linear")
    epochs: PositiveInt = 1
    """passes over the corpus"""
    roles: dict[Role, RoleConfig] = {}
    """how the role `policy` is hosted"""
