"""The deployed application: real Ray Serve, a real reward model, a real vLLM engine, real clients."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
import ray
import torch

from rayalign.annotator.api import PairItem
from rayalign.annotator.client import AnnotatorClient
from rayalign.annotator.service import application, build, start
from rayalign.cluster.applications import stop_applications
from rayalign.config import ServiceConfig
from rayalign.data.paddock import gold, prompts
from rayalign.errors import InputError
from rayalign.models.classifier import Classifier
from tests.ports import held_port, open_addresses

pytestmark = [pytest.mark.ray, pytest.mark.vllm]
TOKEN = "a-token-for-tests"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A language model and a reward model of the smallest preset, with random weights."""
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    from rayalign.data.paddock.tokenizer import build_tokenizer
    from rayalign.models.load import make_preset

    folder, tokenizer = tmp_path_factory.mktemp("models"), build_tokenizer()
    make_preset("nano", tokenizer, 0, folder / "language")
    shape = LlamaForCausalLM.from_pretrained(folder / "language").config
    shape.num_labels = 1
    torch.manual_seed(0)
    LlamaForSequenceClassification(shape).save_pretrained(folder / "reward")
    tokenizer.save_pretrained(folder / "reward")
    return {name: str(folder / name) for name in ("language", "reward")}


@pytest.fixture(scope="module")
def service(ray_session: None, models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the application with all kinds of judges that need no network."""
    folder = tmp_path_factory.mktemp("service")
    hosted = {"kind": "vllm", "model": models["language"], "context": 256, "dtype": "float32", "cpus": 0.1}
    config = ServiceConfig.model_validate(
        {
            "cpus": 0.1,
            "queue": 500,
            "cache": f"sqlite:///{folder / 'verdicts.db'}",
            "access": {"token_variable": "RAYALIGN_TEST_TOKENS"},
            "annotators": {
                "gold": {"judge": {"kind": "rubric"}},
                "learned": {"judge": {"kind": "reward_model", "model": models["reward"], "cpus": 0.1}},
                "written": {"judge": {**hosted, "max_tokens": 8}, "pooled": False},
            },
        }
    )
    with pytest.MonkeyPatch.context() as patch, held_port() as port:
        patch.setenv("RAYALIGN_TEST_TOKENS", f"tests:{TOKEN}")
        patch.setenv("RAYALIGN_TOKEN", TOKEN)
        start(config.model_copy(update={"host": "0.0.0.0", "port": port}))
        yield f"http://127.0.0.1:{port}"
        stop_applications()


def rows(count: int) -> list[PairItem]:
    return [
        PairItem(messages=p.messages, meta=dict(p.meta), output_1=gold.oracle(p), output_2="ada eats hay .")
        for p in prompts(0, "test", count)
    ]


def test_a_judge_that_cannot_be_made_is_told_with_its_reason(ray_session: None, tmp_path: Path) -> None:
    judge = {"kind": "llm", "model": "judge", "template": "pairs", "key_variable": "RAYALIGN_TEST_NO_KEY"}
    settings = {"cpus": 0.1, "cache": f"sqlite:///{tmp_path}/a.db", "annotators": {"a": {"judge": judge}}}
    reason = "^judge judge: the environment variable RAYALIGN_TEST_NO_KEY holds no key"
    with held_port() as port, pytest.raises(InputError, match=reason):
        start(ServiceConfig.model_validate({**settings, "port": port}))


def test_a_service_opens_its_http_port_alone_to_other_machines(service: str) -> None:
    port = service.rpartition(":")[2]
    assert open_addresses() == {f"0.0.0.0:{port}"}


def test_the_rubric_prefers_the_oracle_and_is_asked_once(service: str) -> None:
    client = AnnotatorClient(service, "gold", rows=16)
    found = list(client.annotate(rows(50)))
    assert [a.index for a in found] == list(range(50)) and {a.preference for a in found} == {1.0}
    assert not any(a.cached for a in found) and all(a.cached for a in client.annotate(rows(50)))
    client.close()


def test_a_reward_model_scores_over_http_as_in_process(service: str, models: dict[str, str]) -> None:
    client = AnnotatorClient(service, "learned")
    items = [{"instruction": p.messages[-1].content, "output": gold.oracle(p)} for p in prompts(0, "test", 5)]
    replies = client.scores(items)
    alone = Classifier(models["reward"], context=2048)
    expected = [
        alone.scores([(PairItem(**item, output_1="", output_2="").prompt, out)])[0].value for item, out in split(items)
    ]
    assert [r.score for r in replies] == pytest.approx(expected, abs=1e-5)
    (ranking,) = client.rankings([{"instruction": "what is it ?", "outputs": ["a", "b", "c"]}])
    assert list(ranking.order) == sorted(range(3), key=lambda k: -(ranking.scores[k] or 0.0))
    client.close()


def split(items: list[dict[str, str]]) -> list[tuple[dict[str, str], str]]:
    return [({"instruction": item["instruction"]}, item["output"]) for item in items]


def test_a_hosted_model_that_cannot_judge_has_no_verdict_and_says_why(service: str) -> None:
    client = AnnotatorClient(service, "written")
    (found,) = client.annotate(rows(1))
    assert found.preference is None and found.reason
    metrics = httpx.get(f"{service}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60).text
    assert 'rayalign_tokens{judge="written"}' in metrics
    client.close()


def test_openais_endpoints_name_the_annotators_and_want_a_token(service: str) -> None:
    with openai.OpenAI(base_url=f"{service}/v1", api_key=TOKEN, max_retries=0, timeout=60) as client:
        assert [model.id for model in client.models.list()] == ["pool", "gold", "learned", "written"]
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{service}/v1", api_key="wrong-token", max_retries=0).models.list()


def test_too_much_at_once_is_429_with_the_time_to_come_again(service: str) -> None:
    body = {"annotator": "gold", "pairs": [r.model_dump(mode="json", exclude_defaults=True) for r in rows(400)]}
    replies: list[httpx.Response] = []

    def ask(seed: int) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        replies.append(
            httpx.post(f"{service}/v1/preferences", json={**body, "seed": seed}, headers=headers, timeout=60)
        )

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert {r.status_code for r in replies} == {200, 429}
    refused = next(r for r in replies if r.status_code == 429)
    assert int(refused.headers["Retry-After"]) >= 1 and "rate limit" in refused.json()["error"]["message"]


def test_a_client_outlives_a_replica_that_dies(service: str) -> None:
    client = AnnotatorClient(service, "gold", rows=8, connections=2, deadline=240)
    asked = client.annotate(rows(200), seed=7)
    found = [next(asked)]
    victims = [a for a in ray.util.list_named_actors(all_namespaces=True) if "front" in a["name"]]
    ray.kill(ray.get_actor(victims[0]["name"], namespace=victims[0]["namespace"]))
    found += list(asked)
    assert [a.index for a in found] == list(range(200)) and {a.preference for a in found} == {1.0}
    client.close()


def test_what_serves_already_is_left_alone(service: str) -> None:
    config = ServiceConfig.model_validate({"port": 0, "annotators": {"gold": {"judge": {"kind": "rubric"}}}})
    with pytest.raises(InputError, match=r"runs on this cluster already \(applications: annotator\)"):
        start(config, "annotator-of-a-run", replace=True)
    assert httpx.get(f"{service}/readyz", timeout=60).status_code == 200


def test_an_unknown_annotator_is_told_by_the_client(service: str) -> None:
    client = AnnotatorClient(service, "golt")
    with pytest.raises(InputError, match="did you mean gold"):
        list(client.annotate(rows(1)))
    client.close()


def test_a_deployed_application_scales_and_is_open_only_where_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"replicas": 1, "max_replicas": 3, "annotators": {"gold": {"judge": {"kind": "rubric"}}}}
    monkeypatch.setenv("RAYALIGN_TOKENS", f"tests:{TOKEN}")
    made = build(settings)
    monkeypatch.delenv("RAYALIGN_TOKENS")
    assert build({**settings, "access": {"open": True}})
    assert made._bound_deployment._deployment_config.autoscaling_config.max_replicas == 3


def test_a_replica_gets_the_settings_as_they_are() -> None:
    parser = {"name": "replace_parser", "arguments": {"replacer": {True: 1, None: 1.5, 0: 2}}}
    judge = {"kind": "llm", "model": "m", "template": "pairs", "parser": parser}
    config = ServiceConfig.model_validate({"annotators": {"remote": {"judge": judge}}})
    assert ServiceConfig.model_validate(application(config)._bound_deployment.init_args[0]) == config
