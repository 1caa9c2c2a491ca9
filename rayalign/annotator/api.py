"""The requests and replies of the annotator service, shared by server, client and pool.

Preferences are AlpacaFarm's: 1 the first answer is better, 2 the second, between them 1 + P(second is better), 1.5 a
tie, null no verdict.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rayalign.dialogues import dialogue_text
from rayalign.types import Message, Prompt

POOL = "pool"
"""the name under which one annotator is drawn for each instruction"""
MAX_ROWS = 4096
"""of one request"""
MAX_TEXT = 200_000
"""characters of one text"""
_SURROGATE = re.compile("[\ud800-\udfff]")
Text = Annotated[str, Field(max_length=MAX_TEXT)]


class Model(BaseModel):
    """Base of all bodies; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Item(Model):
    """The question of the answers: an instruction with an optional input, or a dialogue."""

    id: str | None = Field(default=None, max_length=256)
    """returned unchanged; unique within a request"""
    instruction: Text = ""
    input: Text = ""
    messages: tuple[Message, ...] | None = Field(default=None, max_length=256)
    """a dialogue that ends with the user's turn, in the place of `instruction`"""
    meta: dict[str, str] = {}
    """further facts of the data set, such as the embedded world's `task`"""

    @property
    def text(self) -> str:
        """The instruction as judges read it (AlpacaEval's merge of instruction and input; of a dialogue its turns)."""
        if self.messages is not None:
            return dialogue_text(self.messages)
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction

    @property
    def prompt(self) -> Prompt:
        """As the package's own type; its id depends on the content alone, so that noise does too."""
        messages = self.messages if self.messages is not None else (Message("user", self.text),)
        return Prompt("\n\n".join(m.content for m in messages), messages, self.meta)

    @model_validator(mode="after")
    def _asks_something(self) -> Item:
        if self.messages is not None and (self.instruction or self.input or not self.messages):
            raise ValueError("give either instruction (and input) or messages, and at least one message")
        if self.messages is None and not {"instruction", "input"} & self.model_fields_set:
            raise ValueError("`instruction` is missing; give it, or messages")
        texts = [m.content for m in self.messages or ()] + [*self.meta, *self.meta.values()]
        if any(len(text) > MAX_TEXT for text in texts):
            raise ValueError(f"a message or meta value is longer than {MAX_TEXT} characters")
        if any(_SURROGATE.search(text) for text in texts):
            raise ValueError("a message or meta value holds half of a surrogate pair, which is no text")
        return self


class PairItem(Item):
    """Two answers to compare."""

    output_1: Text
    output_2: Text


class ScoreItem(Item):
    """One answer to score."""

    output: Text


class RankItem(Item):
    """Several answers to rank."""

    outputs: tuple[Text, ...] = Field(min_length=2, max_length=64)


Row = TypeVar("Row", bound=Item)


class _Request(Model):
    annotator: str = POOL
    """a name of GET /v1/annotators; `pool`: one is drawn for each instruction"""
    seed: int = Field(default=0, ge=0, lt=2**63, strict=True)


def _unique(items: tuple[Row, ...]) -> tuple[Row, ...]:
    counts = Counter(item.id for item in items if item.id is not None)
    twice = [identifier for identifier, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"duplicate ids: {sorted(twice)[:3]}; give each row its own or leave `id` out")
    return items


class PreferenceRequest(_Request):
    """Pairs to compare."""

    pairs: Annotated[tuple[PairItem, ...], Field(min_length=1, max_length=MAX_ROWS), AfterValidator(_unique)]
    both_orders: bool = Field(default=False, strict=True)
    """judge each pair in both orders; where the verdicts disagree the pair ties"""
    flip: float = Field(default=0.0, ge=0.0, le=0.5, strict=True)
    """share of labels drawn at random (AlpacaFarm's label noise) without a judge"""
    stream: bool = Field(default=False, strict=True)
    """one JSON line for each annotation as it finishes, in the place of one reply"""

    @property
    def verdicts(self) -> int:
        """The number of judgings, before noise and the cache."""
        return len(self.pairs) * (2 if self.both_orders else 1)


class ScoreRequest(_Request):
    """Answers to score."""

    annotator: str
    items: Annotated[tuple[ScoreItem, ...], Field(min_length=1, max_length=MAX_ROWS), AfterValidator(_unique)]


