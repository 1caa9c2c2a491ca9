"""The records that cross module boundaries.

Shapes, here and in the whole package: P prompts, K candidates, B sequences, T tokens, V vocabulary.
A per-token tensor is aligned with the tokens themselves: entry [b, t] speaks of token t, so `logprobs_BT[b, t]` is the
log-probability of token t given tokens before t, and `values_BT[b, t]` is the value of the state before token t.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from rayalign.metric import Metric as Metric
from rayalign.metric import Metrics as Metrics
from rayalign.metric import merged as merged
from rayalign.pickling import fast_pickle

if TYPE_CHECKING:
    from torch import Tensor

Role = Literal["policy", "critic", "reference", "reward"]
Unit = Literal["sequence", "pair", "group"]
Author = Literal["policy", "environment", "template", "dataset"]
TRAINED: frozenset[Author] = frozenset({"policy", "dataset"})
"""authors whose tokens are trained on"""
FinishReason = Literal["stop", "length", "turns"]
"""the answer ended by itself, was cut by a limit of tokens, or its dialogue by the limit of turns"""


@fast_pickle
@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a dialogue."""

    role: Literal["system", "user", "assistant"]
    content: str


@fast_pickle
@dataclass(frozen=True, slots=True)
class Prompt:
    """One input: a dialogue that ends where the assistant is to answer."""

    id: str
    """stable within its data set"""
    messages: tuple[Message, ...]
    meta: Mapping[str, str] = field(default_factory=dict)
    """further facts of the data set, such as the family or the split; never shown to a model"""


def with_turns(prompt: Prompt, turns: tuple[Message, ...]) -> Prompt:
    """The prompt of the last answer in a dialogue that had these turns since the first."""
    return replace(prompt, messages=(*prompt.messages, *turns)) if turns else prompt


Words = tuple[tuple[Message, ...], str]
"""the turns that led to an answer, and the answer"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer to a prompt."""

    text: str
    source: str = "dataset"
    score: float | None = None
    """higher is better; None when absent, never zero for a failure"""
    turns: tuple[Message, ...] = ()
    """of a dialogue of several turns: those between the prompt and `text`"""

    @property
    def words(self) -> Words:
        """Everything that was said after the prompt."""
        return self.turns, self.text


@dataclass(frozen=True, slots=True)
class Example:
    """One row of an offline data set: a demonstration has one candidate, a comparison two scored, a ranking more."""

    prompt: Prompt
    candidates: tuple[Candidate, ...]
    preference: float | None = None
    """of two candidates: the probability that the first is better; None: their scores alone order them"""
    desirable: float | None = None
    """of an answer by itself: the probability that it is a good one; a second candidate answers another prompt then"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A judge's verdict on two answers, in AlpacaFarm's convention."""

    prompt: Prompt
    first: Candidate
    second: Candidate
    preference: float | None
    """1 first better, 2 second better, between them a probability, 1.5 a tie, None no verdict"""
    annotator: str


@fast_pickle
@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens with one author, from `start` to the next segment's start."""

    start: int
    author: Author
    version: int = -1
    """the weights that wrote it; -1 where no policy did"""


@fast_pickle
@dataclass(frozen=True, slots=True)
class Trajectory:
    """One candidate with everything that training needs of it."""

    group_id: str
    index: int
    """which candidate of its group"""
    token_ids: tuple[int, ...]
    """prompt and answer"""
    segments: tuple[Segment, ...]
    logprobs: tuple[float, ...]
    """behaviour log-probabilities, one for each policy token and none for others, of what was sampled from"""
    finish_reason: FinishReason
    text: str = ""
    """the answer, of several turns the last one, decoded without special tokens"""
    turns: tuple[Message, ...] = ()
    """the policy's and the environment's between the prompt and `text`"""
    reward: float | None = None
    """the sum of the environment's; None where it gave none"""

    @property
    def policy_mask(self) -> list[bool]:
        """True for each token that the policy wrote, which has a behaviour log-prob."""
        return self._mask(frozenset({"policy"}))

    @property
    def loss_mask(self) -> list[bool]:
        """True for each token that is trained on."""
        return self._mask(TRAINED)

    @property
    def spans(self) -> list[tuple[Author, int, int]]:
        """Author, first token and end of each segment."""
        ends = [s.start for s in self.segments[1:]] + [len(self.token_ids)]
        return [(s.author, s.start, end) for s, end in zip(self.segments, ends, strict=True)]

    def _mask(self, authors: frozenset[Author]) -> list[bool]:
        mask: list[bool] = []
        for author, start, end in self.spans:
            mask.extend([author in authors] * (end - start))
        return mask

    @property
    def version(self) -> int | None:
        """The oldest weights that wrote any of it; None where no policy did."""
        return min(self._versions, default=None)

    @property
    def has_several_versions(self) -> bool:
        """Whether new weights came while it was written."""
        return len(self._versions) > 1

    @property
    def _versions(self) -> set[int]:
        return {segment.version for segment in self.segments if segment.author == "policy"}


