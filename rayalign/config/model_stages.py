"""The stages that make a model of other models without training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, WithJsonSchema, model_validator

from rayalign.config.stage_section import StageSection

_MODELS_AS_WRITTEN = {
    "anyOf": [
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 1},
    ]
}


class MergeStage(StageSection):
    """Add up models, or LoRA adapters, by weight: sum_i w_i theta_i."""

    kind: Literal["merge"]
    models: Annotated[tuple[str, ...], Field(min_length=1), WithJsonSchema(_MODELS_AS_WRITTEN)]
    """as a list, or as a mapping of each model to its weight"""
    weights: tuple[float, ...] = ()
    """one for each model, negative ones too; empty: equal ones with sum 1"""
    mode: Literal["delta", "factor"] | None = None
    """of adapters: `delta` is exact and the default, `factor` averages the factors and keeps their rank"""
    rank: PositiveInt | None = None
    """of merged adapters in mode `delta`: reduce the sum to this rank"""
    base: str | None = None
    """of adapters: the model that they were trained beside, to which their sum is added"""

    @model_validator(mode="before")
    @classmethod
    def _split_mapping(cls, values: Any) -> Any:
        """`models: {stage:a: 0.7, stage:b: 0.3}` as two lists."""
        if not isinstance(values, dict) or not isinstance(values.get("models"), dict):
            return values
        if "weights" in values:
            raise ValueError("models is a mapping of weights already; leave out weights, or write models as a list")
        models = values["models"]
        return {**values, "models": list(models), "weights": list(models.values())}

    @property
    def shares(self) -> tuple[float, ...]:
        """The weight of each model."""
        return self.weights or (1.0 / len(self.models),) * len(self.models)


class RewardTokensStage(StageSection):
    """Give a model reward tokens, and a chat template that requests the best answer."""

    kind: Literal["reward_tokens"]
    model: str
    """what gets the tokens"""
    count: int = Field(default=2, ge=2)
    """the best one first"""
