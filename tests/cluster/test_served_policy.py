"""The deployed policy: real Ray Serve, a real vLLM engine with several adapters, OpenAI's own client."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from rayalign.cluster.applications import stop_applications
from rayalign.cluster.served_policy import start
from rayalign.config import ServedPolicyConfig
from rayalign.data.chat import load_tokenizer, prompt_ids, stop_ids
from rayalign.data.paddock import prompts
from rayalign.errors import InputError
from rayalign.models.merge import merge_into
from rayalign.serving.inputs import read_inputs
from rayalign.types import Prompt
from tests.ports import held_port
from tests.serving.adapters import write_adapters

pytestmark = [pytest.mark.ray, pytest.mark.vllm]
TOKEN = "a-token-for-tests"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
PROFILES = ({"P1A": 0.5, "P2B": 0.3, "P3A": 0.2}, {"P1B": 0.9, "P2B": 0.4})
LONGEST = 16


@pytest.fixture(scope="module")
def adapters(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_adapters(model, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def service(
    ray_session: None, model: str, adapters: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a policy with two merged adapters at most."""
    cache = tmp_path_factory.mktemp("policy")
    with pytest.MonkeyPatch.context() as patch, held_port() as port:
        patch.setenv("RAYALIGN_TOKENS", f"tests:{TOKEN}")
        config = ServedPolicyConfig(model=model, adapters=adapters, merged=2, cache=str(cache), context=96, port=port)
        yield start(config, read_inputs(config))
        stop_applications()


@pytest.fixture(scope="module")
def client(service: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service}/v1", api_key=TOKEN, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def questions() -> list[Prompt]:
    return list(prompts(0, "test", 6))


def answers(
    client: openai.OpenAI, questions: list[Prompt], weights: list[dict[str, float] | None], **settings: Any
) -> list[Any]:
    """The replies to all questions under each of the weights, all requested at once."""
    requests = [(question, each) for each in weights for question in questions]

    def ask(request: tuple[Prompt, dict[str, float] | None]) -> Any:
        question, each = request
        messages: Any = [{"role": m.role, "content": m.content} for m in question.messages]
        body = {} if each is None else {"weights": each}
        fields: dict[str, Any] = {"temperature": 0, "max_tokens": LONGEST, **settings}
        return client.chat.completions.create(model="base", messages=messages, extra_body=body, **fields)

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(ask, requests))


def written_alone(folder: Path, questions: list[Prompt]) -> list[str]:
    """What a model writes greedily by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(str(folder))
    model = AutoModelForCausalLM.from_pretrained(folder)
    texts = []
    for question in questions:
        ids = torch.tensor([prompt_ids(tokenizer, question)])
        ends = list(stop_ids(tokenizer))
        with torch.no_grad():
            whole = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=LONGEST, eos_token_id=ends
            )
        texts.append(tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True).strip())
    return texts


def test_profiles_served_at_once_write_what_their_merged_models_write(
    client: openai.OpenAI, model: str, adapters: dict[str, str], questions: list[Prompt], tmp_path: Path
) -> None:
    replies = answers(client, questions, [*PROFILES, None])
    served = [reply.choices[0].message.content.strip() for reply in replies]
    expected = []
    for number, weights in enumerate(PROFILES):
        folder = tmp_path / str(number)
        merge_into(model, [adapters[name] for name in weights], list(weights.values()), folder)
        expected += written_alone(folder, questions)
    expected += written_alone(Path(model), questions)
    assert served == expected
    count = len(questions)
    first, second, base = (served[start : start + count] for start in range(0, 3 * count, count))
    assert first != second and first != base and second != base
    assert {reply.model for reply in replies} == {"P1A*0.5+P2B*0.3+P3A*0.2", "P1B*0.9+P2B*0.4", "base"}


def test_a_stream_is_the_same_answer_in_pieces(client: openai.OpenAI, questions: list[Prompt]) -> None:
    (whole,) = answers(client, questions[:1], [PROFILES[0]])
    (stream,) = answers(client, questions[:1], [PROFILES[0]], stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage and whole.usage.completion_tokens <= LONGEST


def test_a_profile_is_merged_once_and_the_oldest_goes(
    client: openai.OpenAI, service: str, questions: list[Prompt]
) -> None:
    before = httpx.get(f"{service}/v1/merged", headers=HEADERS, timeout=60).json()
    answers(client, questions, [PROFILES[0], PROFILES[1]])
    assert httpx.get(f"{service}/v1/merged", headers=HEADERS, timeout=60).json() == before
    (third,) = answers(client, questions[:1], [{"P3A": 1.0}])
    assert third.model == "P3A"
    after = httpx.get(f"{service}/v1/merged", headers=HEADERS, timeout=60).json()
    assert after == {"adapters": 2, "limit": 2, "merges": before["merges"] + 1, "evictions": before["evictions"] + 1}
    (again,) = answers(client, questions[:1], [PROFILES[0]])
    assert again.choices[0].message.content is not None


def test_wrong_requests_are_refused_with_a_reason(client: openai.OpenAI, questions: list[Prompt]) -> None:
    with pytest.raises(openai.BadRequestError, match="two poles of expertise"):
        answers(client, questions[:1], [{"P1A": 0.5, "P1B": 0.5}])
    long: Any = [{"role": "user", "content": "ada " * 200}]
    with pytest.raises(openai.BadRequestError, match="the model's context 96; shorten it"):
        client.chat.completions.create(model="P1A", messages=long)
    with pytest.raises(openai.BadRequestError, match="the model's context 96; shorten it"):
        client.chat.completions.create(model="P1A", messages=long, stream=True)
    with pytest.raises(openai.NotFoundError, match="there is no model 'P9'"):
        client.chat.completions.create(model="P9", messages=long)


def test_what_serves_already_is_left_alone(service: str, model: str) -> None:
    config = ServedPolicyConfig(model=model, port=0)
    with pytest.raises(InputError, match=r"runs on this cluster already \(applications: policy\)"):
        start(config, read_inputs(config), "another")
    assert httpx.get(f"{service}/readyz", timeout=60).status_code == 200
