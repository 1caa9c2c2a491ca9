"""Rules as scorers: what can be verified about an answer without a model.

Each rule is a pure function of the answer, of the reference answer where it needs one, and of its settings.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Hashable, Sequence
from fractions import Fraction

from rayalign.config import ExactRule, FormatRule, LengthRule, MajorityRule, NumericRule, RegexRule, RuleSection
from rayalign.types import Group, Prompt, Score

MARK = "####"
"""stands before the final answer in GSM8K's format"""
MAX_DIGITS = 400
"""of a number; a longer run of digits is the noise of a degenerate answer"""
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)])[-+\u2212])?[$\u20ac\u00a3]?(?P<value>{_DIGITS}(?:\.\d+)?|(?<!\d)\.\d+)(?:/(?P<below>\d+))?",
    re.ASCII,
)
"""a minus after a digit, a letter or a bracket is an operator, not a sign"""
_FORMS = {
    "gsm8k": re.compile(rf"(.*\n)?{MARK} ?{_NUMBER.pattern}\s*", re.DOTALL | re.ASCII),
    "think": re.compile(r"\s*<think>(?:(?!</?think>).)+</think>(?:(?!</?think>).)*\S\s*", re.DOTALL),
}
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class RuleScorer:
    """Scores each answer by one rule; reference answers come from the prompt's meta."""

    def __init__(self, rule: RuleSection) -> None:
        self._rule = rule

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """As `Scorer.score`."""
        scores: list[tuple[Score, ...]] = []
        for group in groups:
            answers = [trajectory.text for trajectory in group.trajectories]
            if isinstance(self._rule, MajorityRule):
                scores.append(majority(self._rule, answers))
            else:
                scores.append(tuple(apply(self._rule, group.prompt, answer) for answer in answers))
        return scores


def majority(rule: MajorityRule, answers: Sequence[str]) -> tuple[Score, ...]:
    """The share of the answers to one prompt that agree with each; absent where an answer has no final number."""
    votes = [_vote(rule, answer) for answer in answers]
    counts = Counter(vote for vote in votes if vote is not None)
    total = max(counts.total(), 1)
    return tuple(
        Score(None, f"the answer {answer[:40]!r} holds no final number")
        if vote is None
        else Score(counts[vote] / total)
        for answer, vote in zip(answers, votes, strict=True)
    )


def _vote(rule: MajorityRule, answer: str) -> Hashable:
    """What an answer votes for; None without a final number."""
    if rule.answer == "number":
        return final_number(answer, marked=rule.marked)
    return " ".join(answer.casefold().split())


def apply(rule: RuleSection, prompt: Prompt, answer: str) -> Score:
    """The score of an answer, 0 to 1; absent where the prompt lacks the reference answer that the rule needs."""
    if isinstance(rule, RegexRule):
        return Score(float(matches(answer, rule.pattern, whole=rule.whole)))
    if isinstance(rule, LengthRule):
        length = len(answer.split()) if rule.unit == "words" else len(answer)
        return Score(length_band(length, rule.low, rule.high, rule.margin))
    if isinstance(rule, FormatRule):
        return Score(float(has_form(answer, rule.form)))
    reference = prompt.meta.get(rule.reference)
    if reference is None:
        return Score(None, f"prompt {prompt.id} has no {rule.reference!r} in its meta")
    if isinstance(rule, NumericRule):
        return _numeric(rule, answer, reference)
    assert isinstance(rule, ExactRule), f"the rule {rule.kind} has no function here"
    same = exact_match(answer, reference, ignore_case=rule.ignore_case, ignore_punctuation=rule.ignore_punctuation)
    return Score(float(same))


def _numeric(rule: NumericRule, answer: str, reference: str) -> Score:
    expected = final_number(reference)
    if expected is None:
        return Score(None, f"the reference answer {reference[:40]!r} holds no number")
    value = final_number(answer, marked=rule.marked)
    return Score(float(value is not None and abs(value - expected) <= Fraction(str(rule.tolerance))))


def exact_match(answer: str, reference: str, *, ignore_case: bool = True, ignore_punctuation: bool = False) -> bool:
    """Whether two texts are equal but for white space."""
    texts = [answer, reference]
    if ignore_punctuation:
        texts = [text.translate(_PUNCTUATION) for text in texts]
    if ignore_case:
        texts = [text.casefold() for text in texts]
    first, second = (" ".join(text.split()) for text in texts)
    return first == second


def final_number(text: str, *, marked: bool = False) -> Fraction | None:
    """The number after the first `####` (GSM8K: Cobbe 2021, arXiv 2110.14168), else the last number of the text.

    Reads signs, currency signs, thousands separators, decimals and fractions. None where there is no number; with
    `marked` also where there is no mark. Numbers longer than `MAX_DIGITS` are left out.
    """
    _, mark, after_mark = text.partition(MARK)
    if mark:
        numbers = _numbers(after_mark.partition("\n")[0])
        return numbers[0] if numbers else None
    numbers = [] if marked else _numbers(text)
    return numbers[-1] if numbers else None


def _numbers(text: str) -> list[Fraction]:
    numbers: list[Fraction] = []
    for match in _NUMBER.finditer(text):
        if len(match.group()) > MAX_DIGITS:
            continue
        value = Fraction(match["value"].replace(",", ""))
        divisor = int(match["below"] or 1)
        if divisor:
            negative = match["sign"] in ("-", "\u2212")
            numbers.append((-value if negative else value) / divisor)
    return numbers


def matches(answer: str, pattern: str, *, whole: bool = False) -> bool:
    """Whether the answer contains the pattern, or with `whole` is an instance of it."""
    search = re.fullmatch if whole else re.search
    return search(pattern, answer) is not None


def length_band(length: int, low: int, high: int, margin: int = 0) -> float:
    """1 from `low` to `high`, falling in a straight line to 0 at `margin` + 1 below or above."""
    excess = max(low - length, length - high, 0)
    return max(0.0, 1.0 - excess / (margin + 1))


def has_form(answer: str, form: str) -> bool:
    """Whether the answer has the form: `gsm8k`, `think` or `json` (see `FormatRule`)."""
    if form != "json":
        return _FORMS[form].fullmatch(answer) is not None
    try:
        json.loads(answer)
    except (ValueError, RecursionError):  # the latter where it nests too deep
        return False
    return True
