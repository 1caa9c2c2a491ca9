"""Where the scores of candidates come from: one source, or several that are combined."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePath
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    Tag,
    model_validator,
)

from rayalign.config.references import ANNOTATOR, Reference
from rayalign.config.sections import Section

RULES = "rules:"
CombineKind = Literal["mean", "weighted", "min", "chebyshev"]
SourceForm = Literal["model", "annotator", "rules", "code"]
UNSPREADABLE = "every actor would request the parts of the reward that are not models; remove these parts, or spread"
_CODE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_SERVICE = (ANNOTATOR, "http://", "https://")


class RuleSection(Section):
    """What the sections of all rules share."""

    kind: str
    reference: str = "reference"
    """key of the prompt's meta that holds the reference answer"""


class ExactRule(RuleSection):
    """1 where the answer is the reference, else 0."""

    kind: Literal["exact"] = "exact"
    ignore_case: bool = True
    """capital and small letters count as equal"""
    ignore_punctuation: bool = False
    """punctuation is left out of the comparison"""


class NumericRule(RuleSection):
    """1 where the answer's final number is that of the reference, else 0."""

    kind: Literal["numeric"] = "numeric"
    tolerance: NonNegativeFloat = 0.0
    """largest absolute difference that counts as equal"""
    marked: bool = False
    """only a number after `####` counts, not the last number of an answer without that mark"""


class RegexRule(RuleSection):
    """1 where the answer contains the pattern, else 0."""

    kind: Literal["regex"] = "regex"
    pattern: str
    """a regular expression of Python"""
    whole: bool = False
    """the whole answer has to match"""

    @model_validator(mode="after")
    def _compiles(self) -> RegexRule:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is not a regular expression: {error}") from error
        return self


class LengthRule(RuleSection):
    """1 where the answer's length is within the band, falling to 0 over `margin` on either side."""

    kind: Literal["length"] = "length"
    low: NonNegativeInt = 1
    """shortest answer that scores 1"""
    high: NonNegativeInt = 100
    """longest answer that scores 1"""
    margin: NonNegativeInt = 0
    """units beside the band over which the score falls to 0"""
    unit: Literal["words", "characters"] = "words"
    """in which lengths are counted"""

    @model_validator(mode="after")
    def _band(self) -> LengthRule:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class FormatRule(RuleSection):
    """1 where the answer has the form, else 0."""

    kind: Literal["format"] = "format"
    form: Literal["gsm8k", "think", "json"] = "gsm8k"
    """`#### NUMBER` as the last line; `<think>...</think>` and then an answer; one JSON value"""


class MajorityRule(RuleSection):
    """The share of the prompt's candidates that have the same final answer: a vote (Wang 2022, self-consistency)."""

    kind: Literal["majority"] = "majority"
    answer: Literal["number", "text"] = "number"
    """the final number, as the rule `numeric` reads it, or the whole text but for white space and case"""
    marked: bool = False
    """only a number after `####` counts"""


RuleConfig = Annotated[
    ExactRule | NumericRule | RegexRule | LengthRule | FormatRule | MajorityRule,
    Field(discriminator="kind"),
]
_RULES: dict[str, type[RuleSection]] = {
    get_args(section.model_fields["kind"].annotation)[0]: section
    for section in (ExactRule, NumericRule, RegexRule, LengthRule, FormatRule, MajorityRule)
}


def _form_of(source: str) -> SourceForm:
    if source.startswith(RULES):
        return "rules"
    if source.startswith(_SERVICE):
        return "annotator"
    is_reference = Reference.parse(source) is not None
    return "code" if not is_reference and _CODE.fullmatch(source) else "model"


def _rule_of(source: str) -> RuleSection:
    """The rule that `rules:KIND` names, with its defaults."""
    kind = source.removeprefix(RULES)
    if kind not in _RULES:
        raise ValueError(f"there is no rule {kind!r}; expected one of {', '.join(_RULES)}")
    if any(field.is_required() for field in _RULES[kind].model_fields.values()):
        raise ValueError(f"the rule {kind} has settings; write a list with rules: {{kind: {kind}, ...}}")
    return _RULES[kind].model_validate({"kind": kind})


