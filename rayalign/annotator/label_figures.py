"""Agreement of all raters of a queue, and win rates of the generators, from its labels."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from rayalign.annotator.api import AgreementReply, Cell, Fleiss, Rank
from rayalign.annotator.labels import Kind, Label
from rayalign.statistics.agreement import cohen_kappa_interval, fleiss_kappa_interval
from rayalign.statistics.intervals import Interval, rate_interval

Rater = tuple[Kind, str]


def agreement(queue: str, labels: Sequence[Label]) -> AgreementReply:
    """The matrix of a queue's standing labels; those without a preference are left out."""
    verdicts: dict[Rater, dict[str, int]] = defaultdict(dict)
    for label in labels:
        if label.preference is not None:
            verdicts[label.kind, label.labeller][label.pair] = verdict_of(label.preference)
    prompts = {label.pair: label.prompt for label in labels}
    raters = sorted(verdicts, key=lambda rater: (rater[0] != "human", rater[1]))
    cells = []
    for a, b in combinations(raters, 2):
        cells.append(_cell(a[1], b[1], verdicts[a], verdicts[b], prompts))
    humans = [rater for rater in raters if rater[0] == "human"]
    annotators = [name for kind, name in raters if kind == "annotator"]
    kappa = fleiss([verdicts[rater] for rater in humans], prompts)
    return AgreementReply(
        queue=queue,
        humans=tuple(name for _, name in humans),
        annotators=tuple(annotators),
        cells=tuple(cells),
        fleiss=kappa,
    )


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


def _cell(a: str, b: str, of_a: Mapping[str, int], of_b: Mapping[str, int], prompts: Mapping[str, str]) -> Cell:
    both = [pair for pair in of_a if pair in of_b]
    if not both:
        return Cell(a=a, b=b, n=0, agreement=None, kappa=None, low=None, high=None)
    left, right = [of_a[pair] for pair in both], [of_b[pair] for pair in both]
    same = sum(x == y for x, y in zip(left, right, strict=True)) / len(both)
    kappa = cohen_kappa_interval(left, right, [prompts[pair] for pair in both])
    return Cell(a=a, b=b, n=len(both), agreement=same, **_figures(kappa))


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
