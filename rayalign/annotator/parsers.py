"""From a judge's answer to preferences: alpaca_eval's completion parsers, by their names and with their arguments.

The parsers agree with alpaca_eval 0.6.6, and evaluate nothing but literals. A pair is left without a verdict where
alpaca_eval would stop the whole run (a value outside [1, 2], a boolean), never end (a pattern that matches the empty
text) or call NaN scores a tie. One has a verdict where alpaca_eval fails: behind a reasoning model's thoughts, and in
JSON with prose around it.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, cast, get_type_hints

from pydantic import AfterValidator, Field, StrictInt, ValidationError, create_model

from rayalign.annotator.replies import after_thoughts
from rayalign.config import Section, explain, nearest
from rayalign.errors import InputError

Completed = str | Mapping[str, Any]
"""a completion's text, or its whole choice in OpenAI's schema where log-probs are read"""
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""errors that parsing a model's text may raise"""
Values = Callable[[Any], list[Any]]
"""a completion, or a part of one, to its parsed values"""
_OPENING = re.compile(r"[{\[]")
_ROUNDING = 1e-9
_MOST_VERDICTS = 256
"""in one answer; the time to match them grows with the square of their number"""


class Parser:
    """One of alpaca_eval's parsers with its arguments."""

    def __init__(self, name: str, arguments: Mapping[str, Any] | None = None) -> None:
        """InputError when there is no such parser, or it can't take the arguments."""
        self.name = name
        self._parse = _bound(name, arguments or {})
        chain = (arguments or {}).get("parsers_to_kwargs", [name])
        self.reads_logprobs = next(iter(chain)) == "logprob_parser"
        """whether it parses the whole choice instead of the text"""

    def read(self, completion: Completed, count: int) -> tuple[list[float | None], str | None]:
        """The preferences of exactly `count` pairs, and the reason where any is absent.

        A completion with another number of verdicts is void as a whole: which verdict is whose is not known.
        """
        void: list[float | None] = [None] * count
        try:
            if isinstance(completion, str):
                completion = after_thoughts(completion)
            if completion == "":
                raise ValueError("it is empty")
            preferences = [_preference(value) for value in self._parse(completion)]
        except _UNREADABLE as error:
            return void, f"{self.name} cannot read the answer ({type(error).__name__}: {error}): {_start(completion)}"
        if len(preferences) != count:
            return void, f"{self.name} finds {len(preferences)} verdicts in place of {count}: {_start(completion)}"
        if None in preferences:
            return preferences, f"{self.name} finds no preference between 1 and 2: {_start(completion)}"
        return preferences, None


def regex_parser(
    completion: str, outputs_to_match: Annotated[dict[Any, re.Pattern[str]], Field(min_length=1)]
) -> list[Any]:
    """The keys of the patterns in the order in which they match; of matches at one place the first pattern's."""
    keys: list[Any] = []
    while True:
        matches = [(pattern.search(completion), key) for key, pattern in outputs_to_match.items()]
        present = [(match, key) for match, key in matches if match is not None]
        if not present:
            return keys
        match, key = min(present, key=lambda pair: pair[0].start())
        if not match.end():
            raise ValueError(f"the pattern of {key} matches the empty text")
        if len(keys) == _MOST_VERDICTS:
            raise ValueError(f"it has more than {_MOST_VERDICTS} verdicts")
        keys.append(key)
        completion = completion[match.end() :]


def lmsys_parser(completion: str) -> list[Any]:
    """Two scores on the first line, higher is better; equal scores tie."""
    first, _, _ = completion.partition("\n")
    try:
        scores = [float(score) for score in first.replace(",", " ").split(" ")]
    except ValueError:
        return [math.nan]
    if len(scores) != 2 or any(map(math.isnan, scores)):
        return [math.nan]
    if scores[0] == scores[1]:
        return [0]
    return [1 if scores[0] > scores[1] else 2]


def ranking_parser(completion: str | Sequence[Mapping[str, Any]], model_1_name: str = "model_1") -> list[Any]:
    """The rank, 1 or 2, that a list of dicts with `model` and `rank` gives the first answer's model."""
    try:
        ranks = ast.literal_eval(completion) if isinstance(completion, str) else completion
        own = [entry for entry in ranks if entry["model"] == model_1_name]
        rank = own[0]["rank"]
    except _UNREADABLE:
        return [math.nan]
    return [rank if rank in (1, 2) else math.nan]


def json_parser(completion: str, annotation_key: str | None) -> list[Any]:
    """One key of a JSON object, or of each object of a list; a block fenced as json is read in place of the whole."""
    loaded = unfenced_json(completion)
    rows = [loaded] if isinstance(loaded, dict) else loaded
    return [row if annotation_key is None else row[annotation_key] for row in rows]


def eval_parser(completion: str) -> list[Any]:
    """A Python literal; a list holds one value for each pair."""
    value = ast.literal_eval(completion)
    return value if isinstance(value, list) else [value]


def replace_parser(
    completion: Any, replacer: Annotated[dict[Any, Any], Field(min_length=1)], default_replacer: Any = "auto"
) -> list[Any]:
    """The value of `replacer` for the completion; else the default, with "auto" the completion itself.

    A key may stand as JSON writes it, `"true"` for true: settings that went through `serve deploy` have no other.
    """
    key = completion if completion in replacer or isinstance(completion, str) else json.dumps(completion)
    default = completion if default_replacer == "auto" else default_replacer
    return [replacer.get(key, default)]


