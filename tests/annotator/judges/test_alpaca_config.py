from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import rayalign.annotator
from rayalign.annotator.endpoints.language_model import Completion
from rayalign.annotator.judges.alpaca_config import AlpacaEvalJudge, load
from rayalign.annotator.judges.prompted import LLMJudge
from rayalign.config import AlpacaEvalJudgeConfig
from rayalign.errors import InputError
from rayalign.types import Message, Prompt

SHIPPED = Path(sys.prefix) / "clients" / "alpaca_eval" / "evaluators_configs"


class Silent:
    origin: Mapping[str, str] = {}

    async def complete(self, prompt: object, arguments: object, paying: object) -> Completion:
        raise AssertionError("nothing is asked here")


def entry(**given: Any) -> dict[str, Any]:
    settings = {"prompt_template": "mine/prompt.txt", "completions_kwargs": {"model_name": "gpt-4o"}, **given}
    return {
        "completion_parser_kwargs": {"outputs_to_match": {1: "A", 2: "B"}},
        **{key: value for key, value in settings.items() if value is not None},
    }


def folder(home: Path, entries: dict[str, Any]) -> AlpacaEvalJudgeConfig:
    (home / "mine").mkdir()
    (home / "mine" / "configs.yaml").write_text(yaml.safe_dump(entries), encoding="utf-8")
    (home / "mine" / "prompt.txt").write_text("{instruction} {output_1} {output_2}", encoding="utf-8")
    return AlpacaEvalJudgeConfig(kind="alpaca_eval", folder=str(home / "mine"))


def judge(found: AlpacaEvalJudge) -> LLMJudge:
    return LLMJudge(found.config, Silent(), explanations=found.explanations)


def test_a_folder_becomes_our_settings(tmp_path: Path) -> None:
    kwargs = {
        "model_name": "gpt-3.5-turbo-0301",
        "max_tokens": 7,
        "temperature": 0,
        "top_p": 0.9,
        "price_per_token": "2e-6",
        "num_procs": 3,
        "client_kwargs": {"base_url": "http://there/v1", "timeout": 5},
    }
    given = entry(completions_kwargs=kwargs, is_randomize_output_order=False, link="https://example.invalid")
    found = load(folder(tmp_path, {"mine": given}))
    config = found.config
    assert found.name == "mine"
    assert (config.model, config.max_tokens, config.temperature, config.legacy) == ("gpt-3.5-turbo-0301", 7, 0.0, False)
    assert config.arguments == {"top_p": 0.9}
    assert config.parser.name == "regex_parser" and config.parser.arguments == {"outputs_to_match": {1: "A", 2: "B"}}
    assert (config.reads, config.batch_size, config.randomize_order) == ("text", 1, False)
    assert (config.price_per_prompt_token, config.price_per_completion_token) == (2e-6, 2e-6)
    assert (config.base_url, config.timeout, config.concurrency) == ("http://there/v1", 5.0, 3)
    assert judge(found).batch == 1


@pytest.mark.parametrize("form", ["weighted", "ranking", "text", "tool"])
def test_our_own_folders_are_judges_too(form: str) -> None:
    folder = Path(rayalign.annotator.__file__).parent / "evaluators_configs" / f"rayalign_{form}"
    made = judge(load(AlpacaEvalJudgeConfig(kind="alpaca_eval", folder=str(folder))))
    assert made.batch == 1 and made.estimate([(Prompt("p", (Message("user", "q"),)), "a", "b")]).price == 0.0


def test_what_a_folder_leaves_out_is_alpaca_evals_default(tmp_path: Path) -> None:
    config = load(folder(tmp_path, {"mine": entry(completions_kwargs={"model_name": "gpt-4-1106-preview"})})).config
    assert (config.max_tokens, config.temperature, config.randomize_order) == (2048, 0.7, True)
    assert config.price_per_prompt_token == 1e-5
    assert config.base_url is None and config.key_variable == "OPENAI_API_KEY"


@pytest.mark.parametrize(
    "model,extra,legacy",
    [
        ("gpt-3.5-turbo-instruct", {}, True),
        ("text-davinci-003", {}, True),
        ("gpt-3", {}, True),
        ("gpt-4", {}, False),
        ("my-instruct-model", {"requires_chatml": True}, False),
    ],
)
def test_the_endpoint_goes_by_the_models_name(tmp_path: Path, model: str, extra: dict[str, Any], legacy: bool) -> None:
    config = load(folder(tmp_path, {"mine": entry(completions_kwargs={"model_name": model, **extra})})).config
    assert config.legacy is legacy and config.arguments == {}