class RankRequest(_Request):
    """Answer lists to rank."""

    items: Annotated[tuple[RankItem, ...], Field(min_length=1, max_length=MAX_ROWS // 4), AfterValidator(_unique)]


class Annotation(Model):
    """One verdict, in the order of the request's answers."""

    index: int
    """the row of the request"""
    id: str | None = None
    annotator: str
    preference: float | None
    reason: str | None = None
    """why there is no preference"""
    explanation: str = ""
    cached: bool = False
    noise: bool = False
    """drawn as label noise, without a judge"""
    switched: bool = False
    """the judge saw the second answer first"""
    consistent: bool | None = None
    """whether both orders gave the same verdict, where both were judged"""
    first_shown: float | None = None
    """how far they went to the answer shown first: 0 never, 1 both times"""
    raw_completion: str | dict[str, Any] | None = None
    """the language model's answer, about the pair in the order that it saw"""
    price: float = 0.0
    """of its verdicts, also where another request paid for them"""
    paid: float = 0.0
    """for it by this request: nothing for a verdict that was cached, or judged for another request or an equal row"""
    seconds: float = 0.0


class ScoreReply(Model):
    """One score, or why there is none."""

    index: int
    id: str | None = None
    score: float | None
    reason: str | None = None


class RankReply(Model):
    """An order of the answers, best first."""

    index: int
    id: str | None = None
    order: tuple[int, ...]
    scores: tuple[float | None, ...]
    """of each answer, in the order of the request: its own, or its mean preference over the others"""
    reason: str | None = None


class AnnotatorInfo(Model):
    """One annotator of the pool."""

    name: str
    kind: str
    revision: str
    scores: bool
    """whether /v1/scores takes it"""
    pooled: bool
    """whether `pool` draws it"""


class Estimate(Model):
    """What annotating would cost, as the cache and the budget stand; of one request, or of several together."""

    pairs: int = 0
    verdicts: int = 0
    """to be paid for: what the cache lacks"""
    prompt_tokens: int = 0
    """at four bytes a token"""
    completion_tokens: int = 0
    """answers of full length"""
    price: float = 0.0
    least_tokens: int = 0
    """at eight bytes a token, without the answers"""
    least_price: float = 0.0
    tokens_left: int | None = None
    """of the budget, the client's own where that has less; null: no limit"""
    dollars_left: float | None = None

    def __add__(self, later: Estimate) -> Estimate:
        sums = {name: getattr(self, name) + getattr(later, name) for name in list(Estimate.model_fields)[:-2]}
        return later.model_copy(update=sums)

    def __str__(self) -> str:
        tokens = self.prompt_tokens + self.completion_tokens
        return (
            f"{self.pairs:,} pairs: {self.verdicts:,} verdicts to pay for, about {tokens:,} tokens, ${self.price:.2f}"
        )


class Cell(Model):
    """Two labellers on the pairs that both gave a verdict on."""

    a: str
    b: str
    n: int
    agreement: float | None
    """share of the same verdict of three: first, tie, second"""
    kappa: float | None
    """Cohen's; None where it is undefined, as between two who always say the same one thing"""
    low: float | None
    """95% interval of kappa, bootstrap over prompts; None below 10 pairs, and where resampling shows no spread"""
    high: float | None


class Fleiss(Model):
    """The agreement of all people, on the pairs that had the commonest number of them."""

    kappa: float | None
    low: float | None
    """as of a `Cell`"""
    high: float | None
    n: int
    raters: int


class AgreementReply(Model):
    """Everyone against everyone; a preference counts as first (below 1.5), tie or second."""

    queue: str
    humans: tuple[str, ...]
    annotators: tuple[str, ...]
    cells: tuple[Cell, ...]
    fleiss: Fleiss | None


class Rank(Model):
    """How often a generator's answers win, by one judge's verdicts."""

    judge: str
    kind: Literal["human", "annotator"]
    """human: all people together"""
    generator: str
    win_rate: float = Field(description="percent; a tie is half a win")
    low: float
    """95% interval, bootstrap over prompts (Wilson's where all prompts say the same)"""
    high: float
    n: int
    """verdicts"""


class Problem(Model):
    """The body of every error."""

    code: str
    """such as invalid_request, unknown_annotator, unauthorized, rate_limited, too_large, budget, unavailable"""
    message: str
    """what is wrong and the remedy"""
    field: str | None = None
    """where in the request"""
