"""Judges of alpaca_eval's evaluators_configs folders, as they are."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from rayalign.annotator.llm import EXPLANATIONS
from rayalign.config import AlpacaEvalJudgeConfig, LLMJudgeConfig, explain, nearest
from rayalign.errors import InputError

logger = logging.getLogger(__name__)
_FIELDS = (
    "prompt_template", "fn_completions", "completions_kwargs", "fn_completion_parser", "completion_parser_kwargs",
    "completion_key", "batch_size", "is_shuffle", "is_randomize_output_order", "processors_to_kwargs",
    "is_add_default_processors", "annotation_column", "completion_column", "packages_for_which_to_show_version",
    "prfx_to_completion_cols", "random_seed_column", "pretty_name", "link",
)  # fmt: skip
_TRANSPORT = ("batch_size", "client_kwargs", "is_chat", "is_strip", "n_retries", "num_procs", "sleep_time")
"""arguments of alpaca_eval's own client, which are not sent"""
_BIASES = ("tokens_to_favor", "tokens_to_avoid", "is_skip_multi_tokens_to_avoid")
_READS = {"completions": "text", "completions_all": "logprobs"}
_PRICES = (
    ("gpt-4o-mini-2024-07-18", 0.15e-6), ("gpt-4-turbo", 1e-5), ("gpt-4-1106", 1e-5), ("gpt-4", 3e-5),
    ("gpt-3.5-turbo", 2e-6), ("text-davinci-003", 2e-5),
)  # fmt: skip
"""US dollars of one token, by what the model's name holds; the first that fits (alpaca_eval 0.6.6)"""


class AlpacaEvalJudge(NamedTuple):
    """What a folder says, in our terms."""

    name: str
    config: LLMJudgeConfig
    """its template is the path of the folder's file"""
    explanations: tuple[str, ...]
    """keys of a JSON answer that are kept as the explanation"""


def names(folder: str | Path) -> list[str]:
    """The annotators of a folder. InputError when it holds no readable configs.yaml."""
    return list(_entries(_file(folder)))


def load(section: AlpacaEvalJudgeConfig) -> AlpacaEvalJudge:
    """One annotator of a folder.

    Raises:
        InputError: there is no such folder, file or annotator, or it asks for what only alpaca_eval has.
    """
    file = _file(section.folder)
    entries = _entries(file)
    name = section.name or next(iter(entries))
    if name not in entries:
        raise InputError(f"{file}: there is no annotator {name!r}; {nearest(name, list(entries))}")
    if section.name is None and len(entries) > 1:
        raise InputError(f"{file} has {len(entries)} annotators; name one of {', '.join(entries)}")
    entry, where = entries[name], f"{file}: {name}"
    _check(entry, where)
    arguments = dict(entry.get("completions_kwargs") or {})
    try:
        config = LLMJudgeConfig(kind="llm", **_judge(entry, file), **_model(arguments, section, where))
    except ValidationError as error:
        raise InputError(explain(error, LLMJudgeConfig, where)) from error
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


def _check(entry: Mapping[str, Any], where: str) -> None:
    for key in entry:
        if key not in _FIELDS:
            raise InputError(f"{where}: {key} is not known; {nearest(key, _FIELDS)}")
    if not isinstance(entry.get("prompt_template"), str):
        raise InputError(f"{where}: prompt_template is {entry.get('prompt_template')!r}; expected the path of a file")
    for key in ("completions_kwargs", "completion_parser_kwargs", "processors_to_kwargs"):
        if not isinstance(entry.get(key) or {}, Mapping):
            raise InputError(f"{where}: {key} is {entry[key]!r}; expected a mapping")
    client = entry.get("fn_completions", "openai_completions")
    if client != "openai_completions":
        vendor = str(client).removesuffix("_completions").replace("_", " ")
        raise InputError(
            f"{where} asks {vendor} through {client}; only openai_completions is spoken here: serve the model behind "
            "an OpenAI-compatible endpoint and name that in a copy of the folder"
        )
    key = entry.get("completion_key", "completions")
    if key not in _READS:
        raise InputError(f"{where}: completion_key is {key!r}; expected one of {', '.join(_READS)}")
    if list(entry.get("random_seed_column", ["instruction"])) != ["instruction"]:
        raise InputError(f"{where}: random_seed_column must be [instruction]: the order is drawn from nothing else")
    if not entry.get("is_shuffle", True) and entry.get("batch_size", 1) != 1:
        raise InputError(f"{where}: is_shuffle false goes with batch_size 1 only")


