"""Judges of unchanged evaluators_configs folders of alpaca_eval."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import yaml
from pydantic import PositiveInt, ValidationError

from rayalign.annotator.judges.prompted import EXPLANATIONS
from rayalign.config import AlpacaEvalJudgeConfig, LLMJudgeConfig, Section, explain, nearest
from rayalign.errors import InputError

logger = logging.getLogger(__name__)
S = TypeVar("S", bound=Section)
_TRANSPORT = ("batch_size", "client_kwargs", "is_chat", "is_strip", "n_retries", "num_procs", "sleep_time")
"""arguments of alpaca_eval's own client, which are not sent"""
_BIASES = ("tokens_to_favor", "tokens_to_avoid", "is_skip_multi_tokens_to_avoid")
_PRICES = (
    ("gpt-4o-mini-2024-07-18", 0.15e-6), ("gpt-4-turbo", 1e-5), ("gpt-4-1106", 1e-5), ("gpt-4", 3e-5),
    ("gpt-3.5-turbo", 2e-6), ("text-davinci-003", 2e-5),
)  # fmt: skip
"""US dollars of one token, by a part of the model's name; the first that matches (alpaca_eval 0.6.6)"""


class _Entry(Section):
    """An annotator as a configs.yaml has it, with alpaca_eval's defaults; the last line's keys change no verdict."""

    prompt_template: str
    fn_completions: str = "openai_completions"
    completions_kwargs: dict[str, Any] = {}
    fn_completion_parser: str = "regex_parser"
    completion_parser_kwargs: dict[str, Any] = {}
    completion_key: Literal["completions", "completions_all"] = "completions"
    batch_size: PositiveInt = 1
    is_shuffle: bool = True
    is_randomize_output_order: bool = True
    random_seed_column: tuple[Literal["instruction"]] = ("instruction",)
    processors_to_kwargs: dict[str, dict[str, Any] | None] = {}
    is_add_default_processors: Any = None
    annotation_column: Any = None
    completion_column: Any = None
    packages_for_which_to_show_version: Any = None
    prfx_to_completion_cols: Any = None
    pretty_name: Any = None
    link: Any = None


class AlpacaEvalJudge(NamedTuple):
    """A folder's annotator in our settings."""

    name: str
    config: LLMJudgeConfig
    """its template is the path of the folder's file"""
    explanations: tuple[str, ...]
    """keys of a JSON answer that make the explanation"""


def load(section: AlpacaEvalJudgeConfig) -> AlpacaEvalJudge:
    """One annotator of a folder.

    Raises:
        InputError: there is no such folder, file or annotator, or it needs a feature of alpaca_eval alone.
    """
    file = _file(section.folder)
    entries = _entries(file)
    name = section.name or next(iter(entries))
    if name not in entries:
        raise InputError(f"{file}: there is no annotator {name!r}; {nearest(name, list(entries))}")
    if section.name is None and len(entries) > 1:
        raise InputError(f"{file} has {len(entries)} annotators; name one of {', '.join(entries)}")
    where = f"{file}: {name}"
    entry = _validated(_Entry, {key: value for key, value in entries[name].items() if value is not None}, where)
    _refuse_unsupported(entry, where)
    settings = {**_judge(entry, file), **_model(dict(entry.completions_kwargs), section, where)}
    config = _validated(LLMJudgeConfig, settings, where)
    return AlpacaEvalJudge(name, config, _explanations(entry, where))


def _file(folder: str | Path) -> Path:
    path = Path(folder)
    return path / "configs.yaml" if path.is_dir() or not path.suffix else path


def _entries(file: Path) -> dict[str, dict[str, Any]]:
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} cannot be read ({error}); give a folder of evaluators_configs") from error
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(e, dict) for e in loaded.values()):
        raise InputError(f"{file} maps no annotator's name to its settings; give a folder of evaluators_configs")
    return loaded


def _validated(kind: type[S], values: Mapping[str, Any], where: str) -> S:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(explain(error, kind, where)) from error


def _refuse_unsupported(entry: _Entry, where: str) -> None:
    client = entry.fn_completions
    if client != "openai_completions":
        vendor = client.removesuffix("_completions").replace("_", " ")
        raise InputError(
            f"{where} uses {vendor} through {client}; only openai_completions is supported: serve the model behind "
            "an OpenAI-compatible endpoint and name that in a copy of the folder"
        )
    if not entry.is_shuffle and entry.batch_size != 1:
        raise InputError(f"{where}: is_shuffle false goes with batch_size 1 only")


def _judge(entry: _Entry, file: Path) -> dict[str, Any]:
    """The settings that decide prompts and verdicts, without the model."""
    switched = "RandomSwitchTwoColumnsProcessor" in entry.processors_to_kwargs
    return {
        "kind": "llm",
        "template": str(file.absolute().parents[1] / entry.prompt_template),
        "parser": {"name": entry.fn_completion_parser, "arguments": entry.completion_parser_kwargs},
        "reads": "logprobs" if entry.completion_key == "completions_all" else "text",
        "batch_size": entry.batch_size,
        "randomize_order": switched or entry.is_randomize_output_order,
    }


def _model(arguments: dict[str, Any], section: AlpacaEvalJudgeConfig, where: str) -> dict[str, Any]:
    """The model and its request, with alpaca_eval's defaults; the other `arguments` are sent unchanged."""
    model = arguments.pop("model_name", None)
    if not isinstance(model, str):
        raise InputError(f"{where}: completions_kwargs.model_name is {model!r}; expected a model's name")
    client = arguments.get("client_kwargs") or {}
    if secrets := [k for k in ("api_key", "openai_api_keys") if k in client or k in arguments]:
        raise InputError(f"{where}: {secrets[0]} stands in the file; put the key in {section.key_variable}")
    if dropped := [k for k in _BIASES[:2] if arguments.get(k)]:
        logger.warning("%s: %s need OpenAI's tokenizer and are left out; give logit_bias", where, " and ".join(dropped))
    legacy = "instruct" in model or ("gpt-3" in model and "turbo" not in model) or model.startswith("text-")
    price = arguments.pop("price_per_token", None)
    if price is None:
        price = next((price for part, price in _PRICES if part in model), 0.0)
    settings: dict[str, Any] = {
        "model": model,
        "base_url": section.base_url or client.get("base_url"),
        "key_variable": section.key_variable,
        "legacy": not arguments.pop("requires_chatml", not legacy),  # by its name, as alpaca_eval guesses
        "max_tokens": arguments.pop("max_tokens", 2048),
        "temperature": arguments.pop("temperature", 0.7),
        "price_per_prompt_token": price,
        "price_per_completion_token": price,
    }
    if arguments.get("num_procs"):
        settings["concurrency"] = arguments["num_procs"]
    if "timeout" in client:
        settings["timeout"] = client["timeout"]
    settings["arguments"] = {k: v for k, v in arguments.items() if k not in (*_TRANSPORT, *_BIASES)}
    return settings


def _explanations(entry: _Entry, where: str) -> tuple[str, ...]:
    keys = list(EXPLANATIONS)
    for name, arguments in entry.processors_to_kwargs.items():
        match name:
            case "JsonKeysToColumnProcessor":
                keys += [key for key in (arguments or {}).get("json_keys_to_keep", ()) if key not in keys]
            case "ChainOfThoughtProcessor" | "PaddingForBatchesProcessor" | "RandomSwitchTwoColumnsProcessor":
                pass
            case _:
                raise InputError(f"{where}: the processor {name} is not known; leave it out")
    return tuple(keys)
