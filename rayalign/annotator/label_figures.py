"""What the labels of a queue say: who agrees with whom, and which generator wins."""

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
    said: dict[Rater, dict[str, int]] = defaultdict(dict)
    for label in labels:
        if label.preference is not None:
            said[label.kind, label.labeller][label.pair] = (label.preference > 1.5) - (label.preference < 1.5) + 1
    prompts = {label.pair: label.prompt for label in labels}
    raters = sorted(said, key=lambda rater: (rater[0] != "human", rater[1]))
    cells = [_cell(a[1], b[1], said[a], said[b], prompts) for a, b in combinations(raters, 2)]
    humans = [rater for rater in raters if rater[0] == "human"]
    return AgreementReply(
        queue=queue,
        humans=tuple(name for _, name in humans),
        annotators=tuple(name for kind, name in raters if kind == "annotator"),
        cells=tuple(cells),
        fleiss=fleiss([said[rater] for rater in humans], prompts),
    )


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
    found = rate_interval([won for won, _ in wins], [prompt for _, prompt in wins])
    rates = {"win_rate": 100 * found.mean, "low": 100 * found.low, "high": 100 * found.high}
    return Rank(judge=judge, kind=kind, generator=generator, n=len(wins), **rates)


def _cell(a: str, b: str, of_a: Mapping[str, int], of_b: Mapping[str, int], prompts: Mapping[str, str]) -> Cell:
    both = [pair for pair in of_a if pair in of_b]
    if not both:
        return Cell(a=a, b=b, n=0, agreement=None, kappa=None, low=None, high=None)
    left, right = [of_a[pair] for pair in both], [of_b[pair] for pair in both]
    same = sum(x == y for x, y in zip(left, right, strict=True)) / len(both)
    kappa = cohen_kappa_interval(left, right, [prompts[pair] for pair in both])
    return Cell(a=a, b=b, n=len(both), agreement=same, **_told(kappa))


def _told(kappa: Interval) -> dict[str, float | None]:
    figures = zip(("kappa", "low", "high"), kappa[:3], strict=True)
    return {name: value if math.isfinite(value) else None for name, value in figures}


def fleiss(people: Iterable[Mapping[str, int]], prompts: Mapping[str, str]) -> Fleiss | None:
    """Fleiss' kappa of people's verdicts by pair (0, 1 a tie, 2), where the commonest number of people said one."""
    by_pair: dict[str, list[int]] = defaultdict(list)
    for said in people:
        for pair, verdict in said.items():
            by_pair[pair].append(verdict)
    sizes = Counter(len(verdicts) for verdicts in by_pair.values() if len(verdicts) > 1)
    if not sizes:
        return None
    raters, n = max(sizes.items(), key=lambda item: (item[1], item[0]))
    kept = {pair: verdicts for pair, verdicts in by_pair.items() if len(verdicts) == raters}
    counts = [[verdicts.count(verdict) for verdict in range(3)] for verdicts in kept.values()]
    kappa = fleiss_kappa_interval(counts, [prompts[pair] for pair in kept])
    return Fleiss(n=n, raters=raters, **_told(kappa))
