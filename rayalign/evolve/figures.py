"""What one round of evolution did, in figures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any

from rayalign.evolve.chains import Outcome
from rayalign.evolve.creator import Rated
from rayalign.evolve.gates import last_turn
from rayalign.evolve.lineage import Lineage, ancestor, generation
from rayalign.evolve.texts import distinct_share, shared_words
from rayalign.types import Prompt

DIFFICULTY = "difficulty"
"""key of `Prompt.meta` in worlds that know it"""


def lineages(written: Sequence[Prompt], outcome: Outcome, metric: str) -> Iterator[Lineage]:
    """Where each written prompt comes from, in their order."""
    new = {evolved.prompt.id: evolved for evolved in outcome.evolved}
    for prompt in written:
        if prompt.id in new:
            yield new[prompt.id].lineage(metric)
        else:
            meta = prompt.meta
            yield Lineage(prompt.id, meta.get("parent"), meta.get("operator"), generation(prompt))


def figures(
    prompts: Sequence[Rated], starts: Sequence[Rated], outcome: Outcome, written: Sequence[Prompt]
) -> dict[str, Any]:
    """For done.json: counts, refusals by reason, how much the prompts teach, how far and how wide they went."""
    new = [evolved.prompt for evolved in outcome.evolved]
    new_ids = {prompt.id for prompt in new}
    return {
        "rows": len(written),
        "evolved": sum(prompt.id in new_ids for prompt in written),
        "selected": len(starts),
        "attempts": outcome.attempts,
        "refused": dict(outcome.refused.most_common()),
        "operators": _counts(prompt.meta["operator"] for prompt in new),
        "generations": _counts(str(generation(prompt)) for prompt in written),
        "without_score": sum(prompt.value is None for prompt in prompts),
        "informativeness": _mean(prompt.value for prompt in prompts),
        "informativeness_selected": _mean(prompt.value for prompt in starts),
        "by_difficulty": by_difficulty(prompts, starts),
        "difficulty": {"before": _difficulty(p.prompt for p in prompts), "after": _difficulty(written)},
        "distinct": {
            "before": distinct_share(last_turn(prompt.prompt) for prompt in prompts),
            "after": distinct_share(map(last_turn, written)),
        },
        "ancestor_words": _mean(shared_words(ancestor(prompt), last_turn(prompt)) for prompt in new),
    }


def by_difficulty(prompts: Sequence[Rated], starts: Sequence[Rated]) -> dict[str, dict[str, float | int | None]]:
    """For each true difficulty the prompts of it, how much they teach, and how many were selected.

    The gap between the best and the worst reward stands beside whatever the stage measures, so that stages with
    different measures can be compared.
    """
    groups: dict[str, list[Rated]] = defaultdict(list)
    for prompt in prompts:
        if DIFFICULTY in prompt.prompt.meta:
            groups[prompt.prompt.meta[DIFFICULTY]].append(prompt)
    selected = Counter(prompt.prompt.meta.get(DIFFICULTY) for prompt in starts)
    table: dict[str, dict[str, float | int | None]] = {}
    for difficulty, group in sorted(groups.items()):
        informativeness = _mean(prompt.value for prompt in group)
        table[difficulty] = {
            "prompts": len(group),
            "informativeness": informativeness,
            "gap": _mean(_gap(prompt.rewards) for prompt in group),
            "selected": selected[difficulty],
        }
    return table


def _gap(rewards: Sequence[float | None]) -> float | None:
    present = [reward for reward in rewards if reward is not None]
    return max(present) - min(present) if present else None


def _difficulty(prompts: Iterable[Prompt]) -> float | None:
    return _mean(float(prompt.meta[DIFFICULTY]) if DIFFICULTY in prompt.meta else None for prompt in prompts)


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
