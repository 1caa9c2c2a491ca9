"""The stage that evolves prompts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from rayalign.config.answers import Endpoint
from rayalign.config.data_sections import DataConfig
from rayalign.config.sections import SamplingConfig, Section
from rayalign.config.stage_section import StageSection

__all__ = ["EvolveStage", "GateConfig", "Metric", "Operator", "PriorityConfig", "SelectionKind", "WeightKind"]

Metric = Literal["gap", "max_mean", "dueling", "mean", "inverse_mean", "variance", "uniform"]
WeightKind = Literal["proportional", "min-max"]
SelectionKind = Literal["weighted", "greedy", "stratified"]
Operator = Literal["constrain", "deepen", "concretise", "reason", "breadth"]


class PriorityConfig(Section):
    """Draw the prompts of an online stage by how much they still teach (Ye 2024, eva's online form).

    Each prompt comes once; from then on its latest candidates' rewards give it its weight.
    """

    metric: Metric = "gap"
    """how much a prompt teaches, from its candidates' rewards"""
    weights: WeightKind = "proportional"
    """proportional, or less the smallest value (min-max), so that the least informative prompt is never drawn"""
    floor: float = Field(default=0.2, ge=0.0, le=1.0)
    """share of the weight that is spread evenly, so that a prompt that taught nothing comes again"""


class GateConfig(Section):
    """What a new prompt must pass to be taken."""

    shortest: NonNegativeInt = 8
    """fewest characters of its last turn"""
    longest: PositiveInt = 8000
    """most characters of its last turn"""
    near: float = Field(default=0.9, gt=0.0, le=1.0)
    """share of character 5-grams (Jaccard) from which it repeats a prompt of the pool"""
    ancestor: float = Field(default=0.2, ge=0.0, le=1.0)
    """share of its first ancestor's words that it must still have; one in breadth begins a line of its own"""
    distinct: float = Field(default=0.5, ge=0.0, le=1.0)
    """fewest distinct pairs of neighbouring words, as a share of all of its pairs"""
    overlap: PositiveInt = 13
    """words in a row that it must not share with a prompt of `benchmarks`; shorter ones must not be equal"""


class EvolveStage(StageSection):
    """Select the prompts that teach most, and make new ones of them (Ye 2024, eva, arXiv 2411.00062)."""

    kind: Literal["evolve"]
    examples: str
    """`stage:NAME/drawn` of a generate stage with `best_of`: prompts with scored candidates"""
    metric: Metric = "gap"
    """how much a prompt teaches, from its candidates' rewards"""
    weights: WeightKind = "proportional"
    """proportional, or less the smallest value (min-max), so that the least informative prompt is never drawn"""
    floor: float = Field(default=0.0, ge=0.0, le=1.0)
    """share of the weight that is spread evenly"""
    topic: str = "family"
    """fact of a prompt (`meta`) that names its topic"""
    topic_coefficient: float = Field(default=0.0, ge=0.0, le=1.0)
    """share of the weight that goes by inverse topic frequency"""
    selection: SelectionKind = "weighted"
    """drawn by weight, the highest weights (greedy), or equally many from each tenth of the weights (stratified)"""
    fraction: float = Field(default=0.25, gt=0.0, le=1.0)
    """of the prompts, selected for evolving"""
    evolutions: PositiveInt = 4
    """steps from each selected prompt; every step's prompt is taken, and the next step starts from it"""
    operators: tuple[Operator, ...] = ()
    """one is drawn for each step; empty: all that the evolver has"""
    model: str | None = None
    """writes the new prompts by instruction, through the engines; null, without an endpoint: the embedded world does"""
    endpoint: Endpoint | None = None
    """in the place of `model`: one over HTTP"""
    sampling: SamplingConfig = SamplingConfig(temperature=0.88, max_tokens=666)
    """of that model"""
    base_share: float = Field(default=0.2, ge=0.0, le=1.0)
    """share of unchanged prompts in the output, which has as many prompts as `examples`"""
    gates: GateConfig = GateConfig()
    """what a new prompt must pass"""
    benchmarks: DataConfig | None = None
    """data whose prompts must not come up among the new ones; a `blend` for several"""