def _judge(entry: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """What decides prompts and verdicts, but the model."""
    switched = "RandomSwitchTwoColumnsProcessor" in (entry.get("processors_to_kwargs") or {})
    parser = {
        "name": entry.get("fn_completion_parser") or "regex_parser",
        "arguments": entry.get("completion_parser_kwargs") or {},
    }
    return {
        "template": str(file.absolute().parents[1] / entry["prompt_template"]),
        "parser": parser,
        "reads": _READS[entry.get("completion_key", "completions")],
        "batch_size": entry.get("batch_size", 1),
        "randomize_order": switched or entry.get("is_randomize_output_order", True),
    }


def _model(arguments: dict[str, Any], section: AlpacaEvalJudgeConfig, where: str) -> dict[str, Any]:
    """The model and how it is asked, with alpaca_eval's defaults; what is left of `arguments` is sent as it is."""
    model = arguments.pop("model_name", None)
    if not isinstance(model, str):
        raise InputError(f"{where}: completions_kwargs.model_name is {model!r}; expected a model's name")
    client = arguments.get("client_kwargs") or {}
    if secrets := [k for k in ("api_key", "openai_api_keys") if k in client or k in arguments]:
        raise InputError(f"{where}: {secrets[0]} stands in the file; put the key in {section.key_variable}")
    if dropped := [k for k in _BIASES[:2] if arguments.get(k)]:
        logger.warning("%s: %s need OpenAI's tokenizer and are left out; give logit_bias", where, " and ".join(dropped))
    chat = arguments.pop("requires_chatml", _is_chat(model))
    price = arguments.pop("price_per_token", None)
    found: dict[str, Any] = {
        "model": model,
        "base_url": section.base_url or client.get("base_url"),
        "key_variable": section.key_variable,
        "legacy": not chat,
        "max_tokens": arguments.pop("max_tokens", 2048),
        "temperature": arguments.pop("temperature", 0.7),
    }
    found["price_per_prompt_token"] = found["price_per_completion_token"] = _price(model) if price is None else price
    if arguments.get("num_procs"):
        found["concurrency"] = arguments["num_procs"]
    if "timeout" in client:
        found["timeout"] = client["timeout"]
    found["arguments"] = {k: v for k, v in arguments.items() if k not in (*_TRANSPORT, *_BIASES)}
    return found


def _explanations(entry: Mapping[str, Any], where: str) -> tuple[str, ...]:
    keys = list(EXPLANATIONS)
    for name, arguments in (entry.get("processors_to_kwargs") or {}).items():
        match name:
            case "JsonKeysToColumnProcessor":
                keys += [key for key in (arguments or {}).get("json_keys_to_keep", ()) if key not in keys]
            case "ChainOfThoughtProcessor" | "PaddingForBatchesProcessor" | "RandomSwitchTwoColumnsProcessor":
                pass
            case _:
                raise InputError(f"{where}: the processor {name} is not known; leave it out")
    return tuple(keys)


def _is_chat(model: str) -> bool:
    """alpaca_eval's guess, from its name, whether a model is asked by /v1/chat/completions."""
    return not ("instruct" in model or ("gpt-3" in model and "turbo" not in model) or model.startswith("text-"))


def _price(model: str) -> float:
    return next((price for part, price in _PRICES if part in model), 0.0)