class RewardSource(Section):
    """One part of a reward."""

    source: str = ""
    """a reward model, `annotator:NAME`, `rules:KIND`, or code as `package.module:function_or_class`"""
    rules: RuleConfig | None = None
    """a rule with settings, in the place of `source`"""
    preference: str | None = None
    """of a reward model: it reads the prompt as if it named this preference of its profile alone"""
    settings: dict[str, Any] = {}
    """keyword arguments of code"""
    name: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]*$")
    """of its metric `reward/NAME`; by default its preference, or the last part of its source"""
    weight: FiniteFloat = 1.0
    """of this part in the combined score; a negative one is a penalty"""
    ideal: FiniteFloat = 0.0
    """the best score that it can reach; for `combine: chebyshev`"""
    normalise: bool = False
    """by the running mean and deviation of its scores"""
    for_all: bool = False
    """counts for every prompt; without it, a prompt that names objectives counts only the parts of those names"""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, values: Any) -> Any:
        return {"source": values} if isinstance(values, str) else values

    @model_validator(mode="after")
    def _is_one_source(self) -> RewardSource:
        if bool(self.source) == (self.rules is not None):
            raise ValueError("a part of a reward has either source or rules")
        if self.form == "rules":
            _ = self.rule
        if self.preference and self.form != "model":
            raise ValueError("preference is for reward models, which read the prompt; leave it out")
        if self.preference and self.for_all:
            raise ValueError(f"only prompts that name {self.preference} can be read under it; leave for_all out")
        if self.settings and self.form != "code":
            raise ValueError("settings are the arguments of code; leave them out")
        return self

    @property
    def form(self) -> SourceForm:
        """What the source is."""
        return "rules" if self.rules is not None else _form_of(self.source)

    @property
    def rule(self) -> RuleSection:
        """The rule of a source of that form."""
        return self.rules if self.rules is not None else _rule_of(self.source)

    @property
    def label(self) -> str:
        """The name of this part."""
        if self.name or self.preference:
            return self.name or str(self.preference)
        if self.form == "rules":
            return self.rule.kind
        return PurePath(self.source.rpartition(":")[2]).name


def _valid_source(source: str) -> str:
    if _form_of(source) == "rules":
        _rule_of(source)
    return source


def _distinct_names(sources: tuple[RewardSource, ...]) -> tuple[RewardSource, ...]:
    if not sources:
        raise ValueError("the reward has no parts; name one, or leave the key out")
    for label, count in Counter(source.label for source in sources).items():
        if count > 1:
            raise ValueError(f"{count} parts are named {label}; give each a name of its own")
    return sources


def _listed(value: Any) -> Any:
    """A part that is written without its list."""
    return [value] if isinstance(value, dict) else value


def _tag(value: Any) -> str:
    return "sources" if isinstance(value, list | tuple) else "source"


RewardText = Annotated[str, AfterValidator(_valid_source)]
"""one source as a text"""
_Sources = Annotated[tuple[RewardSource, ...], AfterValidator(_distinct_names)]
Reward = Annotated[
    Annotated[RewardText, Tag("source")] | Annotated[_Sources, Tag("sources")],
    Discriminator(_tag),
    BeforeValidator(_listed, json_schema_input_type=str | RewardSource | tuple[str | RewardSource, ...]),
]
"""one source whose score is the reward, or a list of named parts; a mapping is a list of one"""


def reward_sources(reward: str | tuple[RewardSource, ...] | None) -> tuple[RewardSource, ...]:
    """The sources of a reward; none where there is no reward."""
    if reward is None:
        return ()
    return (RewardSource(source=reward),) if isinstance(reward, str) else reward


class Rewarded:
    """What sections with a `reward` share."""

    reward: Reward | None

    @property
    def rewards(self) -> tuple[RewardSource, ...]:
        """The sources of the reward; none where there is no reward."""
        return reward_sources(self.reward)

    @property
    def has_parts(self) -> bool:
        """True where scores have named parts."""
        return isinstance(self.reward, tuple)

    def reward_key(self, index: int) -> str:
        """Dotted key of a source of the reward, inside the section."""
        return f"reward.{index}.source" if self.has_parts else "reward"
