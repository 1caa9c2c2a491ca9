"""Style control of Arena-Hard: the verdicts at equal length and markdown, by logistic regression.

    P(model wins) = sigmoid(strength of the model - strength of the baseline + style . coefficients)

Shapes: N battles, C cells (a model's answer to a prompt), M models, F features, R resamples.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rayalign.errors import InputError
from rayalign.evaluation.arena_games import (
    ROUNDS,
    Battle,
    Row,
    Rules,
    Standing,
    baseline_of,
    battles,
    best_first,
    count_nulls,
    in_categories,
)
from rayalign.statistics.intervals import Interval, bounds, numbered
from rayalign.statistics.logistic import fit, sigmoid

Array = npt.NDArray[np.float64]
Style = Mapping[str, Any]
"""an answer's `metadata`: token_len, and header_count, list_count and bold_count as numbers or as objects of them"""
Styles = Mapping[str, Mapping[Any, Style]]
"""model -> id of the prompt -> style of its answer"""

FEATURES = ("length", "headers", "lists", "bold")
COLUMNS = {"length": (0,), "markdown": (1, 2, 3)}
"""what can be controlled -> its features"""
_COUNTS = ("header_count", "list_count", "bold_count")
_BLOCK = re.compile(r"```[^`]*```")
_WORD = re.compile(r"\w+|[^\w\s]")
_LISTS = {"ordered": re.compile(r"^\s*\d+\.\s", re.M), "unordered": re.compile(r"^\s*[-*+]\s", re.M)}
_BOLD = {"**": re.compile(r"\*\*[^*\n]+\*\*"), "__": re.compile(r"__[^_\n]+__")}


class Controlled(NamedTuple):
    """The standings of one category at equal style."""

    standings: list[Standing]
    """`score` is the median over the bootstraps, with the 5th and 95th percentile"""
    coefficients: dict[str, float]
    """feature -> median coefficient: of one standard deviation, in log-odds"""


def style_of(text: str) -> dict[str, Any]:
    """The style of an answer: markdown outside of code blocks, and a length in words and marks.

    The public files count the tokens of gpt-4o; so compare styles that were counted in the same way.
    """
    prose = _BLOCK.sub("", text)
    headers = {}
    for level in range(1, 7):
        headers[f"h{level}"] = len(re.findall(rf"^#{{{level}}}\s", prose, re.M))
    lists = {name: len(pattern.findall(prose)) for name, pattern in _LISTS.items()}
    bold = {name: len(pattern.findall(prose)) for name, pattern in _BOLD.items()}
    tokens = len(_WORD.findall(text))
    return {"token_len": tokens, "header_count": headers, "list_count": lists, "bold_count": bold}


def style_features(model: Style | Sequence[Style], baseline: Style | Sequence[Style]) -> Array:
    """The difference in style of a model's answers and the baseline's: length, headers, lists, bold; not standardised.

    Length: (m - b) / (m + b) in tokens. Markdown: (m - b) / (m + b + 1) in elements for each token and one.

    Args:
        model: the `metadata` of an answer, or a whole row with it; or a sequence of either.
        baseline: of the same prompts.

    Returns:
        F features, or N rows of them for sequences.

    Raises:
        InputError: a style without its counts, or sequences of different lengths.
    """
    if isinstance(model, Mapping) and isinstance(baseline, Mapping):
        return _features(_counts([model]), _counts([baseline]))[0]
    if isinstance(model, Mapping) or isinstance(baseline, Mapping) or len(model) != len(baseline):
        raise InputError("arena-hard: style needs an answer of the baseline for each answer of the model")
    return _features(_counts(model), _counts(baseline))


def standardised(features_NF: Array) -> Array:
    """Each feature with mean 0 and sample deviation 1; a constant one is 0."""
    deviation_F = features_NF.std(axis=0, ddof=1) if len(features_NF) > 1 else np.zeros(features_NF.shape[1])
    varies_F = deviation_F > 1e-12
    centred_NF = features_NF - features_NF.mean(axis=0)
    return np.where(varies_F, centred_NF / np.where(varies_F, deviation_F, 1.0), 0.0)