def test_the_job_overrides_where_the_model_is(tmp_path: Path) -> None:
    kwargs = {"model_name": "m", "client_kwargs": {"base_url": "http://there/v1"}}
    section = folder(tmp_path, {"mine": entry(completions_kwargs=kwargs)})
    section = section.model_copy(update={"base_url": "http://here/v1", "key_variable": "MY_KEY"})
    assert (load(section).config.base_url, load(section).config.key_variable) == ("http://here/v1", "MY_KEY")


def test_processors_name_the_explanation(tmp_path: Path) -> None:
    processors = {"ChainOfThoughtProcessor": {}, "JsonKeysToColumnProcessor": {"json_keys_to_keep": ["why"]}}
    found = load(folder(tmp_path, {"mine": entry(processors_to_kwargs=processors)}))
    assert {"concise_explanation", "why"} <= set(found.explanations)


def test_token_biases_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kwargs = {"model_name": "m", "tokens_to_avoid": ["Both"], "is_skip_multi_tokens_to_avoid": True}
    with caplog.at_level(logging.WARNING):
        config = load(folder(tmp_path, {"mine": entry(completions_kwargs=kwargs)})).config
    assert config.arguments == {} and "tokens_to_avoid" in caplog.text


def test_one_of_several_is_named(tmp_path: Path) -> None:
    section = folder(tmp_path, {"one": entry(), "two": entry(batch_size=1)})
    with pytest.raises(InputError, match="name one of one, two"):
        load(section)
    assert load(section.model_copy(update={"name": "two"})).name == "two"
    with pytest.raises(InputError, match="did you mean two"):
        load(section.model_copy(update={"name": "tow"}))


@pytest.mark.parametrize(
    "given,words",
    [
        ({"fn_completions": "anthropic_completions"}, "uses anthropic through"),
        ({"prompt_templates": "x"}, "did you mean prompt_template"),
        ({"prompt_template": None}, "prompt_template is missing"),
        ({"completions_kwargs": {}}, "model_name is None"),
        (
            {"completions_kwargs": {"model_name": "m", "client_kwargs": {"api_key": "sk"}}},
            "put the key in OPENAI_API_KEY",
        ),
        ({"completions_kwargs": {"model_name": "m", "temperature": "hot"}}, "temperature is 'hot'"),
        ({"completions_kwargs": "gpt-4"}, "expected a mapping"),
        ({"completion_key": "all"}, "expected one of completions, completions_all"),
        ({"fn_completion_parser": "regexp_parser"}, "did you mean regex_parser"),
        ({"random_seed_column": ["output_1"]}, "random_seed_column"),
        ({"is_shuffle": False, "batch_size": 2}, "is_shuffle"),
        ({"processors_to_kwargs": {"OwnProcessor": {}}}, "OwnProcessor is not known"),
    ],
)
def test_what_cannot_be_had_is_refused(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(folder(tmp_path, {"mine": entry(**given)}))


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    section = AlpacaEvalJudgeConfig(kind="alpaca_eval", folder=str(tmp_path))
    with pytest.raises(InputError, match="cannot be read"):
        load(section)
    (tmp_path / "configs.yaml").write_text("- 1", encoding="utf-8")
    with pytest.raises(InputError, match="maps no annotator's name"):
        load(section)


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="alpaca_eval is not installed beside the interpreter")
def test_shipped_folders_load_or_say_why_not() -> None:
    loaded, refused = [], {}
    for home in sorted(path for path in SHIPPED.iterdir() if (path / "configs.yaml").exists()):
        for name in yaml.safe_load((home / "configs.yaml").read_text(encoding="utf-8")):
            try:
                found = load(AlpacaEvalJudgeConfig(kind="alpaca_eval", folder=str(home), name=name))
            except InputError as error:
                refused[f"{home.name}/{name}"] = str(error)
                continue
            assert judge(found).batch in (1, 4, 5)
            loaded.append(f"{home.name}/{name}")
    assert "weighted_alpaca_eval_gpt4_turbo/weighted_alpaca_eval_gpt4_turbo" in loaded
    assert "alpaca_eval_gpt4_fn/alpaca_eval_gpt4_fn" in loaded
    assert sum(name.startswith("alpaca_farm/") for name in loaded) == 13
    assert len(loaded) > 40 and all("only openai_completions is supported" in why for why in refused.values())
