"""Agreement of all raters of a queue, and win rates of the generators, from its labels."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from rayalign.annotator.asking.label_api import AgreementReply, Cell, Fleiss, Rank
from rayalign.annotator.store.labels import Kind, Label
from rayalign.statistics.agreement import fleiss_kappa_interval
from rayalign.statistics.intervals import Interval, rate_interval
from rayalign.statistics.kappa_matrix import ABSENT, kappa_matrix

Rater = tuple[Kind, str]
MAX_RATERS = 100
"""of one matrix; of more, those with the most labels"""


def agreement(queue: str, labels: Sequence[Label]) -> AgreementReply:
    """The matrix of a queue's standing labels; those without a preference are left out."""
    verdicts: dict[Rater, dict[str, int]] = defaultdict(dict)
    for label in labels:
        if label.preference is not None:
            verdicts[label.kind, label.labeller][label.pair] = verdict_of(label.preference)
    prompts = {label.pair: label.prompt for label in labels}
    raters = _shown_raters(verdicts)
    humans = [rater for rater in raters if rater[0] == "human"]
    return AgreementReply(
        queue=queue,
        humans=tuple(name for _, name in humans),
        annotators=tuple(name for kind, name in raters if kind == "annotator"),
        cells=tuple(_cells(raters, verdicts, prompts)),
        fleiss=fleiss([verdicts[rater] for rater in humans], prompts),
        left_out=len(verdicts) - len(raters),
    )


def _shown_raters(verdicts: Mapping[Rater, Mapping[str, int]]) -> list[Rater]:
    """People first, by name; of more than `MAX_RATERS` those with the most labels."""
    busiest = sorted(verdicts, key=lambda rater: -len(verdicts[rater]))[:MAX_RATERS]
    return sorted(busiest, key=lambda rater: (rater[0] != "human", rater[1]))


def verdict_of(preference: float) -> int:
    """0 the first answer, 1 a tie, 2 the second."""
    return (preference > 1.5) - (preference < 1.5) + 1


def leaderboard(labels: Sequence[Label]) -> list[Rank]:
    """Win rates of the generators that the pairs name, by people and by each annotator, best first."""
    games: dict[tuple[Kind, str, str], list[tuple[float, str]]] = defaultdict(list)
    for label in labels:
        first, second = label.generators
        if label.preference is None or first is None or second is None or first == second:
            continue
        judge = "humans" if label.kind == "human" else label.labeller
        games[label.kind, judge, first].append((2.0 - label.preference, label.prompt))
        games[label.kind, judge, second].append((label.preference - 1.0, label.prompt))
    ranks = [_rank(*key, wins) for key, wins in games.items()]
    return sorted(ranks, key=lambda r: (r.kind != "human", r.judge, -r.win_rate, r.generator))


def _rank(kind: Kind, judge: str, generator: str, wins: Sequence[tuple[float, str]]) -> Rank:
    interval = rate_interval([won for won, _ in wins], [prompt for _, prompt in wins])
    rates = {"win_rate": 100 * interval.mean, "low": 100 * interval.low, "high": 100 * interval.high}
    return Rank(judge=judge, kind=kind, generator=generator, n=len(wins), **rates)


def _cells(
    raters: Sequence[Rater], verdicts: Mapping[Rater, Mapping[str, int]], prompts: Mapping[str, str]
) -> Iterator[Cell]:
    """Every two raters."""
    places = {pair: place for place, pair in enumerate(prompts)}
    labels = np.full((len(raters), len(places)), ABSENT, np.int8)
    for row, rater in enumerate(raters):
        verdicts_by_pair = verdicts[rater]
        columns = [places[pair] for pair in verdicts_by_pair]
        labels[row, columns] = list(verdicts_by_pair.values())
    for kappa in kappa_matrix(labels, list(prompts.values())):
        _, a = raters[kappa.a]
        _, b = raters[kappa.b]
        agreement = kappa.agreement if kappa.n else None
        yield Cell(a=a, b=b, n=kappa.n, agreement=agreement, **_figures(kappa.interval))


def _figures(kappa: Interval) -> dict[str, float | None]:
    figures = zip(("kappa", "low", "high"), kappa[:3], strict=True)
    return {name: value if math.isfinite(value) else None for name, value in figures}


def fleiss(people: Iterable[Mapping[str, int]], prompts: Mapping[str, str]) -> Fleiss | None:
    """Fleiss' kappa of people's verdicts by pair (0, 1 a tie, 2), over pairs with the commonest number of people."""
    by_pair: dict[str, list[int]] = defaultdict(list)
    for verdicts_of_person in people:
        for pair, verdict in verdicts_of_person.items():
            by_pair[pair].append(verdict)
    sizes = Counter(len(verdicts) for verdicts in by_pair.values() if len(verdicts) > 1)
    if not sizes:
        return None
    raters, n = max(sizes.items(), key=lambda item: (item[1], item[0]))
    complete = {pair: verdicts for pair, verdicts in by_pair.items() if len(verdicts) == raters}
    counts = [[verdicts.count(0), verdicts.count(1), verdicts.count(2)] for verdicts in complete.values()]
    kappa = fleiss_kappa_interval(counts, [prompts[pair] for pair in complete])
    return Fleiss(n=n, raters=raters, **_figures(kappa))
