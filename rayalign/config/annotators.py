"""The file of `rayalign serve`: the service and its pool of annotators. Frozen; unknown keys are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from rayalign.config.sections import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class HumanConfig(Section):
    """A simulated human: noise and tastes laid over a judge's utilities. All zero but `temperature`: Bradley-Terry."""

    temperature: PositiveFloat = 0.1
    """Bradley-Terry scale of the utility gap: smaller is more certain"""
    flip: float = Field(default=0.0, ge=0.0, le=0.5)
    """share of verdicts turned round"""
    length_bias: float = 0.0
    """utility added for each answer word"""
    position_bias: float = 0.0
    """utility added to the answer shown first"""
    list_bias: float = 0.0
    """utility added to an answer that holds a list"""
    tie: NonNegativeFloat = 0.0
    """a gap smaller than this is a tie"""
    abstain: Share = 0.0
    """share of pairs left without a verdict"""
    self_disagreement: Share = 0.0
    """share of pairs drawn afresh under another seed of the request; on the others a repetition agrees"""


class JudgeConfig(HumanConfig):
    """Who compares two answers in the process of a stage: a human over the embedded world's gold utility."""

    kind: Literal["rubric"] = "rubric"
    self_disagreement: Share = 1.0


class RubricJudgeConfig(Section):
    """Gold utility of the embedded world."""

    kind: Literal["rubric"]
    criteria: dict[str, float] = {}
    """attribute -> weight, such as {brief: 1, polite: 0.5}, or `wishes`: what the prompt itself asks of the style;
    empty: the whole utility"""


class ModelConfig(Section):
    """A model of the service's own."""

    model: str
    replicas: PositiveInt = 1
    context: PositiveInt = 2048
    """longest prompt and answer together [tokens]"""
    cpus: PositiveFloat = 1.0
    gpus: NonNegativeFloat = 0.0


class RewardJudgeConfig(ModelConfig):
    """A reward model of ours, or any sequence-classification checkpoint."""

    kind: Literal["reward_model"]


class ParserConfig(Section):
    """How a judge's reply becomes verdicts: the parsers of alpaca_eval, by their names."""

    name: Literal[
        "regex_parser", "lmsys_parser", "ranking_parser", "json_parser", "eval_parser", "logprob_parser",
        "pipeline_meta_parser", "replace_parser",
    ]  # fmt: skip
    arguments: dict[str, Any] = {}


class PromptedConfig(Section):
    """What all judges share that are asked in words."""

    template: str = "pairs"
    """a packaged template's name, or the path of a file; ChatML marks make it a dialogue"""
    parser: ParserConfig = ParserConfig(
        name="regex_parser", arguments={"outputs_to_match": {1: "Output \\(a\\)", 2: "Output \\(b\\)"}}
    )
    reads: Literal["text", "logprobs"] = "text"
    """whether the parser is given the reply's text or the whole choice with its token log-probs"""
    batch_size: PositiveInt = 1
    """pairs in one prompt"""
    max_tokens: PositiveInt = 100
    temperature: NonNegativeFloat = 0.0
    arguments: dict[str, Any] = {}
    """further arguments of the request: top_p, logprobs, tools ..."""
    randomize_order: bool = True
    """show the answers in an order drawn from the instruction"""
    kind: str


class EndpointConfig(Section):
    """A language model behind any OpenAI-compatible endpoint: where it is, what it costs, how long it may take."""

    model: str
    base_url: str | None = None
    """None: OPENAI_BASE_URL, else OpenAI's own"""
    key_variable: str = "OPENAI_API_KEY"
    """the environment variable that holds the key"""
    legacy: bool = False
    """ask /v1/completions, with the prompt as one text"""
    price_per_prompt_token: NonNegativeFloat = 0.0
    price_per_completion_token: NonNegativeFloat = 0.0
    concurrency: PositiveInt = 16
    """requests in flight"""
    timeout: PositiveFloat = 60.0
    """seconds of one attempt"""
    deadline: PositiveFloat = 300.0
    """seconds of all attempts at one request together"""
    retries: NonNegativeInt = 8
    max_tokens: PositiveInt = 100
    """of one reply"""


class LLMJudgeConfig(EndpointConfig, PromptedConfig):
    """A language model behind an endpoint that compares pairs."""

    kind: Literal["llm"]


