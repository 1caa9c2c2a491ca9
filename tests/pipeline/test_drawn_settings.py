"""What a job sets of its draws reaches the requests: seed, sampling, prompts, environment and deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from rayalign.config import AnswerSource, Endpoint, GenerateStage, SamplingConfig
from rayalign.data.chat import encode_example, load_tokenizer
from rayalign.errors import DeadlineError
from rayalign.pipeline.drawing import draw, draw_sources, labels
from rayalign.rollout.base import Finished, Request, candidate_seed
from rayalign.rollout.environment import Reply, Turns
from rayalign.storage.records import write_jsonl
from rayalign.types import Example, Group, Message, Prompt, Trajectory
from tests.annotator.stub_endpoint import Stub
from tests.pipeline.test_drawing import EXAMPLES, Context, Pool

SAMPLING = SamplingConfig(temperature=0.5, top_k=3, top_p=0.75, max_tokens=7)


class AsksTwice:
    """Wants more until the policy has written three turns."""

    def __init__(self, prompt: Prompt, turns: Turns) -> None:
        self._turns = turns

    def step(self, trajectory: Trajectory) -> Reply:
        return Reply() if len(trajectory.turns) == 4 else self._turns.user("please")


ENVIRONMENT = f"{__name__}:AsksTwice"


@pytest.fixture
def context(model: str, tmp_path: Path) -> Context:
    write_jsonl(tmp_path / "rows.jsonl", [])
    return Context(model, tmp_path / "rows.jsonl", seed=7)


def drawing(
    context: Context, stage: GenerateStage, examples: Sequence[Example] | None = None
) -> Coroutine[Any, Any, list[Group]]:
    return draw(context, "answers", "please", stage, stage.count, examples=examples)  # type: ignore[arg-type]


def drawn(context: Context, stage: GenerateStage, examples: Sequence[Example] | None = None) -> list[Group]:
    return asyncio.run(drawing(context, stage, examples))


def from_sources(context: Context, stage: GenerateStage, *sources: AnswerSource) -> list[Group]:
    return asyncio.run(draw_sources(context, "answers", "please", stage, sources))  # type: ignore[arg-type]


def requests(context: Context) -> list[Request]:
    return [request for pool in context.pools for request in pool.requests]


def test_candidates_have_the_seed_of_the_run_the_prompt_and_the_place(context: Context) -> None:
    drawn(context, GenerateStage(kind="generate", model="please", count=2))
    expected = [candidate_seed(7, 0, 0, "a", 0), candidate_seed(7, 0, 0, "a", 1)]
    expected += [candidate_seed(7, 0, 1, "b", 0), candidate_seed(7, 0, 1, "b", 1)]
    assert [request.seed for request in requests(context)] == expected


def test_every_request_has_the_sampling_of_the_stage(context: Context) -> None:
    drawn(context, GenerateStage(kind="generate", model="please", count=2, sampling=SAMPLING))
    assert [request.sampling for request in requests(context)] == [SAMPLING] * 4


def test_a_source_draws_by_its_own_keys_and_the_others_of_the_stage(context: Context) -> None:
    stage = GenerateStage(kind="generate", model="please", sampling=SAMPLING)
    own = AnswerSource(count=1, sampling=SamplingConfig(temperature=0.25))
    from_sources(context, stage, AnswerSource(count=1), own)
    merged = SAMPLING.model_copy(update={"temperature": 0.25})
    assert [request.sampling for request in requests(context)] == [SAMPLING, merged] * 2


def test_a_model_over_http_has_the_seed_of_the_run_and_its_own_sampling(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    stage = GenerateStage(kind="generate", model="please", sampling=SAMPLING)
    with Stub() as stub:
        endpoint = Endpoint(model="elsewhere", base_url=stub.url, concurrency=1)
        other = AnswerSource(endpoint=endpoint, count=1, sampling=SamplingConfig(temperature=0.25))
        from_sources(context, stage, AnswerSource(count=2), other)
    settings = [(body["temperature"], body["top_p"], body["max_tokens"]) for body in stub.bodies]
    assert settings == [(0.25, 0.75, 7)] * 2
    assert [body["seed"] for body in stub.bodies] == [candidate_seed(7, 0, 0, "a", 2), candidate_seed(7, 0, 1, "b", 2)]


def test_an_endpoint_is_the_provenance_of_its_answers() -> None:
    endpoint = Endpoint(model="elsewhere", base_url="http://127.0.0.1:9/v1")
    sources = [AnswerSource(endpoint=endpoint, count=1), AnswerSource(endpoint=endpoint, count=1, name="named")]
    assert labels(sources, "please") == ["elsewhere", "named"]


def test_given_prompts_take_the_place_of_the_stages(context: Context) -> None:
    prompt = Prompt("b", (Message("user", "other words"),))
    groups = drawn(context, GenerateStage(kind="generate", model="please", count=1), [Example(prompt, ())])
    assert [group.prompt for group in groups] == [prompt]


def test_answers_of_another_model_are_in_the_tokens_of_the_stages_model(context: Context) -> None:
    stage = GenerateStage(kind="generate", model="please", environment=ENVIRONMENT)
    [group] = from_sources(context, stage, AnswerSource(source="the", count=1))
    [trajectory] = group.trajectories
    assert [segment.author for segment in trajectory.segments] == ["template", "dataset"]
    assert not trajectory.logprobs  # those of the other model are none of this one
    dialogue = Prompt("b", (*EXAMPLES[1].prompt.messages, *trajectory.turns))
    assert [turn.content for turn in trajectory.turns] == ["the 0", "please", "the 0", "please"]
    assert trajectory.token_ids == encode_example(load_tokenizer(context.folder), dialogue, "the 0")[0]


def test_the_environment_replies_until_the_stages_last_turn(context: Context) -> None:
    stage = GenerateStage(kind="generate", model="please", count=1, environment=ENVIRONMENT)
    assert [len(group.trajectories[0].turns) for group in drawn(context, stage)] == [4, 4]
    cut = stage.model_copy(update={"max_turns": 2})
    assert [len(group.trajectories[0].turns) for group in drawn(context, cut)] == [2, 2]


class SilentPool(Pool):
    """Writes nothing."""

    async def finished(self) -> AsyncGenerator[Finished, None]:
        await asyncio.sleep(3600.0)
        yield Finished("never")


class SilentContext(Context):
    """Its engines are stuck."""

    async def pool(self, folder: str) -> Pool:
        return SilentPool("please", folder, ())


def test_engines_have_the_deadline_of_a_call(context: Context) -> None:
    stuck = SilentContext(context.folder, context.earlier, call_timeout=0.2)
    with pytest.raises(DeadlineError, match="none finished within 0 s"):
        asyncio.run(asyncio.wait_for(drawing(stuck, GenerateStage(kind="generate", model="please")), 5.0))
