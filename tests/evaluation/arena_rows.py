"""Made-up rows of Arena-Hard in the public schemas of both versions, column by column as published."""

from __future__ import annotations

from typing import Any

JUDGE, MODEL = "judge", "knotter"
SYSTEM = "Weigh the two."
VERSIONS = ("v0.1", "v2.0")
BASELINES = {"v0.1": "gpt-4-0314", "v2.0": "o3-mini-2025-01-31"}

QUESTIONS: dict[str, dict[str, Any]] = {
    "v0.1": {
        "question_id": "9f1c",
        "category": "arena-hard-v0.1",
        "cluster": "Knots & Ropes",
        "turns": [{"content": "Name a knot."}],
    },
    "v2.0": {"uid": "77ab", "category": "hard_prompt", "subcategory": "coding", "prompt": "Name a knot."},
}


def style(tokens: int) -> dict[str, Any]:
    """Metadata of an answer, as the published script counts it."""
    headers = {"h1": 0, "h2": 1, "h3": 0, "h4": 0, "h5": 0, "h6": 0}
    lists = {"ordered": 2, "unordered": 3}
    return {"token_len": tokens, "header_count": headers, "list_count": lists, "bold_count": {"**": 4, "__": 5}}


def answer(version: str, model: str, text: str, tokens: int) -> dict[str, Any]:
    """A row of model_answer/MODEL.jsonl."""
    if version == "v0.1":
        return {
            "question_id": "9f1c",
            "answer_id": "K2nQ",
            "model_id": model,
            "choices": [{"index": 0, "turns": [{"content": text, "token_len": tokens}]}],
            "tstamp": 1711076966.5,
            "conv_metadata": style(tokens),
        }
    user = {"role": "user", "content": "Name a knot."}
    return {
        "uid": "77ab",
        "ans_id": "K2nQ",
        "model": model,
        "messages": [user, {"role": "assistant", "content": {"answer": text}}],
        "tstamp": 1744155079.5,
        "metadata": style(tokens),
    }


ANSWERS = {
    version: [answer(version, MODEL, "A bowline.", 4), answer(version, BASELINES[version], "A granny.", 3)]
    for version in VERSIONS
}

TEMPLATES = {
    "v0.1": "{question_1} A: {answer_1} B: {answer_2}",
    "v2.0": "{QUESTION} A: {ANSWER_A} B: {ANSWER_B}",
}
"""judge prompts of a user in the published names of the fields"""
BASELINE_FIRST = "Name a knot. A: A granny. B: A bowline."
MODEL_FIRST = "Name a knot. A: A bowline. B: A granny."


def judgment_text(prompt: str) -> str:
    """The judge of the rows below: it finds the bowline much better where it reads it first."""
    return "It holds. [[A>>B]]" if prompt == MODEL_FIRST else "It holds. [[B>A]]"


def _dialogue(prompt: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]


JUDGMENTS: dict[str, dict[str, Any]] = {
    "v0.1": {
        "question_id": "9f1c",
        "model": MODEL,
        "judge": JUDGE,
        "games": [
            {"user_prompt": BASELINE_FIRST, "judgment": "It holds. [[B>A]]", "score": "B>A"},
            {"user_prompt": MODEL_FIRST, "judgment": "It holds. [[A>>B]]", "score": "A>>B"},
        ],
    },
    "v2.0": {
        "uid": "77ab",
        "category": "hard_prompt",
        "judge": JUDGE,
        "model": MODEL,
        "baseline": "o3-mini-2025-01-31",
        "games": [
            {"score": "B>A", "judgment": {"answer": "It holds. [[B>A]]"}, "prompt": _dialogue(BASELINE_FIRST)},
            {"score": "A>>B", "judgment": {"answer": "It holds. [[A>>B]]"}, "prompt": _dialogue(MODEL_FIRST)},
        ],
    },
}
