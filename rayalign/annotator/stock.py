"""Simulated annotators behind OpenAI's schema, for the unchanged alpaca_eval client (0.6.6): its judge prompt is taken
apart again, and the verdict is written in the form that the client's parser reads.

The client fills a template one placeholder after the other and escapes nothing. So that texts cannot move into another
slot unseen, the packaged templates (`evaluators_configs`) fence each slot with a delimiter that texts practically never
hold, and a prompt that could have come about in two ways gets no verdict.
"""

from __future__ import annotations

import json
import math
import re
from typing import Literal, cast

from rayalign.annotator.api import MAX_TEXT, PairItem
from rayalign.annotator.completions import Delta, Token
from rayalign.annotator.verdicts import Usage
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
    """The form that a judge prompt asks for, and its pair in the order shown, or why there can be no verdict on it.

    A prompt is ambiguous where a text holds a delimiter (or, sent as a dialogue, a ChatML tag, at which the client cuts
    the prompt), or the placeholder of a later slot: the client then put the later text there and left its slot as it
    was.

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
    # Counted first: with each delimiter there once, the search is linear in the text.
    found = _LAYOUT.search(text) if all(text.count(delimiter) == 1 for delimiter in _DELIMITERS) else None
    if found is None:
        return "the prompt's delimiters are not whole: a text holds one of them, or a ChatML tag cut the prompt"
    texts = found.groups()
    moved = [slot for slot, content in zip(_SLOTS, texts, strict=True) if content == f"{{{slot}}}"]
    if moved:
        return f"the slot {moved[0]} was left unfilled: a text before it holds the placeholder {{{moved[0]}}}"
    if max(map(len, texts)) > MAX_TEXT:
        return f"a text is longer than {MAX_TEXT} characters"
    return PairItem(instruction=texts[0], output_1=texts[1], output_2=texts[2])


def compose(form: Form, preference: float | None, reason: str | None, *, tool: str = "") -> Delta:
    """The reply that the client's parser turns into the preference.

    `weighted` carries every preference from 1 to 2, `text` also a tie, `ranking` and `tool` no tie; where a form cannot
    carry a probability, the likelier answer is named. No verdict (or a tie that cannot be told) is a reply that the
    client's parsers refuse, so that it records null and goes on; an error would end its run.

    Args:
        preference: as AlpacaFarm's, of the answers in the order shown; None: no verdict.
        reason: why there is none.
        tool: the function that the request wants called.
    """
    usage = Usage()
    if preference is not None and form == "weighted":
        token = _weighted(preference)
        return Delta(token.text, "stop", (token,), usage=usage)
    if preference == 1.5 and form in ("ranking", "tool"):
        preference, reason = None, f"a tie, which the form {form} cannot tell; rayalign_weighted can"
    if preference is None:
        # Brackets of another shape: a regular expression for an answer must not find it in the reason.
        told = (reason or "none given").translate(str.maketrans("()[]{}", "<><><>"))
        return Delta(f"No verdict: {told}", "stop", usage=usage)
    if form == "text":
        answer = "Tie" if preference == 1.5 else "Output (a)" if preference < 1.5 else "Output (b)"
        return Delta(answer, "stop", usage=usage)
    ranks = (1, 2) if preference < 1.5 else (2, 1)
    ranking = [{"model": f"model_{i}", "rank": rank} for i, rank in enumerate(ranks, 1)]
    if form == "ranking":
        return Delta(repr(ranking), "stop", usage=usage)
    return Delta("", "tool_calls", tool=(tool, json.dumps({"ordered_models": ranking})), usage=usage)


def _weighted(preference: float) -> Token:
    """One token: `m` for the first answer, `M` for the second, each with its probability."""
    second = preference - 1.0
    top = {name: math.log(p) if p > 0.0 else -math.inf for name, p in (("m", 1.0 - second), ("M", second))}
    name = "m" if second <= 0.5 else "M"
    return Token(name, top[name], top)