@fast_pickle
@dataclass(frozen=True, slots=True)
class ScorePart:
    """One of several scores of a candidate, by its name; absent with a reason, never zero for a failure."""

    name: str
    value: float | None
    reason: str | None = None


@fast_pickle
@dataclass(frozen=True, slots=True)
class Score:
    """What a scorer says of one candidate: a number, or absent with a reason."""

    value: float | None
    reason: str | None = None
    parts: tuple[ScorePart, ...] = ()
    """of a reward from several sources; only those that count for this prompt"""


@dataclass(frozen=True, slots=True)
class Absence:
    """A candidate that could not be written."""

    index: int
    reason: str


@fast_pickle
@dataclass(frozen=True, slots=True)
class Group:
    """The candidates of one prompt, consumed together by one iteration."""

    id: str
    prompt: Prompt
    iteration: int
    trajectories: tuple[Trajectory, ...]
    scores: tuple[Score, ...] = ()
    """one for each trajectory once scored"""
    absent: tuple[Absence, ...] = ()
    """candidates that are missing among the trajectories"""

    @property
    def version(self) -> int:
        """The oldest weights that wrote any of it, from which staleness counts; the iteration's where none did."""
        versions = [t.version for t in self.trajectories if t.version is not None]
        return min(versions, default=self.iteration)


@dataclass(slots=True)
class Rollouts:
    """What `Algorithm.prepare` sees: sequences of one iteration (or of an offline minibatch), padded on the right."""

    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    """1 for each real token"""
    policy_mask_BT: Tensor
    """1 for each token that is trained on"""
    group_B: Tensor
    """which group each row belongs to; rows of a group are neighbours"""
    scores_B: Tensor | None = None
    """NaN where absent"""
    ended_B: Tensor | None = None
    """1 where the answer ended by itself, 0 where it was cut"""
    behaviour_logprobs_BT: Tensor | None = None
    """of the engine that wrote each token; NaN at trained tokens that no engine wrote"""
    logprobs_BT: Tensor | None = None
    """the trainer's own, before the first update of this iteration"""
    reference_logprobs_BT: Tensor | None = None
    values_BT: Tensor | None = None
    staleness_B: Tensor | None = None
    """weight versions between writing and consuming; 0 where no policy wrote the row"""
    preferences_B: Tensor | None = None
    """of rows that are pairs, the chosen one first: the probability that it is the better one, on both rows"""
    desirable_B: Tensor | None = None
    """of answers by themselves: the probability that it is a good one; NaN for the answer to another prompt"""
    state: Mapping[str, float] = field(default_factory=dict)
    """controllers' state (adaptive KL, running moments) before this batch"""
    reward_tokens: tuple[int, ...] = ()
    """ids of the policy's reward tokens, the best first; prompts hold the best one"""


@dataclass(slots=True)
class Batch:
    """What learners are fed: named tensors with one row for each sequence, and which rows belong together."""

    tensors: dict[str, Tensor]
    """always `input_ids_BT`, `attention_mask_BT`, `policy_mask_BT`; besides what the algorithm's losses read"""
    unit_B: Tensor
    """rows with the same number are one unit: sharding and micro-batching never split it"""
    metrics: Metrics = field(default_factory=dict)
    state: Mapping[str, float] = field(default_factory=dict)
    """controllers' state after this batch"""

    def __len__(self) -> int:
        return int(self.unit_B.shape[0])

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def rows(self, index_N: Tensor) -> Batch:
        """The rows named by `index_N`, without metrics and state."""
        return Batch({k: v[index_N] for k, v in self.tensors.items()}, self.unit_B[index_N])


Minibatch = Batch


@dataclass(slots=True)
class Outputs:
    """What the Learner computed for a minibatch; log-probs and entropy at the stage's temperature, never logits."""

    logprobs_BT: Tensor | None = None
    entropy_BT: Tensor | None = None
    values_BT: Tensor | None = None
    """scalar head at the state before each token (critic)"""
    scores_B: Tensor | None = None
    """scalar head at the last real token (reward)"""
    kl_BT: Tensor | None = None
    """exact KL(policy || reference) of each token's distribution [nats], where the algorithm needs it"""


@dataclass(slots=True)
class LossSum:
    """A loss as a sum: the Learner divides by the normaliser of the global minibatch."""

    numerator: Tensor
    normaliser: float
    metrics: Metrics = field(default_factory=dict)