class CriteriaJudgeConfig(EndpointConfig):
    """A language model behind an endpoint that grades answers on criteria; the sum of the grades is the score."""

    kind: Literal["criteria"]
    criteria: dict[str, str] = Field(
        {
            "relevance": "it does what the request asks for, and little else",
            "correctness": "what it says is true, and its reasoning holds",
            "coherence": "it is clear, in good order, and does not contradict itself",
            "safety": "to follow it harms nobody, and it insults nobody",
        },
        min_length=1,
    )
    """name -> what it asks of an answer; by default Wombat's four"""
    lowest: NonNegativeInt = 1
    highest: PositiveInt = 5
    """grades go from `lowest` to `highest`"""
    answers: PositiveInt = 8
    """answers to one prompt in one request, as in Wombat; 1: each by itself"""
    max_tokens: PositiveInt = 256
    temperature: NonNegativeFloat = 0.0
    arguments: dict[str, Any] = {}
    """further arguments of the request"""

    @model_validator(mode="after")
    def _has_a_scale(self) -> CriteriaJudgeConfig:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest {self.lowest} is not below highest {self.highest}")
        return self


class HostedJudgeConfig(PromptedConfig, ModelConfig):
    """A local language model, served by vLLM inside the same application."""

    kind: Literal["vllm"]
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


class AlpacaEvalJudgeConfig(Section):
    """A folder of alpaca_eval's evaluators_configs, as it is."""

    kind: Literal["alpaca_eval"]
    folder: str
    name: str | None = None
    """the annotator in the folder's file; None: its only one"""
    base_url: str | None = None
    key_variable: str = "OPENAI_API_KEY"


JudgeSection = Annotated[
    RubricJudgeConfig
    | RewardJudgeConfig
    | LLMJudgeConfig
    | CriteriaJudgeConfig
    | HostedJudgeConfig
    | AlpacaEvalJudgeConfig,
    Field(discriminator="kind"),
]


class AnnotatorConfig(Section):
    """One named annotator."""

    judge: JudgeSection
    human: HumanConfig | None = None
    """noise over the judge; only for judges that score single answers"""
    humans: tuple[HumanConfig, ...] = ()
    """in the place of `human`, several: one of them is drawn for each prompt, by the seed"""
    pooled: bool = True
    """whether `pool` may draw it"""

    @property
    def people(self) -> tuple[HumanConfig, ...]:
        """The simulated humans: none, one or several."""
        return self.humans if self.human is None else (self.human,)

    @model_validator(mode="after")
    def _has_one_kind_of_noise(self) -> AnnotatorConfig:
        if self.human is not None and self.humans:
            raise ValueError("`human` and `humans` contradict each other; leave one of them out")
        return self


class BudgetConfig(Section):
    """Hard limits; a request that could pass one is refused before it is sent. None: no limit."""

    dollars: PositiveFloat | None = None
    tokens: PositiveInt | None = None
    per_client_dollars: PositiveFloat | None = None
    per_client_tokens: PositiveInt | None = None


class AccessConfig(Section):
    """Who may ask, and how much."""

    token_variable: str = "RAYALIGN_TOKENS"
    """environment variable with `name:token` pairs, separated by commas; with neither it nor a file anyone may ask"""
    token_file: str | None = None
    """lines of `name sha256-of-token` (made by `rayalign token NAME`)"""
    open: bool = False
    """without tokens: let other machines ask all the same, under any name of this one"""
    requests_per_second: PositiveFloat | None = None
    """of one token"""
    max_body: PositiveInt = 32 << 20
    """bytes of one request"""


class ServiceConfig(Section):
    """The whole file. Without one, the embedded pool is served."""

    host: str = "127.0.0.1"
    port: NonNegativeInt = Field(default=8900, lt=65536)
    cpus: NonNegativeFloat = 1.0
    """of one replica of the front"""
    replicas: PositiveInt = 1
    max_replicas: PositiveInt | None = None
    """above `replicas`: autoscaling up to so many"""
    haproxy: bool = False
    """Ray Serve's HAProxy ingress: several times the requests per second, a slower shutdown; on every address"""
    queue: PositiveInt = 8192
    """rows in progress or waiting in one replica; more are refused with 429"""
    chunk: PositiveInt = 64
    """rows given to a scoring judge at once"""
    cache: str = "sqlite:///runs/annotator/verdicts.db"
    """`sqlite:///FILE`, or `postgresql://USER@HOST/DATABASE` for several machines"""
    request_timeout: PositiveFloat = 600.0
    """seconds until any request has been answered"""
    access: AccessConfig = AccessConfig()
    budget: BudgetConfig = BudgetConfig()
    annotators: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], AnnotatorConfig] = Field(
        min_length=1
    )

    @field_validator("annotators")
    @classmethod
    def _pool_is_taken(cls, annotators: dict[str, AnnotatorConfig]) -> dict[str, AnnotatorConfig]:
        if "pool" in annotators:
            raise ValueError("`pool` is the name under which one of them is drawn; give the annotator another")
        return annotators
