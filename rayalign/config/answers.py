"""Where the candidates of a prompt come from, and RRHF's mixtures by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, PositiveFloat, PositiveInt, Tag

from rayalign.config.sections import BeamConfig, SamplingConfig, Section

__all__ = [
    "DATASET",
    "MIXTURES",
    "ONLINE_MIXTURES",
    "AnswerSource",
    "CandidateSource",
    "Candidates",
    "Endpoint",
    "Mixture",
    "Sources",
    "merged_sampling",
    "taken",
]
_Answer = TypeVar("_Answer")

DATASET = "dataset"
"""source of the answers that a row of the data brings"""


class CandidateSource(Section):
    """Where some of a group's candidates come from, in an online stage."""

    source: Literal["live", "dataset"]
    """the policy as it is now, or the answers of the row"""
    count: PositiveInt = 4
    """answers drawn for each prompt, or at most so many of the row's own"""
    last: bool = False
    """of the row's own answers take the last ones; in rows of RRHF these are the provided ones, chosen and rejected"""
    sampling: SamplingConfig | None = None
    """of the live policy; keys that it does not set are those of the stage's `sampling`"""


class Endpoint(Section):
    """A model behind an OpenAI-compatible endpoint."""

    model: str
    """the name that the endpoint knows it by"""
    base_url: str = Field(pattern="^https?://")
    """address of the API, such as http://HOST:8000/v1"""
    key_variable: str = "OPENAI_API_KEY"
    """the environment variable that holds the key"""
    concurrency: PositiveInt = 16
    """requests in flight"""
    timeout: PositiveFloat = 60.0
    """seconds of one attempt"""
    deadline: PositiveFloat = 300.0
    """seconds of all attempts at one answer together"""


class AnswerSource(Section):
    """Where some of a prompt's candidates come from, in a generate stage."""

    source: str | None = None
    """`dataset` (the row's own answers), a model (`stage:NAME`, folder, hub name), or null: the stage's model"""
    examples: str | None = None
    """in the place of `source`: `stage:NAME` of an earlier generate stage, whose candidates it takes for the prompt"""
    endpoint: Endpoint | None = None
    """in the place of `source`: a model over HTTP"""
    count: PositiveInt = 4
    """candidates of each prompt, or at most so many of those that are there"""
    last: bool = False
    """of those that are there take the last ones; in rows of RRHF these are the provided ones, chosen and rejected"""
    sampling: SamplingConfig | None = None
    """keys that it does not set are those of the stage's `sampling`"""
    name: str | None = None
    """kept with each candidate; null: the source"""

    @property
    def model(self) -> str | None:
        """The model that draws, where the source names one of its own."""
        return None if self.source == DATASET else self.source

    @property
    def is_drawn(self) -> bool:
        """True where the engines draw; false where answers are there already, or come over HTTP."""
        return self.source != DATASET and self.examples is None and self.endpoint is None

    @property
    def places(self) -> int:
        """How many places it names; more than one contradict each other."""
        return sum(place is not None for place in (self.source, self.examples, self.endpoint))


Mixture = Literal["BP", "DP", "SP", "D", "P", "IP"]
_ROUND = re.compile(r"IP-[1-9][0-9]*")
_DIVERSE_BEAMS = SamplingConfig(temperature=0.8, top_p=1.0, top_k=0, beams=BeamConfig(width=4, groups=4, penalty=1.0))
_BEAMS = AnswerSource(sampling=SamplingConfig(temperature=1.0, top_p=1.0, top_k=0, beams=BeamConfig(width=4)))
_DIVERSE = AnswerSource(sampling=_DIVERSE_BEAMS)
_DRAWN = AnswerSource(sampling=SamplingConfig(temperature=1.0, top_p=1.0, top_k=0, beams=None))
_PROVIDED = AnswerSource(source=DATASET, count=2, last=True)
MIXTURES: MappingProxyType[Mixture, tuple[AnswerSource, ...]] = MappingProxyType(
    {
        "BP": (_BEAMS, _PROVIDED),
        "DP": (_DIVERSE, _PROVIDED),
        "SP": (_DRAWN, _PROVIDED),
        "D": (_DIVERSE,),
        "P": (_PROVIDED,),
        "IP": (_DIVERSE, _PROVIDED),
    }
)
"""RRHF's sampling settings (Yuan 2023, table 1): four answers by a model, two of the data set; SP is ours.

All keys of their sampling but `max_tokens` are set, so that a stage's `sampling` changes none of them. IP is DP by the
model of the round before: round n of a loop is IP-n, and IP-1 is DP.
"""
_LIVE = CandidateSource(source="live", sampling=_DIVERSE_BEAMS)
ONLINE_MIXTURES: MappingProxyType[str, tuple[CandidateSource, ...]] = MappingProxyType(
    {"OP": (_LIVE, CandidateSource(source="dataset", count=2, last=True)), "OD": (_LIVE,)}
)
"""RRHF's online settings: OP-k, with the data set's answers, draws with new weights after every k optimizer steps.

OD-k, without these answers, is ours.
"""


def _online(name: str) -> str:
    mixture, _, steps = name.partition("-")
    if mixture not in ONLINE_MIXTURES or not steps.isdigit() or not int(steps):
        raise ValueError("expected a list, or OP-k or OD-k with the steps between two sets of weights, such as OP-32")
    return name


def _without_round(name: Any) -> Any:
    return "IP" if isinstance(name, str) and _ROUND.fullmatch(name) else name


def _form(value: Any) -> str:
    return "name" if isinstance(value, str) else "sources"


_Live = Annotated[tuple[CandidateSource, ...], Tag("sources")]
_Online = Annotated[str, AfterValidator(_online), Tag("name")]
Candidates = Annotated[_Live | _Online, Discriminator(_form)]
"""sources, or an online setting of RRHF by its name, such as OP-32"""

_Round = Annotated[str, Field(pattern=f"^{_ROUND.pattern}$")]
"""the sampling of IP under the number of its round, such as IP-2"""
_Places = Annotated[tuple[AnswerSource, ...], Tag("sources")]
_Named = Annotated[Mixture, BeforeValidator(_without_round, json_schema_input_type=Mixture | _Round), Tag("name")]
Sources = Annotated[_Places | _Named, Discriminator(_form)]
"""several places, or a mixture of RRHF by its name"""


def taken(source: AnswerSource | CandidateSource, answers: Sequence[_Answer]) -> Sequence[_Answer]:
    """The answers that a source takes of those that are there."""
    return answers[-source.count :] if source.last else answers[: source.count]


def merged_sampling(stage: SamplingConfig, own: SamplingConfig | None) -> SamplingConfig:
    """A source's sampling, with the stage's value for each key that it does not set."""
    if own is None:
        return stage
    return stage.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})