def logprob_parser(
    completion: Mapping[str, Any],
    numerator_token: str,
    denominator_tokens: list[str],
    is_binarize: bool = True,
    log_prob_index: Literal["batch"] | StrictInt = "batch",
) -> list[Any]:
    """2 - P(numerator) / sum of P(denominators), over the candidates of one token (an index) or of each ("batch").

    A token that is not among the candidates has probability 0; without any of them the pair has no preference.
    `is_binarize`: 1 where the numerator beats every other token, else 2.
    """
    tokens = completion["logprobs"]["content"]
    chosen = tokens if log_prob_index == "batch" else [tokens[log_prob_index]]
    if not chosen:
        raise ValueError("it has no token")
    names = {*denominator_tokens, numerator_token}
    values = []
    for token in chosen:
        logprobs = {top["token"]: top["logprob"] for top in token["top_logprobs"] if top["token"] in names}
        values.append(_weighed(logprobs, numerator_token, denominator_tokens, is_binarize))
    return values


def _chained(parsers_to_kwargs: Mapping[str, Mapping[str, Any] | None]) -> list[Values]:
    return [_bound(name, arguments or {}) for name, arguments in parsers_to_kwargs.items()]


def pipeline_meta_parser(
    completion: Any,
    parsers_to_kwargs: Annotated[dict[str, dict[str, Any] | None], Field(min_length=1), AfterValidator(_chained)],
    is_squeeze: bool = True,
) -> list[Any]:
    """Parsers in a row, bound to their arguments: each parses every value of the one before it."""
    return _piped(completion, cast(list[Values], parsers_to_kwargs), is_squeeze)


def unfenced_json(completion: str) -> Any:
    """The JSON value of a text: the whole of it, a block that is fenced, or the one value with prose around it.

    Raises:
        ValueError: there is none, or several.
    """
    if "```json" in completion:
        block = re.search(r"```json(.*?)```", completion, re.DOTALL)
        if block is None:
            raise ValueError("its json block is not closed")
        completion = block[1]
    try:
        return json.loads(completion)
    except ValueError:
        values = _embedded_json(completion)
        if len(values) > 1:
            raise ValueError(f"it holds {len(values)} JSON values, and which one is the verdict is not known") from None
        if not values:
            raise
        return values[0]


def _embedded_json(text: str) -> list[Any]:
    """The objects, and lists of objects, that stand in a text."""
    decoder = json.JSONDecoder()
    values: list[Any] = []
    place = 0
    while opening := _OPENING.search(text, place):
        place = opening.end()
        try:
            value, end = decoder.raw_decode(text, opening.start())
        except ValueError:
            continue
        if isinstance(value, dict) or (value and all(isinstance(entry, dict) for entry in value)):
            values.append(value)
            place = end
    return values


def _piped(completion: Any, chain: list[Values], squeeze: bool) -> list[Any]:
    if isinstance(completion, str) and not completion:
        raise ValueError("a value in it is empty")
    parse, *rest = chain
    values = parse(completion)
    if not rest:
        return values
    nested = [_piped(value, rest, squeeze) for value in values]
    return [inner[0] if squeeze and len(inner) == 1 else inner for inner in nested]


def _weighed(logprobs: Mapping[str, float], numerator: str, denominators: Sequence[str], binarize: bool) -> float:
    if not logprobs:
        return math.nan
    least = -math.inf
    first = logprobs.get(numerator, least)
    if binarize:
        rivals = [logprobs.get(token, least) for token in denominators if token != numerator]
        return 1 if all(first > rival for rival in rivals) else 2
    candidates = [logprobs.get(token, least) for token in denominators]
    top = max(candidates)
    if top == least:
        return math.nan
    return 2 - math.exp(first - top) / sum(math.exp(candidate - top) for candidate in candidates)


PARSERS: Mapping[str, Callable[..., list[Any]]] = {
    "regex_parser": regex_parser,
    "lmsys_parser": lmsys_parser,
    "ranking_parser": ranking_parser,
    "json_parser": json_parser,
    "eval_parser": eval_parser,
    "logprob_parser": logprob_parser,
    "pipeline_meta_parser": pipeline_meta_parser,
    "replace_parser": replace_parser,
}


def _preference(value: Any) -> float | None:
    """A parsed value as a preference: 0 was once a tie; a value that is no number from 1 to 2 is no verdict."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        return None
    if number == 0.0:
        return 1.5
    inside = 1.0 - _ROUNDING <= number <= 2.0 + _ROUNDING
    return min(max(number, 1.0), 2.0) if inside else None


def _start(completion: Completed) -> str:
    text = completion if isinstance(completion, str) else json.dumps(completion, default=str)
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _bound(name: str, arguments: Mapping[str, Any]) -> Values:
    """The parser with its arguments, which are checked against its signature."""
    if name not in PARSERS:
        raise InputError(f"parser: {name!r} is not known; {nearest(name, list(PARSERS))}")
    parser = PARSERS[name]
    hints = get_type_hints(parser, include_extras=True)
    fields: dict[str, tuple[Any, Any]] = {}
    for key, parameter in inspect.signature(parser).parameters.items():
        if key != "completion":
            required = parameter.default is parameter.empty
            fields[key] = (hints[key], ... if required else parameter.default)
    model: type[Section] = create_model(name, __base__=Section, **fields)  # type: ignore[call-overload]
    try:
        return partial(parser, **dict(model.model_validate(dict(arguments))))
    except ValidationError as error:
        raise InputError(explain(error, model, f"parser {name}")) from error