def style_controlled(
    rows: Sequence[Row],
    styles: Styles,
    *,
    control: Sequence[str] = ("length", "markdown"),
    rules: Rules = "v2.0",
    categories: Sequence[str] | None = None,
    weight: int = 3,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> dict[str, Controlled]:
    """The standings of each category at equal style.

    Args:
        rows: as `leaderboard`.
        styles: of every judged model and of the baselines.
        control: length, markdown, or both.

    Raises:
        InputError: as `leaderboard`; nothing or something else to control; an answer without a style.
    """
    unknown = [name for name in control if name not in COLUMNS]
    if unknown or not control:
        raise InputError(f"arena-hard: style control takes {' and '.join(COLUMNS)}, not {', '.join(unknown) or 'none'}")
    columns: set[int] = set()
    for name in control:
        columns.update(COLUMNS[name])
    controlled = {}
    for category, judgments in in_categories(rows, categories).items():
        baseline = baseline_of(judgments)
        judgments = [row for row in judgments if row["model"] != baseline]
        scored = battles(judgments, rules=rules, weight=weight)
        if not scored:
            raise InputError(f"arena-hard: no judgment in {category} has a label; look at the judge's failures")
        table = _table(scored, baseline, styles, sorted(columns))
        counts = {name: count_nulls(judgments, name, rules) for name in table.names}
        controlled[category] = _controlled(table, baseline, counts, rounds, seed)
    return controlled


@dataclass(frozen=True, slots=True)
class _Table:
    """The regression's data, a row for each cell."""

    names: list[str]
    features: list[str]
    x_CK: Array
    """models, then features"""
    cell_N: npt.NDArray[np.int64]
    scores_N: Array
    prompts: list[str | int]
    """of each battle"""

    def coefficients(self, weights_N: Array, start_K: Array | None) -> Array:
        """The maximum-likelihood coefficients with a weight for each battle."""
        cells = len(self.x_CK)
        weight_C = np.bincount(self.cell_N, weights_N, cells).astype(np.float64)
        wins_C = np.bincount(self.cell_N, weights_N * self.scores_N, cells)
        label_C = np.divide(wins_C, weight_C, out=np.full(cells, 0.5), where=weight_C > 0.0)
        return fit(self.x_CK, label_C, weight_C, 0.0, start=start_K).coefficients


def _table(scored: Sequence[Battle], baseline: str, styles: Styles, columns: Sequence[int]) -> _Table:
    names = sorted({battle.model for battle in scored})
    cells: dict[tuple[str, str | int], int] = {}
    cell_N = np.array([cells.setdefault((battle.model, battle.prompt), len(cells)) for battle in scored])
    ours = [_style(styles, name, prompt) for name, prompt in cells]
    theirs = [_style(styles, baseline, prompt) for _, prompt in cells]
    features_CF = style_features(ours, theirs)
    # Standardised over the battles, of which a cell has two to six, as published.
    style_CF = standardised_by(features_CF, cell_N)
    model_CM = np.zeros((len(cells), len(names)))
    for row, (name, _) in enumerate(cells):
        model_CM[row, names.index(name)] = 1.0
    x_CK = np.concatenate([model_CM, style_CF[:, columns]], axis=1)
    scores_N = np.array([battle.score for battle in scored])
    prompts = [battle.prompt for battle in scored]
    return _Table(names, [FEATURES[column] for column in columns], x_CK, cell_N, scores_N, prompts)


def standardised_by(features_CF: Array, cell_N: npt.NDArray[np.int64]) -> Array:
    """The features of cells, standardised over the battles in them."""
    style_NF = standardised(features_CF[cell_N])
    style_CF = np.zeros_like(features_CF)
    style_CF[cell_N] = style_NF
    return style_CF


def _controlled(
    table: _Table, baseline: str, counts: Mapping[str, tuple[int, int]], rounds: int, seed: int
) -> Controlled:
    """The published bootstrap over battles, and a second one over prompts."""
    models = len(table.names)
    by_battle_RK = _resampled(table, range(len(table.scores_N)), rounds, seed)
    by_prompt_RK = _resampled(table, table.prompts, rounds, seed)
    rates_RM = 100.0 * sigmoid(by_battle_RK[:, :models])
    prompt_rates_RM = 100.0 * sigmoid(by_prompt_RK[:, :models])
    standings = [Standing(baseline, 50.0, 50.0, 50.0, None, 0, 0)]
    for index, name in enumerate(table.names):
        lower, score, upper = (float(bound) for bound in np.percentile(rates_RM[:, index], (5.0, 50.0, 95.0)))
        interval = Interval(score, *bounds(prompt_rates_RM[:, index]), len(set(table.prompts)))
        standings.append(Standing(name, score, lower, upper, interval, *counts[name]))
    medians = np.median(by_battle_RK[:, models:], axis=0)
    return Controlled(best_first(standings), dict(zip(table.features, map(float, medians), strict=True)))


def _resampled(table: _Table, clusters: Sequence[Hashable], rounds: int, seed: int) -> Array:
    """The coefficients on resampled clusters of battles."""
    cluster_N, n = numbered(clusters)
    start_K = table.coefficients(np.ones(len(cluster_N)), None)
    rng = np.random.default_rng(seed)
    coefficients = []
    for _ in range(rounds):
        counts_C = rng.multinomial(n, np.full(n, 1.0 / n)).astype(np.float64)
        coefficients.append(table.coefficients(counts_C[cluster_N], start_K))
    return np.array(coefficients)


def _style(styles: Styles, model: str, prompt: str | int) -> Style:
    style = styles.get(model, {}).get(prompt)
    if style is None:
        raise InputError(f"arena-hard: no answer of {model} to {prompt}, whose style is needed; give its answers")
    return style


def _counts(styles: Sequence[Style]) -> Array:
    """Tokens, headers, lists, bold of each style."""
    return np.array([_count(style) for style in styles], dtype=np.float64).reshape(-1, len(FEATURES))


def _count(style: Style) -> list[float]:
    counts: Style = style.get("metadata") or style.get("conv_metadata") or style
    missing = [name for name in ("token_len", *_COUNTS) if name not in counts]
    if missing:
        raise InputError(f"arena-hard: the style of an answer lacks {', '.join(missing)}")
    return [float(_total(counts[name])) for name in ("token_len", *_COUNTS)]


def _total(count: Any) -> float:
    return sum(count.values()) if isinstance(count, Mapping) else count


def _features(model_N4: Array, baseline_N4: Array) -> Array:
    model_tokens, baseline_tokens = model_N4[:, :1], baseline_N4[:, :1]
    tokens = model_tokens + baseline_tokens
    length = np.divide(model_tokens - baseline_tokens, tokens, out=np.zeros_like(tokens), where=tokens > 0.0)
    model_density = model_N4[:, 1:] / (model_tokens + 1.0)
    baseline_density = baseline_N4[:, 1:] / (baseline_tokens + 1.0)
    markdown = (model_density - baseline_density) / (model_density + baseline_density + 1.0)
    return np.concatenate([length, markdown], axis=1)
