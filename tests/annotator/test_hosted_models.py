from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rayalign.annotator.completer import CompletionError
from rayalign.annotator.hosted_models import RemoteModel, RemoteScoring
from rayalign.annotator.verdicts import Bill, Usage
from rayalign.config import HostedJudgeConfig, RewardJudgeConfig
from rayalign.errors import ActorError, InputError
from rayalign.rollout.chat import Answer, ChatPrompt
from rayalign.types import Message, Prompt, Score

LANGUAGE = HostedJudgeConfig(kind="vllm", model="org/name")
REWARD = RewardJudgeConfig(kind="reward_model", model="org/name")
ITEM = (Prompt("0", (Message("user", "question"),)), "answer")


class Ledger:
    """Notes what a call holds back at most, and what it costs."""

    def __init__(self) -> None:
        self.most: list[Usage] = []
        self.bill = Bill()

    @asynccontextmanager
    async def paying(self, most: Usage, wait: float, lease: float) -> AsyncIterator[Bill]:
        self.most.append(most)
        yield self.bill


async def answer(prompt: ChatPrompt, settings: Mapping[str, Any]) -> Answer:
    """Writes the settings that reached it."""
    return Answer(repr(dict(settings)), "stop", ({"yes": -0.5, "no": -1.0},), 3, 1)


def test_a_judges_arguments_reach_the_engine_under_its_names() -> None:
    ledger = Ledger()
    arguments = {"max_tokens": 4, "temperature": 0.0, "logprobs": True, "top_logprobs": 2, "tools": [], "seed": None}
    completion = asyncio.run(RemoteModel(answer, LANGUAGE, 1.0).complete("text", arguments, ledger.paying))
    assert completion.text == "{'max_tokens': 4, 'temperature': 0.0, 'logprobs': 2}"
    (token,) = completion.choice["logprobs"]["content"]
    assert token["token"] == "yes" and [t["logprob"] for t in token["top_logprobs"]] == [-0.5, -1.0]
    assert (ledger.bill.cost.prompt_tokens, ledger.bill.cost.completion_tokens) == (3, 1)
    assert ledger.most[0].completion_tokens == 4


def test_a_model_that_fails_gives_no_answer_with_the_reason() -> None:
    async def refuse(prompt: ChatPrompt, settings: Mapping[str, Any]) -> Answer:
        raise InputError("the prompt has 9000 tokens, the model's context 2048; shorten it")

    with pytest.raises(CompletionError, match="9000 tokens"):
        asyncio.run(RemoteModel(refuse, LANGUAGE, 1.0).complete("text", {"max_tokens": 4}, Ledger().paying))


def test_a_reward_model_that_fails_or_is_late_leaves_scores_absent() -> None:
    async def fail(items: list[tuple[Prompt, str]]) -> list[Score]:
        raise ActorError("its process failed")

    async def hang(items: list[tuple[Prompt, str]]) -> list[Score]:
        await asyncio.sleep(60)
        return []

    for call, reason in ((fail, "its process failed"), (hang, "no answer within 0.01 s")):
        (score,) = asyncio.run(RemoteScoring(call, REWARD, 0.01).scores([ITEM]))
        assert score.value is None and score.reason is not None and reason in score.reason


def test_the_files_of_a_local_model_are_part_of_its_origin(tmp_path: Path) -> None:
    def origin(model: str) -> str:
        return RemoteModel(answer, HostedJudgeConfig(kind="vllm", model=model), 1.0).origin["model"]

    assert origin("org/name") == "org/name"
    (tmp_path / "weights").write_bytes(b"a")
    first = origin(str(tmp_path))
    (tmp_path / "weights").write_bytes(b"ab")
    assert first != origin(str(tmp_path)) != origin("org/name")
