"""Simulated annotators behind OpenAI's schema, for the unchanged alpaca_eval client (0.6.6).

This module splits the client's judge prompt into its texts again, and writes the verdict in the form that the client's
parser reads. The client fills a template one placeholder after the other and escapes nothing. The packaged templates
(`evaluators_configs`) therefore fence each slot with a delimiter that texts practically never hold. A prompt that could
come from two different pairs gets no verdict.
"""

from __future__ import annotations

import json
import math
import re
from typing import Literal, cast

from rayalign.annotator.asking.api import PairItem
from rayalign.annotator.asking.bodies import MAX_TEXT
from rayalign.annotator.web.openai_answers import Answer, Token
from rayalign.errors import InputError

Form = Literal["weighted", "ranking", "tool", "text"]
_MARKER = re.compile(r"^rayalign pair, form (weighted|ranking|tool|text)$", re.MULTILINE)
"""the first line of every packaged template"""
_SLOTS = ("instruction", "output_1", "output_2")
_DELIMITERS = tuple(f"<<<rayalign-7f3a91c4 {name}>>>" for name in (*_SLOTS, "end"))
_LAYOUT = re.compile("\n(.*)\n".join(map(re.escape, _DELIMITERS)), re.DOTALL)


def is_pair(text: str) -> bool:
    """Whether a text was made from one of the packaged templates."""
    return _MARKER.search(text) is not None


def read_pair(text: str) -> tuple[Form, PairItem | str]:
    """The form of a judge prompt, and its pair in the order shown, or the reason why it gets no verdict.

    A prompt is ambiguous where a text holds a delimiter, or the placeholder of a later slot: the client then put the
    later text there and left that slot as it was. In a dialogue a ChatML tag is ambiguous too, since the client cuts
    the prompt at it.

    Raises:
        InputError: the prompt was not made from a packaged template.
    """
    marker = _MARKER.search(text)
    if marker is None:
        raise InputError(
            "this is no judge prompt of rayalign's alpaca_eval folders (rayalign_weighted, rayalign_ranking, "
            "rayalign_tool, rayalign_text); use one of them as --annotators_config, or POST /v1/preferences"
        )
    return cast(Form, marker[1]), _pair(text)


def _pair(text: str) -> PairItem | str:
    # Counting first keeps the search linear in the text: each delimiter stands there once.
    whole = all(text.count(delimiter) == 1 for delimiter in _DELIMITERS)
    match = _LAYOUT.search(text) if whole else None
    if match is None:
        return "the prompt's delimiters are not whole: a text holds one of them, or a ChatML tag cut the prompt"
    texts = match.groups()
    for slot, content in zip(_SLOTS, texts, strict=True):
        if content == f"{{{slot}}}":
            return f"the slot {slot} was left unfilled: a text before it holds the placeholder {{{slot}}}"
    if max(map(len, texts)) > MAX_TEXT:
        return f"a text is longer than {MAX_TEXT} characters"
    return PairItem(instruction=texts[0], output_1=texts[1], output_2=texts[2])


def compose(form: Form, preference: float | None, reason: str | None, *, tool: str = "") -> Answer:
    """The answer that the client's parser turns into the preference.

    `weighted` carries every preference from 1 to 2, `text` also a tie, `ranking` and `tool` no tie. A form without
    probabilities names the likelier answer. Without a verdict, or with a tie that the form cannot carry, the answer is
    one that the client's parsers refuse: the client then records null and goes on, where an error would end its run.

    Args:
        preference: AlpacaFarm's, of the answers in the order shown; None: no verdict.
        reason: why there is no preference.
        tool: the function that the request names.
    """
    if preference == 1.5 and form in ("ranking", "tool"):
        preference, reason = None, f"a tie, which the form {form} cannot carry; rayalign_weighted can"
    if preference is None:
        # Brackets of another shape: a regular expression for an answer must not match the reason.
        safe_reason = (reason or "none given").translate(str.maketrans("()[]{}", "<><><>"))
        return Answer(f"No verdict: {safe_reason}")
    if form == "weighted":
        token = _weighted(preference)
        return Answer(token.text, tokens=(token,))
    if form == "text":
        return Answer(_choice(preference))
    first_rank = 1 if preference < 1.5 else 2
    ranking = [{"model": "model_1", "rank": first_rank}, {"model": "model_2", "rank": 3 - first_rank}]
    if form == "ranking":
        return Answer(repr(ranking))
    return Answer(finish_reason="tool_calls", tool=(tool, json.dumps({"ordered_models": ranking})))


def _choice(preference: float) -> str:
    if preference == 1.5:
        return "Tie"
    return "Output (a)" if preference < 1.5 else "Output (b)"


def _weighted(preference: float) -> Token:
    """One token: `m` for the first answer, `M` for the second, each with its probability."""
    second = preference - 1.0
    top = {"m": _log(1.0 - second), "M": _log(second)}
    name = "m" if second <= 0.5 else "M"
    return Token(name, top[name], top)


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0.0 else -math.inf
